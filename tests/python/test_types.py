"""What a type checker sees of the package: its stubs and annotations are whole, and right for its own code."""

import subprocess
import sys

MODULES = ["shardstep", "shardstep._errors", "shardstep._native"]


def test_types_are_strict_and_right(tmp_path):
    modules = [f"--module={module}" for module in MODULES]
    checked = subprocess.run([sys.executable, "-m", "mypy", "--strict", *modules], capture_output=True, text=True,
                             cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_caller_with_wrong_types_is_told(tmp_path):
    (tmp_path / "caller.py").write_text(
        "import shardstep\n"
        "optimizer = shardstep.ShardedOptimizer(shardstep.Job(), [shardstep.Parameter('w', [4])])\n"
        "optimizer.step(learning_rate=0.1)\n"
        "rate: str = optimizer.finish_step().learning_rate\n"
        "optimizer.step(rate='high')\n"
    )
    checked = subprocess.run([sys.executable, "-m", "mypy", "--strict", "caller.py"], capture_output=True, text=True,
                             cwd=tmp_path)
    lines = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert [line.split(":")[1] for line in lines] in (["4", "5"], ["4", "5", "5"]), checked.stdout + checked.stderr
