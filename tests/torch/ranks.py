"""Runs a function on several ranks, each a process of its own, and gives back what each returned."""

import os
import socket
import tempfile
import traceback

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(world_size, function, *args, start="group", timeout_seconds=240):
    """[function(*args) of rank 0, of rank 1, ...]; function is a module's own, so that a process can import it.

    start: "group": torch.distributed is initialized (gloo); "torchrun": only the environment is torchrun's."""
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        context = mp.get_context("spawn")
        processes = [
            context.Process(target=_rank_main, args=(function, args, rank, world_size, start, port, folder))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout_seconds)
        hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
        assert not hung, f"ranks {hung} did not end in {timeout_seconds} s"
        return [_result(folder, rank, processes[rank]) for rank in range(world_size)]


def _rank_main(function, args, rank, world_size, start, port, folder):
    torch.set_num_threads(1)  # ranks outnumber cores
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      LOCAL_WORLD_SIZE=str(world_size), MASTER_PORT=str(port))
    try:
        if start == "group":
            dist.init_process_group("gloo")
        result = ("returned", function(*args))
        if start == "group":
            dist.destroy_process_group()
    except BaseException:  # noqa: BLE001: the test shows it
        result = ("raised", traceback.format_exc())
    torch.save(result, os.path.join(folder, str(rank)))


def _result(folder, rank, process):
    path = os.path.join(folder, str(rank))
    assert os.path.exists(path), f"rank {rank} died with exit code {process.exitcode}"
    kind, value = torch.load(path, weights_only=False)
    assert kind == "returned", f"rank {rank}:\n{value}"
    return value


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
