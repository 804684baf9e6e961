"""Ranks that are processes: equal bits at every world size, state that moves, and failures that all hear of."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy
import pytest

import shardstep
import training
from ranks import die, run_ranks

STATE_KINDS = ("master", "first_moment", "second_moment")
# Seconds, for which a rank that has failed goes on living: others that waited for its end would say that it has left.
LONG = 2


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
    arrays = {name: {kind: numpy.asarray(optimizer.read_state(name, kind)) for kind in STATE_KINDS}
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
        numpy.asarray(optimizer.gradient(0))[...] = numpy.inf if job.rank == step == 1 else 3.0 + job.rank
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


def raise_in_fill(job, others_do):
    optimizer = shardstep.ShardedOptimizer(job, [shardstep.Parameter("w", (5000,))])

    def fill(p, begin, values):
        if job.rank == 1:
            raise KeyError("no such tensor")

    try:
        optimizer.initialize(fill)
        others_do(optimizer)
    except (KeyError, shardstep.Error) as error:
        if job.rank == 1:
            time.sleep(LONG)  # it is still there, so that the others do not hear that it has ended
        return type(error).__name__, str(error)
    return "finished", ""


def take_a_step(optimizer):
    optimizer.gradient_writable(0)
    optimizer.gradient_ready(0)
    optimizer.end_micro_step()
    optimizer.step(learning_rate=1.0)
    optimizer.finish_step()


def meet(optimizer):
    optimizer.digests()


@pytest.mark.parametrize("others_do", [take_a_step, meet])
def test_a_rank_that_raises_in_fill_ends_the_wait_of_others(others_do):
    results = run_ranks(2, raise_in_fill, others_do)
    assert results[1][0] == "KeyError"
    name, message = results[0]
    assert name == "Aborted" and message.startswith("rank 1 ")
    assert message.endswith("initialize: fill raised KeyError: 'no such tensor'")


def close_inside_a_step(job):
    optimizer = training.make(job, 1)
    if job.rank == 1:
        optimizer.gradient_writable(0)
        kept = optimizer.gradient(0)
        optimizer.close()
        time.sleep(LONG)
        return kept.__dlpack_device__()
    with pytest.raises(shardstep.Aborted, match="rank 1 aborted: the optimizer was closed inside a step"):
        training.train(optimizer, 1)


def test_closing_inside_a_step_ends_it_though_arrays_are_kept():
    assert run_ranks(2, close_inside_a_step) == [None, (1, 0)]


def fork_inside_a_step(job):
    optimizer = training.make(job, job.world_size)
    optimizer.gradient_writable(0)
    child = os.fork()
    if child == 0:
        optimizer.close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    return training.train(optimizer, 1).applied


def test_a_forked_child_that_closes_inside_a_step_leaves_the_job_alone():
    assert run_ranks(2, fork_inside_a_step) == [True, True]


def abort_from_another_thread(job):
    optimizer = training.make(job, 1)
    if job.rank == 0:
        threading.Timer(0.3, optimizer.abort, ["the evaluation is hopeless"]).start()
    with pytest.raises(shardstep.Aborted, match="rank 0 aborted: the evaluation is hopeless") as raised:
        if job.rank == 0:
            training.train(optimizer, 1)  # which rank 1 does not take part in
        time.sleep(1)
        training.train(optimizer, 1)
    return raised.value.code, raised.value.cause


def test_any_thread_may_abort_while_another_waits():
    assert run_ranks(2, abort_from_another_thread) == [("ABORTED", "CANCELLED")] * 2


# mpirun may cut lines of output, so that ranks write to files.
MPI_PROGRAM = """
import numpy, pathlib, shardstep, sys, training
optimizer = training.make(shardstep.Job(meet="mpi"), {world_size})
training.train(optimizer, 2)
kept = numpy.asarray(optimizer.gradient(0, as_bits=True))
(pathlib.Path(sys.argv[1]) / str(optimizer.rank)).write_text(optimizer.digests()["master"])
"""


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_mpiruns_ranks(world_size, tmp_path):
    """They end in order, though nothing is closed and an array is kept."""
    folder = pathlib.Path(__file__).parent
    command = [folder.parent.parent / "deploy" / "mpirun.sh", str(world_size), sys.executable, "-c",
               MPI_PROGRAM.format(world_size=world_size), tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    alone = training.make(shardstep.Job())
    training.train(alone, 2)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {str(rank): alone.digests()["master"] for rank in range(world_size)}


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
