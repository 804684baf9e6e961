"""An optimizer's whole state as torch keeps state: a dictionary of tensors on the CPU, free of any world size."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

import shardstep

from . import _groups
from ._groups import Settings
from ._parameters import OwnedParameters

_VERSION = 1

Groups = list[dict[str, Any]]


def pack(native: shardstep.ShardedOptimizer, parameters: OwnedParameters, groups: Groups) -> dict[str, Any]:
    """Collective. {"state": {index: {"master": fp32 tensor, ...}}, "param_groups": [...], "shardstep": counters}."""
    return {
        "state": {i: _tensors_of(native, parameters, groups, i) for i in range(len(parameters))},
        "param_groups": _pack_groups(groups),
        "shardstep": {
            "version": _VERSION,
            "counters": native.counters,
            "begin_applied_steps": [native.begin_applied_step(i) for i in range(len(parameters))],
        },
    }


class Unpacked:
    """What a state dictionary holds, found to fit. ValueError names what does not."""

    def __init__(
        self,
        state_dict: dict[str, Any],
        native: shardstep.ShardedOptimizer,
        parameters: OwnedParameters,
        settings: Settings,
        groups: Groups,
    ) -> None:
        try:
            own = state_dict.get("shardstep", {})
            if own.get("version") != _VERSION:
                raise ValueError("load_state_dict: not the state of a shardstep.torch.ShardedOptimizer of this version")
            self._counters = {name: int(own["counters"][name]) for name in native.counters}
            self._begins = [int(begin) for begin in own["begin_applied_steps"]]
            self._groups = _merge_groups(state_dict["param_groups"], groups)
            settings.refuse_unfit(native, self._groups)
            state = state_dict["state"]
            self._arrays = [_arrays_of(state.get(i, {}), parameters, groups, i) for i in range(len(parameters))]
        except (shardstep.Error, ValueError) as error:
            text = str(error)
            raise ValueError(text if text.startswith("load_state_dict") else f"load_state_dict: {text}") from error
        except Exception as error:
            raise ValueError(f"load_state_dict: malformed: {error!r}") from error
        self._names = parameters.names

    def give_to(self, native: shardstep.ShardedOptimizer, groups: Groups) -> None:
        """Collective."""
        # The library refuses bad counters on all ranks, before anything has changed.
        native.set_counters(self._counters, self._begins)
        for name, kinds in zip(self._names, self._arrays):
            for kind, values in kinds.items():
                native.set_state(name, kind, values)
        for group, loaded in zip(groups, self._groups):
            group.update(loaded)


def _moments_of(parameters: OwnedParameters, groups: Groups, i: int) -> dict[str, str]:
    return _groups.MOMENTS[groups[parameters.group_of[i]]["rule"]]


def _tensors_of(
    native: shardstep.ShardedOptimizer, parameters: OwnedParameters, groups: Groups, i: int
) -> dict[str, torch.Tensor]:
    kinds = {"master": "master", **_moments_of(parameters, groups, i)}
    tensors = {name: from_dlpack(native.read_state(parameters.names[i], kind)) for kind, name in kinds.items()}
    size, shape = parameters[i].numel(), parameters[i].shape
    return {name: tensor.reshape(shape) for name, tensor in tensors.items() if tensor.numel() == size}


def _arrays_of(
    saved: dict[str, Any], parameters: OwnedParameters, groups: Groups, i: int
) -> dict[str, torch.Tensor]:
    """{kind: one-dimensional fp32 tensor} of what the library keeps of parameter i."""
    name, shape = parameters.names[i], parameters[i].shape
    kinds = {"master": "master"}
    if parameters[i].requires_grad:
        kinds.update(_moments_of(parameters, groups, i))
    arrays = {}
    for kind, key in kinds.items():
        if key not in saved:
            raise ValueError(f'load_state_dict: there is no {key} of "{name}"; perhaps it was frozen then')
        values = torch.as_tensor(saved[key])
        if values.dtype != torch.float32 or values.shape != shape:
            raise ValueError(
                f'load_state_dict: {key} of "{name}" is {values.dtype} {list(values.shape)}, '
                f"must be torch.float32 {list(shape)}"
            )
        arrays[kind] = values.detach().cpu().contiguous().view(-1)
    return arrays


def _pack_groups(groups: Groups) -> Groups:
    packed, begin = [], 0
    for group in groups:
        end = begin + len(group["params"])
        packed.append({**{k: v for k, v in group.items() if k != "params"}, "params": list(range(begin, end))})
        begin = end
    return packed


def _merge_groups(saved: Groups, groups: Groups) -> Groups:
    """The groups with the settings that were saved."""
    sizes = [len(group["params"]) for group in groups]
    saved_sizes = [len(group["params"]) for group in saved]
    if sizes != saved_sizes:
        raise ValueError(f"load_state_dict: groups of {saved_sizes} parameters, and here of {sizes}")
    for index, (group, other) in enumerate(zip(groups, saved)):
        if group["rule"] != other["rule"]:
            raise ValueError(
                f"load_state_dict: param_groups[{index}]: the rule was {other['rule']}, here it is {group['rule']}"
            )
    return [{**group, **copy.deepcopy(other), "params": group["params"]} for group, other in zip(groups, saved)]
