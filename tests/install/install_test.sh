#!/usr/bin/env bash
# Usage: tests/install/install_test.sh SOURCE_DIR BUILD_DIR
# Installs the built tree elsewhere. Builds against it the C++ example, and what is beside this script, and runs the one
# for CPUs on RANKS ranks (environment, default 2); and the C example, which knows pkg-config only (c_test.sh).
set -euo pipefail
source_dir=$1
build_dir=$2
ranks=${RANKS:-2}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cmake --install "$build_dir" --prefix "$scratch/prefix" >/dev/null
cmake -S "$source_dir/tests/install" -B "$scratch/build" -G Ninja -DCMAKE_PREFIX_PATH="$scratch/prefix" -DCMAKE_BUILD_TYPE=Release
cmake --build "$scratch/build"
"$source_dir/deploy/mpirun.sh" "$ranks" "$scratch/build/train_cpp" | tee "$scratch/output"

# All ranks there, with the same weights.
[ "$(grep -c "^rank [0-9]* of $ranks: weights [0-9a-f]\{32\}\$" "$scratch/output")" -eq "$ranks" ]
[ "$(sed 's/.*weights //' "$scratch/output" | sort -u | wc -l)" -eq 1 ]

# All that a trainer for GPUs needs is there, the CUDA backend if it was built.
cuda=$(find "$scratch/prefix" -name libshardstep_cuda.so)
"$source_dir/deploy/mpirun.sh" 1 "$scratch/build/gpu" ${cuda:+"$cuda"}

"$source_dir/tests/install/c_test.sh" "$source_dir" "$scratch/prefix"
