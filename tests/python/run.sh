#!/usr/bin/env bash
# Usage: tests/python/run.sh [PYTEST_ARGUMENT...]
# Builds the wheel in an isolated environment, as pip does, installs it into a fresh virtual environment with numpy,
# pytest and mypy only, and runs the tests beside this script from an empty folder.
# Environment: BUILD_DIR (default build).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD

build_dir=${BUILD_DIR:-build}/python
rm -rf "$build_dir"
python3 -m venv "$build_dir/venv"
pip=("$build_dir/venv/bin/pip" --quiet --disable-pip-version-check)
# The CUDA backend is another library, which the other builds make.
"${pip[@]}" wheel --no-deps --wheel-dir "$build_dir/wheel" -C cmake.define.SHARDSTEP_WITH_CUDA=OFF .
"${pip[@]}" install "$build_dir"/wheel/*.whl numpy pytest mypy

python=$(realpath "$build_dir/venv")/bin/python
empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT
cd "$empty"
"$python" -m pytest --quiet -p no:cacheprovider "$root/tests/python" "$@"
echo "Left out: all that needs torch, which tests/run_torch.sh installs and tests."
