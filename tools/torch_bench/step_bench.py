"""How long the optimizer step of a PyTorch program takes, and how far that is from the floor of its bytes.

    python tools/torch_bench/step_bench.py --bench build/release/tools/bench/shardstep_bench --json FILE

Measures, in turn and with the same bf16 gradients, shardstep.torch.ShardedOptimizer and what one would write without
it: DistributedDataParallel with AdamW on fp32 copies, FSDP2, and flat buffers by hand; all on gloo, one thread per
rank. Each form has processes of its own in every round. All weights are compared with those of an unsharded step.
Without --clip only Shardstep takes the norm, and skips a step that is not finite: it always does. Columns:

step_ms, p10, p90   a training step less producing gradients, which is whole_ms less gradients_only's whole_ms;
                    median and percentiles
whole_ms            the training step: backward that writes gradients, exchange, update, weights on every rank
ratio               step_ms by the floor, which shardstep_bench measures before, between and after the rounds
bytes               per parameter of the model, of the rank that took most: how much more memory was resident at the
                    peak of a step than before the model was made; pages that n processes share count 1/n
differ              share of weights whose bits are not the unsharded step's: sums of gradients in bf16, or rounding
"""

import argparse
import json
import os
import platform
import statistics
import sys

import torch

from floor import run_shardstep_bench
from forms import FORMS, SUMS_IN_BF16
from gpt2 import SIZES, count_parameters
from rank_processes import MALLOCS, run_form, run_layer_overhead
from reference import compare, reference_weights
from results import Samples, bench_row, format_table, make_row
from settings import Settings

_BASE = "gradients_only"


class Measurement:
    """All rounds. `wrong` lists the forms whose weights are not those of the unsharded step."""

    def __init__(self, options):
        self._options = options
        self._settings = Settings(model=options.model, rank=0, ranks=options.ranks, max_norm=options.clip)
        self.samples = {(form, malloc): Samples() for malloc in options.malloc for form in [_BASE, *options.forms]}
        self.floors = []
        self.wrong = []
        _say("the unsharded step")
        self._trained_steps = options.warmup + options.steps
        self._reference = reference_weights(self._settings, self._trained_steps)

    def run(self):
        self._measure_floor()
        runs = list(self.samples)
        for round_ in range(self._options.rounds):
            # Nobody always follows the same one.
            shift = round_ * len(runs) // self._options.rounds
            for form, malloc in runs[shift:] + runs[:shift]:
                self._measure_form(form, malloc, f"round {round_ + 1} of {self._options.rounds}")
            self._measure_floor()

    def _measure_floor(self):
        if self._options.bench:
            _say("the floor")
            self.floors.append(run_shardstep_bench(self._options.bench, self._settings, self._options.steps))

    def _measure_form(self, form, malloc, when):
        _say(f"{when}: {form}, malloc {malloc}")
        options = self._options
        results, weights = run_form(form, self._settings, options.warmup, options.steps, malloc)
        differ = 0.0
        if form != _BASE:
            differ = self._check(form, results, weights)
        self.samples[form, malloc].add(results, differ)

    def _check(self, form, results, weights):
        if len({result["weights"] for result in results}) != 1:
            self.wrong.append(f"{form}: ranks have different weights")
        differ, off = compare(weights, self._reference, self._settings, self._trained_steps, form in SUMS_IN_BF16)
        if off:
            self.wrong.append(f"{form}: {off:.2e} of the weights are further off the unsharded step's than by rounding")
        return differ

    def rows(self):
        _, elements = count_parameters(self._settings.size)
        floor_ms = statistics.median(row["floor_ms"] for row in self.floors) if self.floors else None
        rows = [bench_row(self.floors)] if self.floors else []
        for (form, malloc), samples in self.samples.items():
            rows.append(make_row(form, malloc, samples, self.samples[_BASE, malloc], floor_ms, elements))
        return rows


def _say(what):
    print(f"# {what}", file=sys.stderr, flush=True)


def _clip(text):
    return None if text == "off" else float(text)


def _some_of(known):
    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f'"{name}" is none of {", ".join(known)}')
        return names

    return parse


def parse_options(arguments=None):
    forms = [form for form in FORMS if form != _BASE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="gpt2-124m", help="whose parameters (default gpt2-124m)")
    parser.add_argument("--bench", help="shardstep_bench; without it there is no floor and no ratio")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of new processes of every form (default 3)")
    parser.add_argument("--steps", type=int, default=7, help="measured in each round (default 7)")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them (default 2)")
    parser.add_argument("--clip", type=_clip, default=None, help="largest global norm, or off (default off)")
    parser.add_argument("--forms", type=_some_of(forms), default=forms, help=f"of {','.join(forms)} (default all)")
    parser.add_argument("--malloc", type=_some_of(MALLOCS), default=list(MALLOCS),
                        help="default: glibc's. kept: freed memory is used again, in huge pages (default both)")
    parser.add_argument("--json", help="everything, every step's time too, as one JSON object in this file")
    return parser.parse_args(arguments)


def _machine():
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
    }


def _print_layer(layer):
    print(
        f"# Python of shardstep.torch: {layer['layer_us']:.0f} us per step of {layer['parameters']} parameters, "
        f"{layer['hooks_us']:.0f} of them for hooks of any kind; without the library's calls "
        f"({layer['native_us']:.0f} us) and backward ({layer['bare_us']:.0f} us)"
    )


def main():
    options = parse_options()
    load_before = os.getloadavg()
    measurement = Measurement(options)
    measurement.run()
    layer = run_layer_overhead(options.model) if any(form.startswith("shardstep") for form in options.forms) else None
    rows = measurement.rows()
    parameters, elements = count_parameters(SIZES[options.model])
    clip = "off" if options.clip is None else options.clip
    print(f"# {options.model}: {elements} parameters in {parameters} tensors, {options.ranks} ranks, clip {clip}, "
          f"{options.rounds} rounds of {options.steps} steps; torch {torch.__version__}, fused AdamW")
    if measurement.floors:
        floors = [row["floor_ms"] for row in measurement.floors]
        print(f"# floor: {statistics.median(floors):.1f} ms, {min(floors):.1f} to {max(floors):.1f}")
    if layer:
        _print_layer(layer)
    print(f"# load average: {load_before[0]:.2f} before, {os.getloadavg()[0]:.2f} after")
    print(format_table(rows))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"options": vars(options), "machine": _machine(), "load_before": load_before,
                       "floors": measurement.floors, "layer": layer, "rows": rows, "wrong": measurement.wrong}, file)
    for wrong in measurement.wrong:
        print(f"step_bench.py: {wrong}", file=sys.stderr)
    return 1 if measurement.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
