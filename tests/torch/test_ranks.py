"""Several ranks: how they meet, what they agree on, and state that moves to another world size."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

import models
import shardstep
import shardstep.torch
from ranks import run_ranks


def train(steps, arguments, begin=0, state=None, directory=None, seed_by_rank=False):
    """Trains from state or directory if there is one; (digests, state_dict, record's applied steps)."""
    model = models.make(seed=3 + (models.place()[0] if seed_by_rank else 0))
    optimizer = models.optimizer_of(model, **arguments)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    for step in range(begin, begin + steps):
        models.train_step(model, optimizer, step)
        scheduler.step()
    if directory is not None:
        optimizer.save(directory, b"from torch")
    saved = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    result = optimizer.digests(), saved, optimizer.record.applied_steps
    optimizer.close()
    return result


def load_and_train(directory, steps, begin):
    model = models.make(seed=9)
    optimizer = models.optimizer_of(model)
    caller_state, warnings = optimizer.load(directory)
    assert caller_state == b"from torch" and not warnings
    optimizer.param_groups[0]["lr"] = 1e-2
    for step in range(begin, begin + steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * 0.9**step
        models.train_step(model, optimizer, step)
    return optimizer.digests()


def differ_once(key, wrong):
    """Rank 1 has another value of a setting of the second group in step 1 of 5; a schedule scales all rates."""
    model = models.make()
    named = list(model.named_parameters())
    optimizer = models.optimizer_of(model, groups=[{"params": named[:2]}, {"params": named[2:], "lr": 1e-4}])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    errors = {}
    for step in range(5):
        group = optimizer.param_groups[1]
        right = group[key]
        if step == 1 and dist.get_rank() == 1:
            group[key] = wrong
        try:
            models.train_step(model, optimizer, step)
        except shardstep.FailedPrecondition as error:
            errors[step] = str(error)
        group[key] = right
        scheduler.step()
    return errors, optimizer.digests(), optimizer.record.applied_steps


@pytest.mark.parametrize("key, wrong", [("weight_decay", 0.2), ("lr", 2e-4)])
def test_a_setting_that_ranks_have_otherwise_is_named_by_the_step(key, wrong):
    results = run_ranks(2, differ_once, key, wrong)
    assert results[0] == results[1]
    errors, _, applied = results[0]
    assert list(errors) == [1] and applied == 4
    assert "ranks 0 and 1 called Step with different settings of group[1]; nothing was updated" in errors[1]


def load_other_values(directory):
    rank = dist.get_rank()
    model = models.make()
    optimizer = models.optimizer_of(model)
    models.train_step(model, optimizer, 0)
    optimizer.param_groups[0]["weight_decay"] = 0.3  # which save takes along
    optimizer.save(directory)
    digests, state = optimizer.digests(), optimizer.state_dict()
    if rank == 1:
        state["state"][2]["exp_avg"] = state["state"][2]["exp_avg"] + 1
    with pytest.raises(shardstep.FailedPrecondition, match="ranks 0 and 1 differ"):
        optimizer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="half-way"):
        models.train_step(model, optimizer, 1)
    optimizer.load(directory)
    assert optimizer.digests() == digests
    models.train_step(model, optimizer, 1)
    return optimizer.record.applied_steps


def test_a_step_after_a_load_that_failed_half_way_is_refused(tmp_path):
    assert run_ranks(2, load_other_values, str(tmp_path / "checkpoints")) == [2, 2]


def load_what_does_not_fit():
    rank = dist.get_rank()
    model = models.make()
    optimizer = models.optimizer_of(model)
    models.train_step(model, optimizer, 0)
    digests, state = optimizer.digests(), optimizer.state_dict()
    if rank == 1:
        del state["state"][2]["exp_avg"]
    with pytest.raises(ValueError if rank == 1 else shardstep.InvalidArgument) as raised:
        optimizer.load_state_dict(state)
    assert optimizer.digests() == digests
    models.train_step(model, optimizer, 1)
    return str(raised.value)


def test_a_state_that_does_not_fit_on_one_rank_is_refused_on_all():
    mine = 'load_state_dict: there is no exp_avg of "norm.weight"'
    others, own = run_ranks(2, load_what_does_not_fit)
    assert own.startswith(mine)
    assert others.startswith(f"rank 1: {mine}")


@pytest.mark.parametrize("master", ["fp32", "split"])
def test_state_dict_survives_another_world_size(master, tmp_path):
    arguments = dict(master=master, max_norm=0.5)
    whole = run_ranks(2, train, 6, arguments)[0]
    half = run_ranks(4, train, 3, arguments)
    assert all(torch.equal(half[0][1]["optimizer"]["state"][0]["master"],
                           other[1]["optimizer"]["state"][0]["master"]) for other in half)
    torch.save(half[0][1], tmp_path / "state")
    state = torch.load(tmp_path / "state")
    for world_size in (1, 2):
        for digests, _, applied in run_ranks(world_size, train, 3, arguments, 3, state):
            assert digests == whole[0] and applied == 6


def test_checkpoints_survive_another_world_size(tmp_path):
    run_ranks(2, train, 3, {}, 0, None, str(tmp_path / "checkpoints"))
    expected = run_ranks(1, train, 5, {})[0][0]
    for digests in run_ranks(4, load_and_train, str(tmp_path / "checkpoints"), 2, 3):
        assert digests["weights"] == expected["weights"]


def test_ranks_of_a_group_begin_with_rank_0s_values():
    alike = run_ranks(2, train, 2, {})
    different = run_ranks(2, train, 2, {}, 0, None, None, True)
    assert different[0][0] == different[1][0] == alike[0][0]


def construct_with_other_seeds():
    model = models.make(seed=int(os.environ["RANK"]))
    try:
        models.optimizer_of(model, micro_steps=1)
    except (RuntimeError, shardstep.Error) as error:
        return str(error)
    return "constructed"


def test_ranks_without_a_group_must_begin_alike():
    messages = run_ranks(2, construct_with_other_seeds, start="torchrun")
    assert any('"first.weight" was not initialized alike' in message for message in messages)


def train_without_group(steps):
    model = models.make()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    digests = []
    for _ in range(2):  # two jobs, one after the other
        optimizer = models.optimizer_of(model, micro_steps=1)
        for step in range(steps):
            models.loss_of(model, step, rank).backward()
            optimizer.step(micro_batches=world_size)
        digests.append(optimizer.digests())
        optimizer.close()
    return digests


def test_torchruns_ranks_need_no_process_group():
    results = run_ranks(2, train_without_group, 3, start="torchrun")
    assert results[0] == results[1] and results[0][0] != results[0][1]


def train_groups():
    """Two data-parallel groups of two ranks each, with models of their own."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    mine = dist.get_rank() % 2
    model = models.make(seed=mine)
    optimizer = models.optimizer_of(model, micro_steps=1, process_group=groups[mine])
    models.loss_of(model, 0, dist.get_rank(groups[mine])).backward()
    optimizer.step()
    assert optimizer.native.world_size == 2
    return optimizer.digests()


def test_ranks_of_a_group_of_some():
    results = run_ranks(4, train_groups)
    assert results[0] == results[2] and results[1] == results[3] and results[0] != results[1]


def disagree_on_the_rate():
    model = models.make()
    optimizer = models.optimizer_of(model, micro_steps=1)
    models.loss_of(model, 0, 0).backward()
    optimizer.param_groups[0]["lr"] = 0.5 + dist.get_rank()
    try:
        optimizer.step()
    except shardstep.FailedPrecondition as error:
        return str(error)
    return "stepped"


def test_ranks_that_disagree_are_told_by_name():
    for message in run_ranks(2, disagree_on_the_rate):
        assert re.search("ranks (0 and 1|1 and 0) called Step with different learning_rate", message), message


def some_have_no_batch():
    """Three micro-batches on two ranks: one rank's last micro-step is empty."""
    model = models.make()
    optimizer = models.optimizer_of(model, micro_steps=2)
    rank = dist.get_rank()
    with optimizer.accumulate():
        models.loss_of(model, 0, rank).backward()
    if rank == 0:
        models.loss_of(model, 0, 2).backward()
    optimizer.step(micro_batches=3)
    return optimizer.digests()


def three_micro_steps():
    model = models.make()
    optimizer = models.optimizer_of(model, micro_steps=3)
    for k in range(2):
        with optimizer.accumulate():
            models.loss_of(model, 0, k).backward()
    models.loss_of(model, 0, 2).backward()
    optimizer.step()
    return optimizer.digests()


def test_a_rank_may_run_out_of_micro_batches():
    expected = run_ranks(1, three_micro_steps)[0]
    assert run_ranks(2, some_have_no_batch) == [expected, expected]


MPI_PROGRAM = """
import sys; sys.path.insert(0, {folder!r})
import os, torch, models, shardstep, shardstep.torch
torch.set_num_threads(1)
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
model = models.make()
optimizer = models.optimizer_of(model, micro_steps=1)
for step in range(3):
    models.loss_of(model, step, rank).backward()
    optimizer.step()
print("digest", optimizer.digests()["weights"], flush=True)
optimizer.close()
"""


def test_mpiruns_ranks():
    mpirun = shutil.which("mpirun")
    assert mpirun, "the tests' machine has Open MPI"
    program = MPI_PROGRAM.format(folder=os.path.dirname(os.path.abspath(__file__)))
    command = [mpirun, "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "2",
               sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert output.returncode == 0, output.stderr
    digests = [line for line in output.stdout.splitlines() if line.startswith("digest")]
    assert len(digests) == 2 and digests[0] == digests[1]
