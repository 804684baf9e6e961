#!/usr/bin/env bash
# Usage: tests/run_torch.sh [PYTEST_ARGUMENT...]
# The tests of shardstep.torch: makes a virtual environment with torch and transformers from PyPI (a few GB, once), builds
# the wheel as pip does, and runs tests/torch with it from an empty folder. Safe to repeat.
# Environment: BUILD_DIR (default build); TORCH (default torch), what pip installs: "torch==2.1.2 numpy<2".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

build_dir=${BUILD_DIR:-build}/torch
venv=$build_dir/venv
deploy/install_dependencies.sh
deploy/fetch_corpus.sh
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
read -ra torch <<<"${TORCH:-torch}"
"$venv/bin/pip" install --quiet --disable-pip-version-check "${torch[@]}" numpy pytest mypy transformers
rm -rf "$build_dir/wheel"
"$venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$build_dir/wheel" .
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$build_dir"/wheel/*.whl

python=$(realpath "$venv")/bin/python
empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT
cd "$empty"
exec env OMP_NUM_THREADS=1 "$python" -m pytest --quiet -p no:cacheprovider "$root/tests/torch" "$@"
