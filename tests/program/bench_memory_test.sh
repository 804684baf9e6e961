#!/usr/bin/env bash
# O3: at its peak a step of GPT-2's size holds the memory that was estimated, within 1 %, as the system counts it.
. "$(dirname "$0")/lib.sh"
bench=$binary_dir/tools/bench/shardstep_bench

# holds MEGABYTES FLAG...: the estimate is the sum of what a step needs for its 124.4 million parameters.
holds() {
  ends_with 0 "$mpirun" 2 "$bench" --model=gpt2-124m --steps=1 --warmup=1 "${@:2}"
  says "# memory: estimated $1 MB, counted by the system " " MB (" "at most "
  grep '^# memory:' <<<"$said" | python3 -c '
import re, sys
line = sys.stdin.read()
match = re.fullmatch(r"# memory: estimated ([\d.]+) MB, counted by the system ([\d.]+) MB \(([\d.]+)\), "
                     r"at most ([\d.]+) MB \(([\d.]+)\)\n", line)
assert match, line
estimated, now, now_ratio, peak, peak_ratio = map(float, match.groups())
for value, ratio in ((now, now_ratio), (peak, peak_ratio)):
    assert abs(ratio - value / estimated) < 1e-3, line
    assert 0.99 <= ratio <= 1.01, line
assert peak >= now, line
' || fail "with ${*:2} a step holds another amount of memory: $said"
  grep '^# memory:' <<<"$said"
}
# 124439808 parameters: two gradients and a weight of 2 bytes, and 12 of state.
holds 2240.5
# 2 less: half of each master is the weight.
holds 1991.5 --master=split
# 4 more: sums.
holds 2738.4 --micro_steps=2
# 2 more: a second copy of the weights.
holds 2489.4 --weights=private
