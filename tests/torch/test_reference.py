"""The bits: against AdamW written in torch on fp32 masters, over world sizes, and against the library without torch."""

import contextlib

import numpy
import pytest
import torch

import models
import shardstep
from ranks import run_ranks

STEPS = 20
# What docs/embedding.md says. Both round, at other places: torch interpolates the first moment, we add two products.
BOUND_ULPS = {"master": 20, "first_moment": 24, "second_moment": 8}


def run(steps, arguments, keep_gradients=False):
    """Trains; the state at the end, digests, and the gradients of this rank's micro-batches if they are kept."""
    model = models.make()
    optimizer = models.optimizer_of(model, **arguments)
    gradients = {}
    rank, world_size = models.place()
    for step in range(steps):
        if not keep_gradients:
            models.train_step(model, optimizer, step)
            continue
        for k in range(models.micro_steps()):
            last = k == models.micro_steps() - 1
            with contextlib.nullcontext() if last else optimizer.accumulate():
                models.loss_of(model, step, k * world_size + rank).backward()
                for i, parameter in enumerate(model.parameters()):
                    gradients[step, k * world_size + rank, i] = parameter.grad.clone()
        optimizer.step()
    optimizer.finish()
    names = [name for name, _ in model.named_parameters()]
    kinds = ("master", "first_moment", "second_moment")
    state = {k: [torch.from_dlpack(optimizer.native.read_state(n, k)).clone() for n in names] for k in kinds}
    digests = optimizer.digests()
    optimizer.close()
    return state, digests, gradients


@pytest.mark.parametrize("overlap_backward", [True, False])
@pytest.mark.parametrize("overlap_forward", [True, False])
def test_digests_are_equal_at_every_world_size_and_with_every_overlap(overlap_backward, overlap_forward):
    arguments = dict(overlap_backward=overlap_backward, overlap_forward=overlap_forward, max_norm=0.5,
                     options="bucket_bytes: 4096")
    expected = run_ranks(1, run, 5, dict(max_norm=0.5))[0][1]
    for world_size in (1, 2, 4):
        for _, digests, _ in run_ranks(world_size, run, 5, arguments):
            assert digests == expected


def torch_reference(gradients, steps, parameters):
    """AdamW of torch on fp32 masters, fed the fp32 mean of bf16 gradients, added in the order of micro-batches."""
    masters = [torch.nn.Parameter(p.detach().float().reshape(-1)) for p in parameters]
    adamw = torch.optim.AdamW(masters, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1, foreach=False)
    for step in range(steps):
        for i, master in enumerate(masters):
            total = torch.zeros_like(master)
            for number in range(models.MICRO_BATCHES):
                total += gradients[step, number, i].float().reshape(-1)
            master.grad = total / models.MICRO_BATCHES
        adamw.step()
    return {
        "master": [m.detach() for m in masters],
        "first_moment": [adamw.state[m]["exp_avg"] for m in masters],
        "second_moment": [adamw.state[m]["exp_avg_sq"] for m in masters],
    }


def ulps(ours, theirs):
    """The largest distance, in units in the last place of the value, or of the mean magnitude where that is larger:
    sums that cancel keep the error of what was added."""
    spacing = torch.from_numpy(numpy.spacing(numpy.abs(theirs.numpy()))).clamp_min(
        float(numpy.spacing(numpy.float32(theirs.abs().mean())))
    )
    return float(((ours - theirs).abs() / spacing).max())


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_equals_adamw_of_torch_on_fp32_masters(world_size):
    results = run_ranks(world_size, run, STEPS, {}, True)
    gradients = {key: value for result in results for key, value in result[2].items()}
    expected = torch_reference(gradients, STEPS, list(models.make().parameters()))
    for kind, bound in BOUND_ULPS.items():
        for i, (ours, theirs) in enumerate(zip(results[0][0][kind], expected[kind])):
            assert ulps(ours.reshape(-1), theirs) <= bound, f"{kind} of parameter {i}"


def test_equals_the_library_without_torch_fed_the_same_gradients():
    (_, digests, gradients), = run_ranks(1, run, STEPS, {}, True)
    model = models.make()
    parameters = list(model.named_parameters())
    alone = shardstep.ShardedOptimizer(
        shardstep.Job(),
        [shardstep.Parameter(name, list(p.shape)) for name, p in parameters],
        "group { adamw { beta2: 0.98 weight_decay: 0.1 } } micro_steps: 4",
    )

    def fill(p, begin, values):
        array = numpy.from_dlpack(values)
        array[:] = parameters[p][1].detach().float().reshape(-1)[begin : begin + array.size].numpy()

    alone.initialize(fill)
    for step in range(STEPS):
        for number in range(models.MICRO_BATCHES):
            for i in range(len(parameters)):
                alone.gradient_writable(i)
                bits = gradients[step, number, i].view(torch.int16).numpy().view(numpy.uint16)
                numpy.from_dlpack(alone.gradient(i, as_bits=True))[...] = bits
                alone.gradient_ready(i)
            alone.end_micro_step()
        alone.step(learning_rate=1e-2)
        alone.finish_step()
    assert alone.digests() == digests
