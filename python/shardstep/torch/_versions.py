"""Autograd's version counters, which tell it what was written since it saved a tensor."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.autograd.graph import increment_version


def _takes_many() -> bool:
    try:
        increment_version([torch.zeros(1)])
    except (TypeError, RuntimeError):  # before torch 2.5
        return False
    return True


_TAKES_MANY = _takes_many()


def bump_versions(tensors: Iterable[torch.Tensor]) -> None:
    """Tells autograd that these were changed in place, so that a graph that saved one of them refuses its backward."""
    if _TAKES_MANY:
        increment_version(list(tensors))
        return
    for tensor in tensors:
        increment_version(tensor)
