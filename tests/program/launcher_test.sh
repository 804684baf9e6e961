#!/usr/bin/env bash
# R1 as a program: whatever way a job ends, the launcher's exit code says what to do next, and a line says why.
. "$(dirname "$0")/lib.sh"

# The ranks are shells: `on 1 COMMANDS` runs them on rank 1, while the others sleep.
on() { echo "if [ \$OMPI_COMM_WORLD_RANK = $1 ]; then $2; fi; exec sleep 29"; }

# A rank's own code is passed on; one that means nothing is an internal error.
for code in 1 64 65 70 74 75 78; do
  ends_with "$code" "$mpirun" 2 sh -c "$(on 1 "exit $code")"
  says_nothing_of "mpirun.sh:"
done
ends_with 70 "$mpirun" 2 sh -c "$(on 1 "exit 3")"
says "mpirun.sh: a rank exited with 3 (exit code 70)"
# An answer of one rank, when all are done.
ends_with 1 "$mpirun" 2 sh -c '[ "$OMPI_COMM_WORLD_RANK" = 1 ]'
# mpirun's own 1 is none.
ends_with 70 env OMPI_MCA_rmaps=nonesuch "$mpirun" 2 true
says "mpirun.sh: mpirun ended with 1 (exit code 70)"
ends_with 0 "$mpirun" 2 sh -c 'exit 0'
[ -z "$said" ] || fail "a job that ended well said: $said"

# A rank that is killed may be started again; one that crashes would crash again.
ends_with 75 "$mpirun" 2 sh -c "$(on 1 "kill -KILL \$\$")"
says "mpirun.sh: " "(exit code 75)"
ends_with 75 "$mpirun" 2 sh -c "$(on 1 "kill -TERM \$\$")"
says "mpirun.sh: " "(exit code 75)"
ends_with 70 "$mpirun" 2 sh -c "$(on 1 "ulimit -c 0; kill -SEGV \$\$")"
says "mpirun.sh: " "(exit code 70)"
# Which rank it was mpirun says mostly, and on a busy machine not always. When it does it is passed on.
mkdir "$work/bin"
cat >"$work/bin/mpirun" <<'END'
#!/bin/sh
echo "mpirun noticed that process rank 1 with PID 4711 on node n7 exited on signal $SIGNAL (Whatever)." >&2
exit $((128 + SIGNAL))
END
chmod +x "$work/bin/mpirun"
ends_with 75 env SIGNAL=9 PATH="$work/bin:$PATH" "$mpirun" 2 true
says "mpirun.sh: rank 1 on node n7 exited on signal 9 (Whatever) (exit code 75)"
ends_with 70 env SIGNAL=11 PATH="$work/bin:$PATH" "$mpirun" 2 true
says "mpirun.sh: rank 1 on node n7 exited on signal 11 (Whatever) (exit code 70)"

# What cannot start.
ends_with 64 "$mpirun" 0 true
ends_with 64 "$mpirun" 2
ends_with 78 "$mpirun" 2 "$work/missing"
says "mpirun.sh: cannot start $work/missing (exit code 78)"
ends_with 78 "$mpirun" --hostfile "$work/missing" 2 true
says "mpirun.sh: cannot read the hostfile $work/missing (exit code 78)"
echo "localhost slots=1" >"$work/small"
ends_with 78 "$mpirun" --hostfile "$work/small" 2 true
says "mpirun.sh: not enough slots for 2 ranks in $work/small (exit code 78)"
echo "192.0.2.1 slots=2" >"$work/far" # an address that belongs to nobody
ends_with 75 env OMPI_MCA_plm_rsh_agent=/bin/false "$mpirun" --hostfile "$work/far" 2 true
says "mpirun.sh: a host could not be reached or was lost (exit code 75)"
echo "localhost slots=3" >"$work/fits"
ends_with 0 "$mpirun" --hostfile "$work/fits" 3 sh -c 'echo "rank $OMPI_COMM_WORLD_RANK"'
says "rank 2"

# Standard input, and signals to the launcher, reach the ranks.
[ "$(echo "through" | "$mpirun" 1 cat)" = through ] || fail "standard input is lost"
echo "said: through"

# signaled CODE SIGNAL COMMANDS: the launcher of ranks that run COMMANDS gets SIGNAL.
signaled() {
  local launcher status=0
  "$mpirun" 2 sh -c "echo started; $3" >"$work/signaled" 2>&1 &
  launcher=$!
  for _ in $(seq 600); do
    [ "$(grep -c started "$work/signaled")" -lt 2 ] || break
    sleep 0.05
  done
  kill -s "$2" "$launcher"
  timeout 20 tail --pid="$launcher" -f /dev/null || fail "20 s after $2 the launcher is still there"
  wait "$launcher" || status=$?
  [ "$status" = "$1" ] || fail "after $2 it ended with $status, not $1: $(cat "$work/signaled")"
  echo "ended with $status after $2"
}
signaled 0 USR1 'trap "echo saved; exit 0" USR1; sleep 29 & wait'
[ "$(grep -c saved "$work/signaled")" = 2 ] || fail "USR1 did not reach both ranks: $(cat "$work/signaled")"
signaled 75 TERM 'exec sleep 29'
signaled 137 KILL 'exec sleep 28.75'
for _ in $(seq 100); do
  pgrep -f '^sleep 28.75' >/dev/null || break
  sleep 0.1
done
! pgrep -f '^sleep 28.75' >/dev/null || fail "ranks outlive the launcher"

# The trainer itself, with a rank that is killed in the middle of it.
"$mpirun" 2 "$train" "${small[@]}" --steps 100000 --micro_batches 2 --records "$work/killed.jsonl" >"$work/killed" 2>&1 &
launcher=$!
for _ in $(seq 600); do
  [ "$(cat "$work/killed.jsonl" 2>/dev/null | wc -l)" -lt 2 ] || break
  sleep 0.05
done
victim=$(pgrep --newest -f -- "^$train .*--records $work/killed.jsonl") || fail "no trainer runs: $(cat "$work/killed")"
kill -KILL "$victim"
timeout 30 tail --pid="$launcher" -f /dev/null || fail "30 s after a rank was killed the launcher is still there"
status=0
wait "$launcher" || status=$?
[ "$status" = 75 ] || fail "a killed rank of the trainer: ended with $status: $(cat "$work/killed")"
echo "ended with 75: one rank of the trainer killed"
