"""tools/torch_bench at small size: every form is measured, and its weights are those of an unsharded step."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tools" / "torch_bench"
FORMS = {"shardstep_shared", "shardstep_private", "ddp", "fsdp2", "fsdp2_reshard", "flat_reduce_scatter",
         "flat_point_to_point"}
STEPS = 3
FLOOR_MS = 2.0

pytestmark = pytest.mark.skipif(
    tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6),
    reason="the forms that Shardstep is compared with need torch 2.6",
)

# What shardstep_bench would say, from each rank of mpirun; the first writes.
BENCH = f"""#!{sys.executable}
import json, os, sys
flags = dict(a[2:].split("=") for a in sys.argv[1:])
assert flags["weights"] == "shared" and flags["update_threads"] == "1" and flags["model"] == "flat:72624", flags
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    row = dict(floor_ms={FLOOR_MS}, step_ms=3.0, clip=flags["clip"], ranks=os.environ["OMPI_COMM_WORLD_SIZE"])
    open(flags["json"], "a").write(json.dumps(row) + chr(10))
"""


def run(*arguments):
    command = [sys.executable, str(FOLDER / "step_bench.py"), "--model", "tiny", "--steps", str(STEPS), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    bench = folder / "shardstep_bench"
    bench.write_text(BENCH)
    bench.chmod(0o755)
    output = run("--rounds", "1", "--malloc", "default", "--clip", "0.01", "--bench", str(bench), "--json",
                 str(folder / "json"))
    assert output.returncode == 0, output.stderr
    return output.stdout, json.loads((folder / "json").read_text())


def test_every_form_has_a_row(result):
    table, everything = result
    rows = {row["form"]: row for row in everything["rows"]}
    assert set(rows) == FORMS | {"gradients_only", "shardstep_bench"}
    for form, row in rows.items():
        assert any(line.split()[0] == form for line in table.splitlines())
        if form != "shardstep_bench":
            assert len(row["milliseconds"]) == STEPS and min(row["milliseconds"]) > 0


def test_steps_are_told_by_what_they_add_and_by_the_floor(result):
    _, everything = result
    rows = {row["form"]: row for row in everything["rows"]}
    assert [floor["clip"] for floor in everything["floors"]] == ["0.01"] * 2
    assert [floor["ranks"] for floor in everything["floors"]] == ["2"] * 2
    for form in FORMS:
        row = rows[form]
        assert row["step_ms"] == pytest.approx(row["whole_ms"] - rows["gradients_only"]["whole_ms"])
        assert row["floor_ratio"] == pytest.approx(row["step_ms"] / FLOOR_MS)
        assert row["step_ms_p10"] <= row["step_ms"] <= row["step_ms_p90"]
    assert rows["shardstep_bench"]["floor_ratio"] == 1.5


def test_all_forms_end_in_the_unsharded_weights(result):
    _, everything = result
    differ = {row["form"]: row["differ"] for row in everything["rows"]}
    assert not everything["wrong"]
    for form in FORMS - {"ddp"}:
        assert differ[form] < 1e-3
    # Its sums are bf16.
    assert 0 < differ["ddp"] < 0.2


def test_the_python_layer_is_measured(result):
    _, everything = result
    layer = everything["layer"]
    assert layer["parameters"] == 28
    assert layer["native_us"] > 0 and layer["bare_us"] > 0


def weights_check(skip):
    """Runs the judge in a process of its own on weights that `skip` made."""
    program = f"""
import sys; sys.path.insert(0, {str(FOLDER)!r})
import dataclasses
from reference import compare, reference_weights
from settings import Settings
settings = Settings(model="tiny", rank=0, ranks=2, max_norm=None)
reference = reference_weights(settings, 3)
weights = {skip}
print(*[compare(weights, reference, settings, 3, in_bf16)[1] for in_bf16 in (False, True)])
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert output.returncode == 0, output.stderr
    return [float(share) for share in output.stdout.split()]


@pytest.mark.parametrize(
    "skip",
    [
        "reference_weights(settings, 2)",
        "reference_weights(dataclasses.replace(settings, ranks=1), 3)",
        "reference.roll(1)",
        "reference * float('nan')",
    ],
    ids=["a step", "a rank", "an element", "NaN"],
)
def test_who_skips_work_is_found(skip):
    assert min(weights_check(skip)) > 0.1


def test_the_reference_is_no_further_than_rounding_from_itself():
    assert weights_check("reference.clone()") == [0, 0]


def test_bad_names_are_refused():
    output = run("--forms", "ddp,horovod")
    assert output.returncode == 2 and '"horovod" is none of shardstep_shared' in output.stderr


def test_a_benchmark_that_fails_is_told():
    output = run("--forms", "ddp", "--malloc", "default", "--bench", "/bin/false")
    assert output.returncode == 1 and "/bin/false" in output.stderr and "exited with" in output.stderr


def test_a_rank_that_fails_is_named_with_what_it_said():
    program = f"""
import sys; sys.path.insert(0, {str(FOLDER)!r})
from rank_processes import run_form
from settings import Settings
run_form("horovod", Settings(model="tiny", rank=0, ranks=2, max_norm=None), 0, 1, "default")
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert re.search(r"RuntimeError: rank [01] exited with 1:.*KeyError: 'horovod'", output.stderr, re.DOTALL)
