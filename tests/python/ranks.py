"""Runs a function on several ranks, each a process of its own, which meet by a job id."""

import multiprocessing
import os
import queue
import time
import traceback

import shardstep


def run_ranks(world_size, function, *args, timeout_seconds=120):
    """[function(job, *args) of rank 0, of rank 1, ...]; ("raised", text) where it raised, None where the rank died."""
    context = multiprocessing.get_context("spawn")
    ids, results = context.Queue(), context.Queue()
    processes = [
        context.Process(target=_rank_main, args=(function, args, rank, world_size, ids, results))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found = _collect(processes, results, time.monotonic() + timeout_seconds)
    for process in processes:
        process.join(10)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hung, f"ranks {hung} did not end"
    return [found.get(rank) for rank in range(world_size)]


def _collect(processes, results, deadline):
    """What ranks return, by rank, until all others have ended or the deadline has passed."""
    found = {}
    while len(found) < len(processes) and time.monotonic() < deadline:
        # Asked first: what a rank returned is in the queue before it ends.
        ended = all(rank in found or not process.is_alive() for rank, process in enumerate(processes))
        try:
            rank, found[rank] = results.get(timeout=0.1)
        except queue.Empty:
            if ended:
                break
    return found


def _rank_main(function, args, rank, world_size, ids, results):
    if rank == 0:
        job_id = shardstep.create_job_id("127.0.0.1")
        for _ in range(1, world_size):
            ids.put(job_id)
    else:
        job_id = ids.get(timeout=60)
    job = shardstep.Job(meet="tcp", id=job_id, rank=rank, world_size=world_size, deadline_seconds=60)
    try:
        results.put((rank, function(job, *args)))
    except BaseException:  # noqa: BLE001: the test shows it
        results.put((rank, ("raised", traceback.format_exc())))


def die(*_):
    """Ends this process at once, as a crash does."""
    os._exit(3)
