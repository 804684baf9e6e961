"""Starts one_rank.py once for every rank, as torchrun would, and gathers what the ranks wrote."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import torch

# How glibc's malloc, which torch allocates tensors with, is set for a run.
#   default: what a user gets. Large blocks are mapped and unmapped, so their pages are touched anew in every step.
#   kept: what is freed stays with the process and is used again, in huge pages where the kernel has some.
MALLOCS = {
    "default": {},
    "kept": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    },
}
_LONGEST_SECONDS = 900
_FOLDER = pathlib.Path(__file__).resolve().parent


def environment(malloc):
    """Of a process that is alone, with one thread and no setting of malloc but these."""
    others = {"GLIBC_TUNABLES", "LD_PRELOAD", "RANK", "WORLD_SIZE"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k not in others}
    return {**kept, **MALLOCS[malloc], "OMP_NUM_THREADS": "1"}


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(rank, ranks, arguments, malloc, port, folder):
    place = dict(RANK=rank, WORLD_SIZE=ranks, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1",
                 MASTER_PORT=port)
    with open(folder / f"{rank}.log", "w", encoding="utf-8") as log:
        return subprocess.Popen([sys.executable, str(_FOLDER / "one_rank.py"), *arguments, str(folder)], stdout=log,
                                stderr=log, env={**environment(malloc), **{k: str(v) for k, v in place.items()}})


def _wait(processes, folder):
    """Ends when all have, or one has failed."""
    running = dict(enumerate(processes))
    waited = 0.0
    try:
        while running:
            for rank, process in list(running.items()):
                try:
                    code = process.wait(0.1)
                except subprocess.TimeoutExpired:
                    waited += 0.1
                    if waited > _LONGEST_SECONDS:
                        raise RuntimeError(f"rank {rank} did not end in {_LONGEST_SECONDS} s") from None
                    continue
                if code != 0:
                    raise RuntimeError(f"rank {rank} exited with {code}:\n{(folder / f'{rank}.log').read_text()}")
                del running[rank]
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def run_form(form, settings, warmup, steps, malloc):
    """(what one_rank.py wrote, by rank; the weights, bf16). RuntimeError says which rank failed, with its output."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        own = json.dumps({"model": settings.model, "max_norm": settings.max_norm})
        arguments = [form, own, str(warmup), str(steps)]
        port = _free_port()
        _wait([_start(r, settings.ranks, arguments, malloc, port, folder) for r in range(settings.ranks)], folder)
        results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(settings.ranks)]
        weights = torch.frombuffer(bytearray((folder / "weights").read_bytes()), dtype=torch.bfloat16)
        return results, weights


def run_layer_overhead(model):
    """What layer_overhead.py prints."""
    command = [sys.executable, str(_FOLDER / "layer_overhead.py"), model]
    output = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_SECONDS,
                            env=environment("default"))
    if output.returncode != 0:
        raise RuntimeError(f"layer_overhead.py exited with {output.returncode}:\n{output.stderr}")
    return json.loads(output.stdout)
