#!/usr/bin/env python3
# Usage: check_bench.py OUTPUT JSON CHECKED NAME=VALUE...: what shardstep_bench printed and appended to JSON says the same,
# its numbers follow from each other and from the table in docs/performance.md, the first row has these values, and no
# weight is wrong (CHECKED 1) or was compared (0).
import json
import math
import sys

COLUMNS = ("parameters ranks hosts rule master wire weights micro_steps clip step_ms step_ms_min step_ms_max "
           "bytes_per_parameter gb_per_s floor_ms floor_ratio exposed_ms wrong").split()

output, json_file, checked, *wanted = sys.argv[1:]
# "[host:pid] ...": mpirun's own warnings, on a busy machine.
lines = [line.split() for line in open(output) if not line.startswith(("#", "["))]
assert lines[0] == COLUMNS, lines[0]
rows = [dict(zip(COLUMNS, line)) for line in lines[1:]]
assert rows and all(len(line) == len(COLUMNS) for line in lines), lines
objects = [json.loads(line) for line in open(json_file)]
assert len(objects) == len(rows), (len(objects), len(rows))
for row, values in zip(rows, objects):
    assert list(values) == COLUMNS, list(values)
    for name, text in row.items():
        value = values[name]
        if text == "-":
            assert value is None, (name, value)
        elif isinstance(value, str):
            assert value == text, (name, value, text)
        else:
            assert value == float(text), (name, value, text)


def table(row, passes):
    n, k = row["ranks"], row["micro_steps"]
    if row["hosts"] > 1:
        value = 2 * n * k + 8 * k + 26
    elif k > 1:
        value = 2 * n * k + 8 * k + (26 if passes == 2 else 18)
    else:
        value = 26 + (min(4 * n, 2 * n + 8) if passes == 2 else 2 * n)
    value -= 2 if row["master"] == "split" else 0
    value -= 8 if row["rule"] != "adamw" else 0
    return value + (2 * (n - 1) if row["weights"] == "private" and row["hosts"] == 1 else 0)


def close(a, b, what):
    # Each was rounded to some thousandths.
    assert math.isclose(a, b, rel_tol=0.05, abs_tol=0.01), (what, a, b)


passes = 2
for name, _, value in (word.partition("=") for word in wanted):
    if name == "passes":
        passes = int(value)
    else:
        assert str(objects[0][name]) == value, (name, objects[0][name], value)
for row in objects:
    assert row["bytes_per_parameter"] == table(row, passes), (row, table(row, passes))
    assert 0 < row["step_ms_min"] <= row["step_ms"] <= row["step_ms_max"], row
    assert row["floor_ms"] > 0, row
    close(row["floor_ratio"], row["step_ms"] / row["floor_ms"], "floor_ratio")
    close(row["gb_per_s"], row["bytes_per_parameter"] * row["parameters"] / row["step_ms"] / 1e6, "gb_per_s")
assert objects[0]["wrong"] == (0 if checked == "1" else None), objects[0]
