#!/usr/bin/env bash
# R1, R6 as a program: one rank that fails, that was started otherwise, or that is killed ends the job at once, not when
# the others' deadlines (60 s) pass; the exit code is that of the rank that failed.
. "$(dirname "$0")/lib.sh"

job=("${small[@]}" --steps 100000 --micro_batches 2)

# Rank 0 alone writes records: it fails when it opens them, or when it has done the first step.
for records in /dev/full "$work/missing/records.jsonl"; do
  ends_with 74 "$mpirun" 2 "$train" "${job[@]}" --records "$records"
  says "cannot write $records"
  ends_with 74 "$train" --backend INPROC --ranks 2 "${job[@]}" --records "$records"
  says ": rank 0" "cannot write $records" # what rank 1 says
done

# Ranks that were started with different settings.
ends_with 78 "$mpirun" 1 "$train" "${job[@]}" --seed 1 : -n 1 "$train" "${job[@]}" --seed 2
says "ranks 0 and 1" "seed = 1" "seed = 2"
says_nothing_of "step 1/"

# One rank of two is killed without warning.
"$mpirun" 2 "$train" "${job[@]}" --records "$work/killed.jsonl" >"$work/killed.log" 2>&1 &
launcher=$!
for _ in $(seq 600); do
  [ "$(cat "$work/killed.jsonl" 2>/dev/null | wc -l)" -lt 2 ] || break
  sleep 0.05
done
mapfile -t ranks < <(pgrep -f -- "^$train .*--records $work/killed.jsonl")
[ ${#ranks[@]} = 2 ] || fail "not two ranks are running: ${ranks[*]}: $(cat "$work/killed.log")"
kill -KILL "${ranks[1]}"
timeout 30 tail --pid="$launcher" -f /dev/null || {
  kill -KILL "$launcher" "${ranks[0]}"
  fail "30 s after a rank was killed mpirun is still there: $(cat "$work/killed.log")"
}
status=0
wait "$launcher" || status=$?
[ "$status" != 0 ] || fail "mpirun ended well although a rank was killed: $(cat "$work/killed.log")"
! grep -q '^digest weights=' "$work/killed.log" || fail "a digest although a rank was killed"
! pgrep -f -- "--records $work/killed.jsonl" >/dev/null || fail "the other rank lives on"
echo "ended with $status: one rank of two killed"
