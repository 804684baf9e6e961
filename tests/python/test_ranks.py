"""Ranks that are processes: equal bits at every world size, state that moves, and failures that all hear of."""


import numpy
import pytest

import shardstep
import training
from ranks import die, run_ranks

STATE_KINDS = ("master", "first_moment", "second_moment")


def digests_after(job, steps):
    optimizer = training.make(job, job.world_size)
    training.train(optimizer, steps)
    return optimizer.digests(), optimizer.memory


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_digests_are_equal_at_every_world_size(world_size):
    alone = training.make(shardstep.Job())
    training.train(alone, 3)
    for digests, _ in run_ranks(world_size, digests_after, 3):
        assert digests == alone.digests()


def test_what_a_rank_holds_in_bytes_per_parameter():
    """docs/embedding.md: gradients 2, masters and moments 12 / N; here fp32 parameters have 4 and 8 / N."""
    bf16, fp32 = 37 * 61 + 61, 15
    padding = 4 * 1024 * 3
    for _, memory in run_ranks(3, digests_after, 1):
        assert 0 <= memory["gradient_bytes"] - (2 * bf16 + 4 * fp32) <= 4 * padding
        owned = memory["master_bytes"] + memory["state_bytes"]
        assert 0 <= owned - (12 * bf16 + 8 * fp32) / 3 <= 12 * padding


def save_state(job, path):
    optimizer = training.make(job, job.world_size)
    training.train(optimizer, 2)
    optimizer.save(path, b"two steps")
    arrays = {name: {kind: numpy.from_dlpack(optimizer.read_state(name, kind)) for kind in STATE_KINDS}
              for name, _, _ in training.PARAMETERS}
    return arrays, optimizer.counters


def carry_on(job, arrays, counters):
    optimizer = training.make(job, job.world_size)
    for name, kinds in arrays.items():
        for kind, values in kinds.items():
            optimizer.set_state(name, kind, values)
    optimizer.set_counters(counters)
    training.train(optimizer, 2, begin=2)
    return optimizer.digests()


def load_and_go_on(job, path):
    optimizer = training.make(job, job.world_size)
    assert optimizer.load(path) == (b"two steps", [])
    training.train(optimizer, 2, begin=2)
    return optimizer.digests()


def test_state_moves_to_another_world_size(tmp_path):
    arrays, counters = run_ranks(2, save_state, str(tmp_path))[1]
    whole = training.make(shardstep.Job())
    training.train(whole, 4)
    assert run_ranks(3, carry_on, arrays, counters) == [whole.digests()] * 3
    assert run_ranks(1, load_and_go_on, str(tmp_path)) == [whole.digests()]


def decide_together(job):
    """Two optimizers of one rank each, with parameters of their own; the second one's gradient is not finite once."""
    optimizer = shardstep.ShardedOptimizer(shardstep.Job(), [shardstep.Parameter("w", (3,), weight_dtype="fp32")])
    optimizer.initialize(lambda p, begin, values: None)
    shardstep.join_decisions(job, [optimizer], [f"stage {job.rank}"])
    records = []
    for step in range(2):
        optimizer.gradient_writable(0)
        numpy.from_dlpack(optimizer.gradient(0))[...] = numpy.inf if job.rank == step == 1 else 3.0 + job.rank
        optimizer.gradient_ready(0)
        optimizer.end_micro_step()
        optimizer.step(learning_rate=0.1, max_norm=1.0)
        records.append(optimizer.finish_step())
    place = records[1].non_finite
    return records[0].gradient_norm, records[1].applied, place.optimizer, place.parameter


def test_optimizers_that_decide_together_clip_and_skip_together():
    norm = (3 * 3.0**2 + 3 * 4.0**2) ** 0.5
    for found in run_ranks(2, decide_together):
        assert found == (pytest.approx(norm), False, "stage 1", "w")


def meet_differently(job):
    try:
        training.make(job, options=f"bucket_bytes: {4096 * (job.rank + 1)}")
    except shardstep.FailedPrecondition as error:
        return str(error)
    return "created"


def test_ranks_that_differ_are_named():
    for message in run_ranks(2, meet_differently):
        assert "bucket_bytes" in message and "ranks 0 and 1" in message


def raise_in_fill(job):
    parameters = [shardstep.Parameter("w", (5000,))]
    optimizer = shardstep.ShardedOptimizer(job, parameters, "wait_deadline_seconds: 20")

    def fill(p, begin, values):
        if job.rank == 1:
            raise KeyError("no such tensor")

    try:
        optimizer.initialize(fill)
        optimizer.gradient_writable(0)
        optimizer.gradient_ready(0)
        optimizer.end_micro_step()
        optimizer.step(learning_rate=1.0)
        optimizer.finish_step()
    except (KeyError, shardstep.Error) as error:
        return type(error).__name__, str(error)
    return "finished", ""


def test_a_rank_that_raises_ends_the_wait_of_others():
    results = run_ranks(2, raise_in_fill)
    assert results[1][0] == "KeyError"
    assert results[0][0] == "Aborted" and "rank 1" in results[0][1] and "no such tensor" in results[0][1]


def die_before_the_step(job):
    optimizer = training.make(job, 1, "wait_deadline_seconds: 3")
    if job.rank == 1:
        die()
    try:
        training.train(optimizer, 1)
    except shardstep.Error as error:
        return error.code, str(error)
    return "finished", ""


def test_a_rank_that_dies_is_named_within_the_deadline():
    results = run_ranks(2, die_before_the_step, timeout_seconds=40)
    assert results[1] is None
    assert results[0][0] in ("DEADLINE_EXCEEDED", "ABORTED") and "1" in results[0][1]


