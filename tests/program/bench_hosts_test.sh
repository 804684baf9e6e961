#!/usr/bin/env bash
# shardstep_bench on emulated hosts: no weight is wrong in any mode of the wire, and its bytes are the table's. Skipped where
# hosts cannot be emulated. Nothing here is about how fast it is.
. "$(dirname "$0")/lib.sh"
hosts=$source_dir/tests/hosts.sh
bench=$binary_dir/tools/bench/shardstep_bench
"$hosts" check || exit

# right HOSTS RANKS_PER_HOST "NAME=VALUE ..." FLAG...
right() {
  rm -f "$work/rows.jsonl"
  said=$("$hosts" run "$1" "$2" "$bench" --model=flat:300000 --steps=2 --warmup=1 --check --json="$work/rows.jsonl" "${@:4}" \
    2>&1) || fail "${*:4} on $1 hosts of $2: ended with $?: $said"
  printf '%s\n' "$said" >"$work/said"
  # shellcheck disable=SC2086 # words
  python3 "$source_dir/tests/program/check_bench.py" "$work/said" "$work/rows.jsonl" 1 parameters=300000 hosts="$1" \
    ranks=$(($1 * $2)) $3 || fail "what ${*:4} on $1 hosts of $2 printed: $said"
  echo "right: $1 hosts of $2, ${*:4}"
}

right 2 2 wire=exact --micro_steps=2
right 2 2 wire=exact --sum_group=2 --master=split
right 2 2 "wire=host_sum micro_steps=2" --wire=host_sum --micro_steps=2
right 3 2 wire=host_sum --wire=host_sum --rule=lion
right 2 1 wire=exact --backward_ms=5
right 2 2 weights=private --weights=private --clip=off --nonfinite=ignore
