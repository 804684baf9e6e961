"""Which job this process is a rank of, and how its ranks meet."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

import shardstep

_STORE_KEY = "shardstep/job_id"

_Answer = list[Any]  # a job id, or the error that there is none


def find_job(process_group: dist.ProcessGroup | None = None, **options: Any) -> shardstep.Job:
    """Describes the job that the launcher of this process made, as a shardstep.Job.

    Collective. Ranks are those of `process_group`; without one those of the default group where torch.distributed is
    initialized; else those that torchrun or mpirun started, which need no process group; else this process is alone.
    `options` go to shardstep.Job: device, compute_stream, gpu_transport, ... Each call makes a job of its own. Where
    torchrun's agent keeps no store, rank 0 listens at MASTER_PORT for good: initialize a process group before.
    """
    if process_group is not None or (dist.is_available() and dist.is_initialized()):
        return _job_of_group(process_group, options)
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        return _job_of_torchrun(options)
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return shardstep.Job(meet="mpi", **options)
    for variable in ("PMI_SIZE", "PMIX_RANK", "SLURM_PROCID"):
        if variable in os.environ:
            raise RuntimeError(
                f"{variable} is set: a launcher that is neither torchrun nor Open MPI's mpirun started this process; "
                "initialize torch.distributed first, or say which job with job="
            )
    return shardstep.Job(**options)


def _job_of_group(group: dist.ProcessGroup | None, options: dict[str, Any]) -> shardstep.Job:
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    if rank < 0:
        raise ValueError("process_group: this rank is not a member of it")
    hosts: list[Any] = [None] * world_size
    dist.all_gather_object(hosts, socket.gethostname(), group=group)
    answer: _Answer = [None, None]
    if rank == 0:
        answer = _try_to_create_id(_address_of_rank_0(options, one_host=len(set(hosts)) == 1))
    first = 0 if group is None else dist.get_global_rank(group, 0)
    dist.broadcast_object_list(answer, src=first, group=group)
    return _job(answer, rank, world_size, options)


def _job_of_torchrun(options: dict[str, Any]) -> shardstep.Job:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    agent_listens = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = _store(rank == 0 and not agent_listens, world_size)
    # A number of its own for every job: all ranks create them in the same order.
    key = f"{_STORE_KEY}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_Store.jobs}"
    _Store.jobs += 1
    if rank == 0:
        one_host = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
        answer = _try_to_create_id(_address_of_rank_0(options, one_host) or os.environ["MASTER_ADDR"])
        store.set(key, "\n".join(part or "" for part in answer))
    answer = [part or None for part in store.get(key).decode().split("\n", 1)]
    return _job(answer, rank, world_size, options)


class _Store:
    # One per process, kept: the port is taken as long as rank 0 listens there.
    instance: Any = None
    jobs = 0


def _store(listens: bool, world_size: int) -> Any:
    if _Store.instance is None:
        _Store.instance = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, listens, wait_for_workers=False
        )
    return _Store.instance


def _address_of_rank_0(options: dict[str, Any], one_host: bool) -> str:
    return options.get("host_address") or ("127.0.0.1" if one_host else "")


def _try_to_create_id(address: str) -> _Answer:
    # The others wait for the answer, so that they get the error too.
    try:
        return [shardstep.create_job_id(address), None]
    except shardstep.Error as error:
        return [None, str(error)]


def _job(answer: _Answer, rank: int, world_size: int, options: dict[str, Any]) -> shardstep.Job:
    job_id, error = answer
    if error:
        raise RuntimeError(f"rank 0 cannot be reached: {error}")
    return shardstep.Job(meet="tcp", id=job_id, rank=rank, world_size=world_size, **options)


def broadcast_from_rank_0(tensors: Iterable[torch.Tensor], process_group: dist.ProcessGroup | None) -> None:
    """Gives all ranks of an initialized process group rank 0's values, as DistributedDataParallel does."""
    first = 0 if process_group is None else dist.get_global_rank(process_group, 0)
    for tensor in tensors:
        values = tensor.detach().contiguous()
        # As bytes: not every backend knows every dtype.
        dist.broadcast(values.view(-1).view(torch.uint8), src=first, group=process_group)
        if values.data_ptr() != tensor.data_ptr():
            tensor.data.copy_(values)
