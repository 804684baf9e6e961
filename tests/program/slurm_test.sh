#!/usr/bin/env bash
# Usage: tests/program/slurm_test.sh SOURCE_DIR BINARY_DIR
# deploy/shardstep.sbatch, where a fake mpirun and scontrol stand for a cluster: when it asks to be started again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

mkdir "$work/bin"
cat >"$work/bin/mpirun" <<'END'
#!/usr/bin/env bash
while [ "$1" != -n ]; do shift; done
echo "ranks $2"
exec "${@:3}"
END
cat >"$work/bin/scontrol" <<'END'
#!/usr/bin/env bash
echo "$*" >>"$SCONTROL_LOG"
END
chmod +x "$work/bin/"*
export PATH=$work/bin:$PATH SCONTROL_LOG=$work/scontrol
export SLURM_JOB_ID=17 SLURM_NTASKS=6 SLURM_SUBMIT_DIR=$1

# batch SIGNAL CODE REQUEUED COMMANDS: the job runs COMMANDS, and gets SIGNAL unless that is none.
batch() {
  local job status=0
  : >"$work/scontrol"
  "$SLURM_SUBMIT_DIR/deploy/shardstep.sbatch" sh -c "$4" >"$work/log" 2>&1 &
  job=$!
  if [ "$1" != none ]; then
    for _ in $(seq 300); do
      ! grep -q started "$work/log" || break
      sleep 0.1
    done
    kill -s "$1" "$job"
  fi
  timeout 30 tail --pid="$job" -f /dev/null || fail "the job does not end: $(cat "$work/log")"
  wait "$job" || status=$?
  [ "$status" = "$2" ] || fail "signal $1, '$4': ended with $status, not $2: $(cat "$work/log")"
  [ "$(cat "$work/scontrol")" = "$3" ] || fail "signal $1, '$4': asked scontrol for '$(cat "$work/scontrol")'"
  grep -qx 'ranks 6' "$work/log" || fail "not the ranks of the allocation: $(cat "$work/log")"
  echo "signal $1, exit code $2: ${3:-not requeued}"
}
batch none 0 "" 'exit 0'
batch none 78 "" 'exit 78'
batch none 75 "requeue 17" 'exit 75'
batch USR1 0 "requeue 17" 'trap "echo saved; exit 0" USR1; echo started; sleep 20 & wait'
grep -qx saved "$work/log" || fail "USR1 did not reach the program"
batch USR1 74 "" 'trap "exit 74" USR1; echo started; sleep 20 & wait'
batch TERM 75 "" 'echo started; exec sleep 20'
