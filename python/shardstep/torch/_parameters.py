"""The parameters of an optimizer, which are views of the library's weight buffer from its construction to its close."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import torch
from torch.utils.dlpack import from_dlpack

import shardstep

from ._versions import bump_versions

_DTYPES = {torch.bfloat16: "bf16", torch.float32: "fp32"}

# id of a parameter: who keeps it, and in whose memory it is.
_owners: dict[int, weakref.ref[OwnedParameters]] = {}


def split_names(params: Iterable[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """(parameter groups without names, a name for each parameter in order) of what an optimizer is given."""
    if isinstance(params, (set, frozenset)):
        raise TypeError("params: a set has no order, and ranks must agree on one")
    params = list(params)
    if not params:
        raise ValueError("params: empty")
    groups = [dict(g) for g in params] if isinstance(params[0], dict) else [{"params": params}]
    names = []
    for g, group in enumerate(groups):
        members = group["params"]
        members = [members] if isinstance(members, torch.Tensor) else list(members)
        group["params"] = [m[1] if isinstance(m, tuple) else m for m in members]
        names += [m[0] if isinstance(m, tuple) else f"group {g}, parameter {i}" for i, m in enumerate(members)]
    return groups, names


class OwnedParameters:
    """Numbered as the library numbers them: in order, group after group."""

    def __init__(self, parameters: list[torch.Tensor], names: list[str], group_of: list[int]) -> None:
        self._parameters = parameters
        self.names = names
        self.group_of = group_of
        self._pointers: list[int] = []
        self._versions: list[int] = []
        for parameter, name in zip(parameters, names):
            owner = _owners.get(id(parameter), lambda: None)()
            if owner is not None:
                raise ValueError(f'"{name}" belongs to another ShardedOptimizer: close() that one first')

    def __getitem__(self, i: int) -> torch.Tensor:
        return self._parameters[i]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._parameters)

    def trained(self) -> list[int]:
        """Indices of those that require a gradient."""
        return [i for i, parameter in enumerate(self._parameters) if parameter.requires_grad]

    def device(self) -> torch.device:
        device = self._parameters[0].device
        for parameter, name in zip(self._parameters, self.names):
            if parameter.device != device:
                raise ValueError(
                    f'"{name}" is on {parameter.device}, "{self.names[0]}" on {device}: must be one device'
                )
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f'"{self.names[0]}" is on {device}: must be on a CPU or a CUDA device')
        return device

    def specs(self) -> list[shardstep.Parameter]:
        return [self._spec(i) for i in range(len(self))]

    def _spec(self, i: int) -> shardstep.Parameter:
        parameter = self._parameters[i]
        dtype = _DTYPES.get(parameter.dtype)
        if dtype is None:
            raise TypeError(f'"{self.names[i]}" is {parameter.dtype}; parameters must be bfloat16 or float32')
        return shardstep.Parameter(
            self.names[i],
            list(parameter.shape),
            weight_dtype=dtype,
            gradient_dtype=dtype,
            group=self.group_of[i],
            frozen=not parameter.requires_grad,
        )

    # ---- Ownership ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def move_to(self, native: shardstep.ShardedOptimizer) -> None:
        """Collective. Their values become the library's, and its weight buffer their memory."""
        values = [p.detach().reshape(-1) for p in self._parameters]

        def fill(p: int, begin: int, array: Any) -> None:
            master = from_dlpack(array)
            master.copy_(values[p][begin : begin + master.numel()])

        native.initialize(fill)
        native.all_weights_ready()
        for i, parameter in enumerate(self._parameters):
            weights = from_dlpack(native.weights(i))
            if not _same_bits(weights, values[i]):
                name = self.names[i]
                reason = f'"{name}" was not initialized alike on all ranks: use one seed, or broadcast it before'
                native.abort(reason)
                raise RuntimeError(reason)
            parameter.data = weights
        self.note_written()

    def own(self) -> None:
        """From now on nobody else can, until they have moved out."""
        ids = [id(parameter) for parameter in self._parameters]
        this = weakref.ref(self)
        _owners.update(dict.fromkeys(ids, this))
        self._disown = weakref.finalize(self, _disown, ids, this)

    def move_out(self) -> None:
        """Into memory of their own, with their values."""
        for parameter, pointer in zip(self._parameters, self._pointers):
            if parameter.data_ptr() == pointer:
                parameter.data = parameter.data.clone()
        self._disown()

    # ---- Writes that the master weights do not know of ---------------------------------------------------------------

    def note_written(self) -> None:
        """The master weights know of all that was written until now."""
        self._pointers = [p.data_ptr() for p in self._parameters]
        self._versions = [p._version for p in self._parameters]

    def written_by_library(self, frozen_too: bool = False) -> None:
        """Autograd is told so, for a graph that saved one of them to refuse its backward."""
        bump_versions(p for p in self._parameters if frozen_too or p.requires_grad)
        self._versions = [p._version for p in self._parameters]

    def refuse_changes(self, is_trained: Callable[[int], bool]) -> None:
        """RuntimeError names a parameter that was written since, moved, or frozen otherwise than `is_trained` says."""
        for i, parameter in enumerate(self._parameters):
            self.refuse_other_memory(i)
            if parameter._version != self._versions[i]:
                raise RuntimeError(
                    f'"{self.names[i]}" was written since the last step, and the master weights do not know of it: '
                    "call optimizer.adopt_weights() on all ranks, after all of them have written the same"
                )
            if parameter.requires_grad != is_trained(i):
                raise RuntimeError(f'requires_grad of "{self.names[i]}" was changed: use optimizer.set_frozen')

    def refuse_other_memory(self, i: int) -> None:
        if self._parameters[i].data_ptr() != self._pointers[i]:
            raise RuntimeError(
                f'"{self.names[i]}" is no longer in the optimizer\'s memory (model.to, .data = or load_state_dict with '
                "assign=True after construction): write parameters in place, or construct the optimizer afterwards"
            )


def _disown(ids: list[int], owner: weakref.ref[OwnedParameters]) -> None:
    for key in ids:
        if _owners.get(key) is owner:
            del _owners[key]


def _same_bits(weights: torch.Tensor, mine: torch.Tensor) -> bool:
    # A NaN is as good as any other value here.
    bits = torch.int16 if weights.dtype == torch.bfloat16 else torch.int32
    return torch.equal(weights.view(-1).view(bits), mine.contiguous().view(bits))
