"""From times of steps to a table."""

import statistics

_COLUMNS = (
    ("form", "<20", "form"),
    ("malloc", "<8", "malloc"),
    ("step_ms", ">9.1f", "step_ms"),
    ("p10", ">9.1f", "step_ms_p10"),
    ("p90", ">9.1f", "step_ms_p90"),
    ("whole_ms", ">9.1f", "whole_ms"),
    ("ratio", ">7.2f", "floor_ratio"),
    ("bytes", ">7.2f", "bytes_per_parameter"),
    ("differ", ">9.2e", "differ"),
)


def milliseconds_of(results):
    """Of each step, from the first rank's begin to the last one's end. Ranks of one host share the clock."""
    spans_of_steps = zip(*[result["spans"] for result in results])
    return [1e3 * (max(end for _, end in spans) - min(begin for begin, _ in spans)) for spans in spans_of_steps]


def _percentiles(values):
    if len(values) == 1:
        return values * 3
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[0], statistics.median(values), tenths[-1]


class Samples:
    """What one form took, in all rounds."""

    def __init__(self):
        self.milliseconds = []
        self.bytes = []
        self.start_bytes = []
        self.differ = 0.0

    def add(self, results, differ):
        self.milliseconds += milliseconds_of(results)
        self.bytes.append(max(result["bytes"] for result in results))
        self.start_bytes.append(max(result["start_bytes"] for result in results))
        self.differ = max(self.differ, differ)


def make_row(form, malloc, samples, gradients_only, floor_ms, elements):
    """One line of the table, a key for each column. `gradients_only`: samples of that form with this malloc."""
    low, median, high = _percentiles(samples.milliseconds)
    # Gradients are no part of the step, so the row of producing them has them whole.
    base = 0.0 if samples is gradients_only else statistics.median(gradients_only.milliseconds)
    step = median - base
    return {
        "form": form,
        "malloc": malloc,
        "step_ms": step,
        "step_ms_p10": low - base,
        "step_ms_p90": high - base,
        "whole_ms": median,
        "floor_ratio": None if floor_ms is None or samples is gradients_only else step / floor_ms,
        "bytes_per_parameter": statistics.median(samples.bytes) / elements,
        "start_bytes_per_parameter": statistics.median(samples.start_bytes) / elements,
        "differ": None if samples is gradients_only else samples.differ,
        "milliseconds": samples.milliseconds,
    }


def bench_row(rows):
    """The line of shardstep_bench, of its rows in all rounds."""
    step = statistics.median(row["step_ms"] for row in rows)
    return {
        "form": "shardstep_bench",
        "malloc": "-",
        "step_ms": step,
        "step_ms_p10": None,
        "step_ms_p90": None,
        "whole_ms": None,
        "floor_ratio": step / statistics.median(row["floor_ms"] for row in rows),
        "bytes_per_parameter": None,
        "differ": None,
    }


def format_table(rows):
    lines = [" ".join(f"{title:{_width(spec)}}" for title, spec, _ in _COLUMNS)]
    for row in rows:
        lines.append(" ".join(_cell(row[key], spec) for _, spec, key in _COLUMNS))
    return "\n".join(line.rstrip() for line in lines)


def _width(spec):
    return spec[0] + spec[1:].split(".")[0]


def _cell(value, spec):
    return f"{'-':{_width(spec)}}" if value is None else f"{value:{spec}}"
