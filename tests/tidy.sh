#!/usr/bin/env bash
# Usage: tests/tidy.sh [FILE...]
# clang-tidy over FILEs, by default every source of the rooms, with the compile commands of BUILD_DIR (environment, default
# build/release). Takes minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build_dir=${BUILD_DIR:-build}/release
[ $# -gt 0 ] || mapfile -t all < <(git ls-files 'comm/*.cc' 'optimizer/*.cc' 'runtime/*.cc' 'tools/*.cc')
[ $# -gt 0 ] || set -- "${all[@]}"
# GCC's own flags mean nothing to it.
printf '%s\0' "$@" | xargs -0 -n 1 -P "$(nproc)" clang-tidy -p "$build_dir" --quiet
