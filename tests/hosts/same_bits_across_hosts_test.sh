#!/usr/bin/env bash
# Usage: tests/hosts/same_bits_across_hosts_test.sh SOURCE_DIR BINARY_DIR
# One job on 1x1, 1x4, 2x2 and 4x1 hosts x ranks ends in the same bits, exact and with groups of two; each mode sends
# what the plan says, counted by the interfaces; a late rank does not hold up the others; W2: a link that is down for 5 s.
set -euo pipefail
source_dir=$1
job=$2/tests/hosts/hosts_job
hosts=$source_dir/tests/hosts.sh
mpirun=$source_dir/deploy/mpirun.sh
"$hosts" check || exit

work=$(mktemp -d)
id=
cleanup() {
  [ -z "$id" ] || "$hosts" down "$id"
  rm -rf "$work"
}
trap cleanup EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# digest COMMAND...
digest() {
  "$@" >"$work/out" 2>&1 || fail "$* ended with $?: $(cat "$work/out")"
  grep '^digest ' "$work/out" || fail "$* printed no digest: $(cat "$work/out")"
}

# same WHAT WANTED GOT
same() {
  [ "$2" = "$3" ] || fail "$1:
  expected $2
  got      $3"
  echo "same bits: $1"
}

# ---- The same bits ---------------------------------------------------------------------------------------------------
alone=$(digest "$mpirun" 1 "$job" 5 20000)
same "1x4" "$alone" "$(digest "$mpirun" 4 "$job" 5 20000)"
same "2x2" "$alone" "$(digest "$hosts" run 2 2 "$job" 5 20000)"
same "4x1" "$alone" "$(digest "$hosts" run 4 1 "$job" 5 20000)"
grep -q '^between 4 ranks, per rank and step: weights .* gradients .*; by mode: ' "$work/out" ||
  fail "4x1: it does not say what travels: $(cat "$work/out")"
same "2x2, a copy of the weights per rank" "$alone" "$(digest "$hosts" run 2 2 "$job" 5 20000 private)"

groups=$(digest "$mpirun" 1 "$job" 5 20000 sum_group=2)
[ "$groups" != "$alone" ] || fail "groups of two change nothing"
same "1x2 in groups of 2" "$groups" "$(digest "$mpirun" 2 "$job" 5 20000 sum_group=2)"
same "2x2 in groups of 2" "$groups" "$(digest "$hosts" run 2 2 "$job" 5 20000 sum_group=2)"

# ---- Bytes between hosts ---------------------------------------------------------------------------------------------
id=$("$hosts" up 2 --owner $$)

# sent_by STEPS ARGUMENT...: bytes that host 0 sent; the plan's figure per step is in $plan.
sent_by() {
  local before after
  before=$("$hosts" counters "$id" | awk '$1 == 0 { print $2 }')
  "$hosts" mpirun "$id" 2 "$job" "$1" 1000000 "${@:2}" >"$work/out" 2>&1 || fail "$* ended with $?: $(cat "$work/out")"
  after=$("$hosts" counters "$id" | awk '$1 == 0 { print $2 }')
  awk '$1 == "plan" { print $2 }' "$work/out" >"$work/plan"
  echo $((after - before))
}

# M2: of the large parameter nothing travels when it is frozen.
for mode in "" sum_group=2 rounded local frozen; do
  # What is sent besides the steps is the same in a long and a short run.
  # shellcheck disable=SC2086 # may be none
  short=$(sent_by 2 $mode) && long=$(sent_by 6 $mode)
  plan=$(cat "$work/plan")
  counted=$(((long - short) / 4))
  echo "${mode:-exact}: the plan says $plan bytes per host and step, $counted were counted"
  # The rest is headers and acknowledgements of TCP, and what keeps a connection alive.
  [[ $counted -ge $plan && $counted -le $((plan + plan / 10 + 20000)) ]] || fail "${mode:-exact}: $counted bytes, planned $plan"
done

# ---- Late ranks, bad links -------------------------------------------------------------------------------------------
"$hosts" mpirun "$id" 2 "$job" 3 400000 late=3 >"$work/out" 2>&1 || fail "late rank: ended with $?: $(cat "$work/out")"
grep '^others done' "$work/out"

# Some 2 MB per host and step at 100 Mbit/s: ten seconds without the flap, on however fast a machine.
long=$(digest "$mpirun" 4 "$job" 60 400000)
"$hosts" slow "$id" 1 100mbit
"$hosts" mpirun "$id" 2 "$job" 60 400000 >"$work/flap" 2>&1 &
running=$!
sleep 4
kill -0 "$running" 2>/dev/null || fail "the job was over before the link went down"
"$hosts" cut "$id" 1
sleep 5
kill -0 "$running" 2>/dev/null || fail "the job ended while the link was down: $(cat "$work/flap")"
"$hosts" heal "$id" 1
wait "$running" || fail "after the link came back it ended with $?: $(cat "$work/flap")"
same "2x2 with a link that was down for 5 s" "$long" "$(grep '^digest ' "$work/flap")"
! grep -i 'did not arrive' "$work/flap" || fail "a false alarm"
