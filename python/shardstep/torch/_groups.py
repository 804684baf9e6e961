"""torch.optim's parameter groups as the options of a Shardstep optimizer, in the text format of options.proto."""

from __future__ import annotations

import math
from typing import Any, Callable

import shardstep

Group = dict[str, Any]

RULES = ("adamw", "sgd", "lion")
MASTERS = ("fp32", "split", "none")
ROUNDINGS = ("nearest", "stochastic")

# The keys of a group that a rule reads, and their names there.
_SETTINGS: dict[str, dict[str, Callable[[Group], float]]] = {
    "adamw": {"beta1": lambda g: g["betas"][0], "beta2": lambda g: g["betas"][1], "epsilon": lambda g: g["eps"]},
    "sgd": {"momentum": lambda g: g["momentum"], "nesterov": lambda g: g["nesterov"]},
    "lion": {"beta1": lambda g: g["betas"][0], "beta2": lambda g: g["betas"][1]},
}

# What torch.optim calls the moments of a rule.
MOMENTS = {
    "adamw": {"first_moment": "exp_avg", "second_moment": "exp_avg_sq"},
    "sgd": {"first_moment": "momentum_buffer"},
    "lion": {"first_moment": "exp_avg"},
}


def _check(group: Group) -> None:
    # The library would name its own enumerators.
    for key, known in (("rule", RULES), ("master", MASTERS), ("rounding", ROUNDINGS)):
        if group[key] not in known:
            raise ValueError(f"{key} = {group[key]!r}: must be one of {', '.join(known)}")


def _text_of(group: Group, learning_rate_factor: float) -> str:
    # Message Group. The library says which value is out of range.
    _check(group)
    settings = {name: read(group) for name, read in _SETTINGS[group["rule"]].items()}
    settings["weight_decay"] = group["weight_decay"]
    settings["learning_rate_factor"] = learning_rate_factor
    fields = " ".join(f"{name}: {_number(value)}" for name, value in settings.items())
    return (
        f"{group['rule']} {{ {fields} }} master: {group['master'].upper()} rounding: {group['rounding'].upper()}"
    )


def _number(value: float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value))


def split_rates(groups: list[Group]) -> tuple[float, list[float]]:
    """The rate that a step is given, the highest of the groups', and each group's factor of it.

    Made from the groups' present rates alone: ranks compare the factors bit by bit."""
    rates = [float(group["lr"]) for group in groups]
    for rate in rates:
        if not (math.isfinite(rate) and rate >= 0):
            return rate, [1.0] * len(rates)  # the library refuses it
    highest = max(rates)
    if highest == 0:
        return highest, [1.0] * len(rates)
    return highest, [rate / highest for rate in rates]


class Settings:
    """The groups' settings as the library knows them."""

    def __init__(self, groups: list[Group]) -> None:
        _, self.texts = _texts_of(groups)

    def pass_on(self, native: shardstep.ShardedOptimizer, groups: list[Group]) -> float:
        """Tells the library what has changed. The rate to take the step with."""
        rate, texts = _texts_of(groups)
        for index, text in enumerate(texts):
            if text != self.texts[index]:
                native.set_group(index, text)
                self.texts[index] = text
        return rate

    def refuse_unfit(self, native: shardstep.ShardedOptimizer, groups: list[Group]) -> None:
        """Raises what the library says of settings that it does not take. Nothing has changed."""
        rate, texts = _texts_of(groups)
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"lr = {rate}: must be finite and not negative")
        try:
            for index, text in enumerate(texts):
                native.set_group(index, text)
        finally:
            for index, text in enumerate(self.texts):
                native.set_group(index, text)


def _texts_of(groups: list[Group]) -> tuple[float, list[str]]:
    rate, factors = split_rates(groups)
    return rate, [_text_of(group, factor) for group, factor in zip(groups, factors)]
