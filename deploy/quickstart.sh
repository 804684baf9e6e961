#!/usr/bin/env bash
# Usage: deploy/quickstart.sh [FLAG...]  (flags of shardstep_train, e.g. --checkpoint_dir DIR)
# The main job from a clean clone: dependencies, corpus, a release build of the training program, training on RANKS ranks.
# Fails when the trained model predicts held-out text worse than the limit below. Safe to repeat.
# Environment: BUILD_DIR (default build; the release build is a folder in it), RANKS (default 2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A measured run reached 2.360; the same on every number of ranks.
readonly limit_bits_per_byte=2.41
readonly build_dir=${BUILD_DIR:-build}/release
readonly ranks=${RANKS:-2}

deploy/install_dependencies.sh
deploy/fetch_corpus.sh
cmake -S . -B "$build_dir" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSHARDSTEP_BUILD_TOOLS=ON -DSHARDSTEP_WITH_MPI=ON
cmake --build "$build_dir" --parallel "$(nproc)" --target shardstep_train

if [ -t 1 ]; then
  SHARDSTEP_TERMINAL_COLUMNS=$(tput cols 2>/dev/null || echo 80)
  export SHARDSTEP_TERMINAL_COLUMNS
fi
output=$(mktemp)
readonly output
trap 'rm -f "$output"' EXIT
deploy/mpirun.sh "$ranks" "$build_dir/tools/train/shardstep_train" --options deploy/shakespeare.textproto "$@" |
  tee "$output"

deploy/check_held_out.sh "$output" "$limit_bits_per_byte"
