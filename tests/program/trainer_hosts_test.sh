#!/usr/bin/env bash
# N1, L5 as a whole program: two emulated hosts of two ranks have the bits of one process. What travels is said, modes that
# are not exact are named, and a backend for one host refuses two. Skipped where hosts cannot be emulated.
. "$(dirname "$0")/lib.sh"
hosts=$source_dir/tests/hosts.sh
"$hosts" check || exit

job=("${small[@]}" --steps 8 --warmup_steps 2 --max_norm 0.5 --poison_step 3 --micro_batches 13)

# two_hosts FLAG...: sets $said.
two_hosts() {
  said=$("$hosts" run 2 2 "$train" "${job[@]}" --records "$work/records.jsonl" "$@" 2>&1) ||
    fail "on two hosts, with $*: ended with $?: $said"
}
last_line() { tail -n 1 <<<"$said"; }

exact=$(digest "$reference" "${job[@]}")
for flags in "" "--max_message_bytes 4096" "--weights PRIVATE"; do
  # shellcheck disable=SC2086 # words
  two_hosts $flags
  expect "$exact" "$(last_line)" "two hosts of two ranks, $flags"
  ! grep -q inexact_mode "$work/records.jsonl" || fail "an exact step is called inexact"
done
flags=(--rule lion --master SPLIT --sum_group 2)
two_hosts "${flags[@]}"
says "between 2 hosts" "gradients" "weights"
expect "$(digest "$reference" "${job[@]}" "${flags[@]}")" "$(last_line)" "two hosts of two ranks, ${flags[*]}"

# A timeline of all hosts, both levels of each operation.
two_hosts --trace "$work/trace.json"
expect "$exact" "$(last_line)" "two hosts of two ranks, traced"
python3 - "$work/trace.json" <<'EOF' || fail "the trace of two hosts"
import collections
import json
import sys

events = json.load(open(sys.argv[1]))["traceEvents"]
operations = collections.Counter(
    (event["pid"], event["name"], event["args"]["level"]) for event in events if event.get("cat") == "operation")
ranks = {pid for pid, _, _ in operations}
assert len(ranks) == 4, operations
for rank in ranks:
    for name in "Exchange", "Publish", "AllReduceSmall":
        assert operations[rank, name, "host"] == operations[rank, name, "network"] > 0, (rank, name, operations)
EOF
echo "traced: two hosts of two ranks"

two_hosts --host_sum ROUNDED
[ "$(grep -c '"inexact_mode":\["host_sum: ROUNDED"\]' "$work/records.jsonl")" = 8 ] ||
  fail "not every record says that it is not exact: $(head -n 1 "$work/records.jsonl")"
[ "$(last_line)" != "$exact" ] || fail "host_sum ROUNDED changed nothing"

# TCP is for one host. Rank 0 is in the background.
id=$("$hosts" up 2 --owner $$)
tcp=("$train" "${job[@]}" --backend TCP --ranks 2 --address 10.77.0.1:4000 --rank)
"$hosts" exec "$id" 0 "${tcp[@]}" 0 >"$work/rank0" 2>&1 </dev/null &
rank0=$!
ends_with 78 "$hosts" exec "$id" 1 "${tcp[@]}" 1
says "run.backend TCP, whose ranks must be on one host" "rank 0" "rank 1"
status=0
wait "$rank0" || status=$?
[ "$status" = 78 ] || fail "rank 0 ended with $status: $(cat "$work/rank0")"
"$hosts" down "$id"
