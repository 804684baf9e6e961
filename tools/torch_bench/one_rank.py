"""One rank of one form, a process of its own: trains some steps, and writes what they took and what came out.

    one_rank.py FORM JSON_OF_SETTINGS WARMUP STEPS FOLDER

The environment is torchrun's. FOLDER gets RANK.json and, from rank 0, weights: the model's bf16 weights as int16.
"""

import dataclasses
import gc
import hashlib
import json
import pathlib
import sys
import time

import torch
import torch.distributed as dist

from forms import load_form
from process_memory import forget_peak, peak_proportional_bytes, proportional_bytes
from settings import Settings


def _run_once(make_form, settings):
    """A small model first: torch imports much when it is used, which is not the form's memory."""
    form = make_form(settings)
    form.step(0)
    del form
    gc.collect()


def measure(form_name, settings, warmup, steps, folder):
    make_form = load_form(form_name)
    _run_once(make_form, dataclasses.replace(settings, model="tiny"))
    dist.barrier()
    bytes_before = proportional_bytes()
    form = make_form(settings)
    spans = []
    for step in range(warmup + steps):
        if step == warmup:
            bytes_of_start = peak_proportional_bytes()
            forget_peak()
        dist.barrier()
        begin = time.perf_counter()
        form.step(step)
        spans.append((begin, time.perf_counter()))
    dist.barrier()
    peak = peak_proportional_bytes()
    dist.barrier()
    weights = torch.cat([w.reshape(-1) for w in form.weights()]).view(torch.int16)
    if settings.rank == 0:
        weights.numpy().tofile(folder / "weights")
    result = {
        "spans": spans[warmup:],
        "bytes": peak - bytes_before,
        "start_bytes": bytes_of_start - bytes_before,
        "weights": hashlib.sha256(weights.numpy()).hexdigest(),
    }
    (folder / f"{settings.rank}.json").write_text(json.dumps(result))
    dist.barrier()  # nobody leaves while another is still reading shared weights


def main():
    form, settings, warmup, steps, folder = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    settings = Settings(**json.loads(settings), rank=dist.get_rank(), ranks=dist.get_world_size())
    measure(form, settings, int(warmup), int(steps), pathlib.Path(folder))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
