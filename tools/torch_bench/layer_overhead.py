"""What the Python of shardstep.torch adds to a step: prints one JSON object, of microseconds.

    layer_overhead.py MODEL

One rank, no others to wait for, and a model of MODEL's many parameters whose tensors are tiny. Four things in turn:

bare     forward, backward and zero_grad, without any hook
hooks    the same with a hook on each gradient that does nothing
whole    forward, backward and step of a ShardedOptimizer
native   the calls that a step makes of the library underneath, from a loop

layer_us = whole - bare - native: hooks, bringing each gradient to its place, and step(). hooks_us = hooks - bare is
the part of it that hooks of any kind take. In `whole` the library's threads work while Python does, so layer_us may be
too small, by native_us at most.
"""

import json
import statistics
import sys
import time

import torch
from shardstep.torch import ShardedOptimizer

from gpt2 import SIZES, Model, count_parameters, run_backward

_ROUNDS = 300


def _native_step(native, parameters):
    for p in reversed(range(parameters)):
        native.gradient_writable(p)
        native.gradient_ready(p)
    native.end_micro_step()
    native.step(learning_rate=1e-3, micro_batches=0, divisor=None, max_norm=None)
    native.finish_step()
    native.all_weights_ready()


def measure(model_name):
    size = SIZES[model_name]._replace(width=1, vocabulary=8, context=8)
    parameters, _ = count_parameters(size)
    bare, hooked, trained = (Model(size, rank=0) for _ in range(3))
    for parameter in hooked.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: None)
    optimizer = ShardedOptimizer(trained.named_parameters(), options="update_threads: 1")

    def backward_of(model):
        run_backward(model)
        model.zero_grad()

    def whole_step():
        run_backward(trained)
        optimizer.step()

    calls = {
        "bare": lambda: backward_of(bare),
        "hooks": lambda: backward_of(hooked),
        "whole": whole_step,
        "native": lambda: _native_step(optimizer.native, parameters),
    }
    times = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    optimizer.close()
    us = {name: 1e6 * statistics.median(values) for name, values in times.items()}
    return {
        "parameters": parameters,
        "layer_us": us["whole"] - us["bare"] - us["native"],
        "hooks_us": us["hooks"] - us["bare"],
        **{f"{name}_us": value for name, value in us.items() if name != "hooks"},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1])))
