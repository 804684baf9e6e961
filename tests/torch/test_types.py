"""What a type checker sees of shardstep.torch."""

import subprocess
import sys

# Which of torch's own names and calls have types differs between its versions.
OPTIONS = ["--strict", "--no-warn-unused-ignores"]


def test_types_are_strict_and_right(tmp_path):
    checked = subprocess.run([sys.executable, "-m", "mypy", *OPTIONS, "--package=shardstep"], capture_output=True,
                             text=True, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
