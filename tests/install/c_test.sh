#!/usr/bin/env bash
# Usage: tests/install/c_test.sh SOURCE_DIR PREFIX
# Builds the C example as its head says, in strict C99, against what is installed at PREFIX. It must learn, and end with
# the same digests alone, on 1, 2 and 4 ranks, and after a stop on another number of them.
set -euo pipefail
source_dir=$1
prefix=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# Nothing but what is installed there, wherever that was meant to be.
PKG_CONFIG_LIBDIR=$(dirname "$(find "$prefix" -name shardstep.pc)")
export PKG_CONFIG_LIBDIR
# shellcheck disable=SC2046 # options
cc -std=c99 -pedantic -Wall -Wextra -Werror "$source_dir/examples/train_c.c" \
  $(pkg-config --cflags --libs shardstep) "-Wl,-rpath,$(pkg-config --variable=libdir shardstep)" -lm -o "$work/train_c"
needed=$(ldd "$work/train_c")
grep -q "libshardstep.so.* => $prefix/" <<<"$needed" || fail "another libshardstep.so: $needed"

# train NAME STEPS MEETING COMMAND...: the last line, of digests.
train() {
  local name=$1 steps=$2 meeting=$3
  shift 3
  "$@" "$work/train_c" "$meeting" "$steps" "$work/$name" >"$work/$name.log" || fail "$name: $(cat "$work/$name.log")"
  tail -n 1 "$work/$name.log"
}

expected=$(train alone 400 alone env)
[[ $expected =~ ^digest\ weights=[0-9a-f]{32}\ master=[0-9a-f]{32}\ first ]] || fail "no digests: $expected"
right=$(sed -n 's/^\([0-9]*\)\.[0-9] % of .* right$/\1/p' "$work/alone.log")
[ "$right" -ge 90 ] || fail "it has not learned: $(cat "$work/alone.log")"
grep -q '^step 400: gradient norm .* record of [1-9][0-9]* bytes' "$work/alone.log" || fail "$(cat "$work/alone.log")"
for ranks in 1 2 4; do
  digests=$(train "ranks_$ranks" 400 mpi "$source_dir/deploy/mpirun.sh" "$ranks")
  [ "$digests" = "$expected" ] || fail "$ranks ranks ended with $digests, not $expected"
done
train stopped 150 mpi "$source_dir/deploy/mpirun.sh" 2 >/dev/null
digests=$(train stopped 400 mpi "$source_dir/deploy/mpirun.sh" 4)
grep -q '^resumed: 38400 points seen' "$work/stopped.log" || fail "not resumed: $(cat "$work/stopped.log")"
[ "$digests" = "$expected" ] || fail "resumed on 4 ranks it ended with $digests, not $expected"
echo "C: $expected"
