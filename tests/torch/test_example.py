"""The example: its loss falls as the baseline's does, and the README shows how the two differ."""

import difflib
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
STEPS = 120
# Of held-out loss in nats per byte. Measured: at most 0.02 apart; another seed moves either by more.
TOLERANCE = 0.06


def text():
    """The corpus that deploy/fetch_corpus.sh fetches."""
    path = pathlib.Path(os.environ.get("SHARDSTEP_CORPUS", ROOT / "data" / "shakespeare.txt"))
    assert path.exists(), f"{path}: run deploy/fetch_corpus.sh"
    return path


def run(script, ranks):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
               str(EXAMPLES / script), "--data", str(text()), "--steps", str(STEPS), "--report_steps", "40"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=600,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert output.returncode == 0, output.stderr
    return [line for line in output.stdout.splitlines() if line.startswith("step")]


def held_out(lines):
    return [float(re.search(r"held_out ([0-9.]+)", line).group(1)) for line in lines]


@pytest.fixture(scope="module")
def curves():
    return {"ddp": run("train_gpt_ddp.py", 2), "one": run("train_gpt_torch.py", 1), "two": run("train_gpt_torch.py", 2)}


def test_loss_falls_as_with_distributed_data_parallel(curves):
    baseline, ours = held_out(curves["ddp"]), held_out(curves["two"])
    assert len(baseline) == len(ours) == STEPS // 40
    assert ours[-1] < ours[0] - 0.15
    for expected, value in zip(baseline, ours):
        assert abs(value - expected) < TOLERANCE, (baseline, ours)


def test_the_held_out_loss_is_the_same_on_one_rank_and_on_two(curves):
    assert held_out(curves["one"]) == held_out(curves["two"])


def test_readme_shows_the_difference():
    scripts = [(EXAMPLES / name).read_text().splitlines() for name in ("train_gpt_ddp.py", "train_gpt_torch.py")]
    difference = difflib.unified_diff(*scripts, n=0, lineterm="")
    changed = [line for line in difference if line[0] in "+-" and not line.startswith(("---", "+++"))]
    # What a script says of itself is not what it does.
    changed = [line for line in changed if '"""' not in line and "torchrun" not in line]
    shown = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1).splitlines()
    assert [line for line in shown if line and not line.startswith(" ")] == [c for c in changed if c != "+"]
    assert len([line for line in shown if line.startswith("+")]) <= 10
