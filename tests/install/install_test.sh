#!/usr/bin/env bash
# Usage: tests/install/install_test.sh SOURCE_DIR BUILD_DIR
# Installs the built tree elsewhere, builds the trainer beside this script against it, and runs it on two ranks.
set -euo pipefail
source_dir=$1
build_dir=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cmake --install "$build_dir" --prefix "$scratch/prefix" >/dev/null
cmake -S "$source_dir/tests/install" -B "$scratch/build" -DCMAKE_PREFIX_PATH="$scratch/prefix" -DCMAKE_BUILD_TYPE=Release
cmake --build "$scratch/build"
"$source_dir/deploy/mpirun.sh" 2 "$scratch/build/quadratic" | tee "$scratch/output"

# The same weights on both ranks, and both ranks there.
[ "$(grep -c '^rank [01] of 2: weights [0-9a-f]\{32\}$' "$scratch/output")" -eq 2 ]
[ "$(sed 's/.*weights //' "$scratch/output" | sort -u | wc -l)" -eq 1 ]
