#!/usr/bin/env bash
# Usage: deploy/mpirun.sh [--hostfile FILE] RANKS PROGRAM [ARGUMENT...]
# mpirun, with what our jobs need and with an exit code that says what to do next:
#   1, 64, 65, 70, 74, 75, 78   what the first rank that failed exited with; 1 is no failure of the job, but a program's
#        answer (shardstep_bench: slower than asked)
#   64   this command line is wrong
#   70   a rank crashed (SIGSEGV, SIGABRT and the like), or exited with a code that means nothing here
#   75   a rank or a host was lost (SIGKILL, out of memory, no connection), or this script was told to stop: the same
#        command may succeed. When mpirun has not ended the job 30 s after a failure, a host does not answer any more
#   78   the hosts have too few slots, or there is no such program or hostfile
# For all of these but a rank's own code a last line on standard error says why. INT, TERM, HUP, USR1 and USR2 are passed
# on to mpirun; it forwards the last two to every rank.
# Without --hostfile and outside of Slurm all ranks run on this host, however few cores it has. FILE: see
# hostfile.example. Settings of Open MPI may be given as OMPI_MCA_<name>.
set -euo pipefail

usage() {
  echo "usage: deploy/mpirun.sh [--hostfile FILE] RANKS PROGRAM [ARGUMENT...]" >&2
  exit 64
}

# finish CODE WHY
finish() {
  echo "mpirun.sh: $2 (exit code $1)" >&2
  exit "$1"
}

hostfile=
if [ "${1:-}" = --hostfile ]; then
  [ $# -ge 2 ] || usage
  hostfile=$2
  shift 2
  [ -r "$hostfile" ] || finish 78 "cannot read the hostfile $hostfile"
fi
[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || usage
ranks=$1
shift

options=(--bind-to none --mca mpi_yield_when_idle 1)
if [ -n "$hostfile" ]; then
  options+=(--hostfile "$hostfile")
elif [ -z "${SLURM_JOB_ID:-}" ]; then
  options+=(--oversubscribe)
fi
[ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
# A rank's standard output is always a terminal of mpirun's own making; whether one stands behind it is known out here
# only, and to a caller that pipes this script's output to one.
if [ -z "${SHARDSTEP_TERMINAL_COLUMNS:-}" ]; then
  SHARDSTEP_TERMINAL_COLUMNS=0
  [ ! -t 1 ] || SHARDSTEP_TERMINAL_COLUMNS=$(tput cols 2>/dev/null || echo 80)
fi
export SHARDSTEP_TERMINAL_COLUMNS
options+=(-x SHARDSTEP_TERMINAL_COLUMNS)
# A host that vanishes without a word is missed after half a minute, not after eight.
export OMPI_MCA_oob_tcp_keepalive_time=${OMPI_MCA_oob_tcp_keepalive_time:-10}
export OMPI_MCA_oob_tcp_keepalive_intvl=${OMPI_MCA_oob_tcp_keepalive_intvl:-5}
export OMPI_MCA_oob_tcp_keepalive_probes=${OMPI_MCA_oob_tcp_keepalive_probes:-4}

# Over TCP both directions of a pair of ranks share one connection. Where bulk data is "put", the words that ask for more
# of it wait behind what is under way the other way, and the directions take turns: half the network's speed.
export OMPI_MCA_btl_tcp_flags=${OMPI_MCA_btl_tcp_flags:-1}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# mpirun's exit code alone does not tell a rank that exited with 1 from an unreachable host, nor a missing program (134)
# from a rank that was killed: what it says of them is kept while all passes through.
mkfifo "$scratch/stderr" "$scratch/copy"
grep --text --line-buffered --extended-regexp \
  -e '^Primary job +terminated normally, but' \
  -e '^There are not enough slots available' \
  -e '^mpirun was unable to (find|launch) the specified' \
  -e '^ *Executable: ' \
  -e '^ORTE (was unable to reliably start one or more daemons|has lost communication with a remote daemon)' \
  -e '^ORTE does not know how to route a message' \
  -e '^An ORTE daemon has unexpectedly failed' \
  -e '^mpirun noticed that process rank .* exited on signal' \
  <"$scratch/copy" >>"$scratch/said" &
listener=$!
tee -p "$scratch/copy" <"$scratch/stderr" >&2 &

# If this script is killed without a chance to pass it on, mpirun must not go on without it.
setpriv --pdeathsig TERM mpirun "${options[@]}" -n "$ranks" "$@" <&0 2>"$scratch/stderr" &
mpirun=$!

# mpirun waits without end for hosts that it has told to stop and that are cut off.
{
  until [ -s "$scratch/said" ] || ! kill -0 "$mpirun"; do sleep 1; done
  timeout 30 tail --pid="$mpirun" -f /dev/null || {
    touch "$scratch/stuck"
    kill -KILL "$mpirun"
  }
} </dev/null >/dev/null 2>&1 &

signaled=
stopped=
# shellcheck disable=SC2317 # the traps call it
pass_on() {
  signaled=1
  case $1 in
    INT | TERM | HUP)
      stopped=$1
      echo stopped >>"$scratch/said"
      ;;
  esac
  # A terminal sends its INT to mpirun too, which would take a second one for impatience.
  if [ "$1" != INT ] || [ ! -t 0 ]; then
    kill -s "$1" "$mpirun" 2>/dev/null || true
  fi
}
for signal in INT TERM HUP USR1 USR2; do
  # shellcheck disable=SC2064 # the name of now
  trap "pass_on $signal" "$signal"
done
while true; do
  signaled=
  status=0
  wait "$mpirun" 2>/dev/null || status=$?
  [ -n "$signaled" ] || break
done

# What mpirun had written last is on its way. Something that it started and that lives on may hold the pipe for longer.
timeout 5 tail --pid="$listener" -f /dev/null || true

# said REGEX: the first such line of mpirun, in $line.
said() { line=$(grep --text --max-count 1 --extended-regexp -e "$1" "$scratch/said"); }

[ "$status" -ne 0 ] || exit 0
[ ! -e "$scratch/stuck" ] || finish 75 "mpirun could not end the job in 30 s: a host does not answer"
if said '^There are not enough slots'; then
  finish 78 "not enough slots for $ranks ranks in ${hostfile:-the allocation}"
elif said '^mpirun was unable to (find|launch) the specified'; then
  said '^ *Executable: ' || line="Executable: $1"
  finish 78 "cannot start ${line#*Executable: }"
elif said '^(ORTE|An ORTE daemon)'; then
  finish 75 "a host could not be reached or was lost"
elif said '^mpirun noticed that process rank'; then
  line=${line#mpirun noticed that process }
  # shellcheck disable=SC2001 # a pattern with groups
  line=$(sed 's/ with PID [0-9]*//; s/\.$//' <<<"$line")
  # Signals that a program brings upon itself.
  ! [[ $line =~ 'signal '(4|5|6|7|8|11|31)' ' ]] || finish 70 "$line"
  finish 75 "$line"
fi
case $status in 64 | 65 | 70 | 74 | 75 | 78) exit "$status" ;; esac
[ -z "$stopped" ] || finish 75 "stopped by SIG$stopped"
if [ "$status" = 1 ]; then
  said '^Primary job' || finish 70 "mpirun ended with 1"
  exit 1
fi
# On a busy machine mpirun does not always say whom a signal ended.
case $status in 13[2-689] | 159) finish 70 "a rank ended on signal $((status - 128))" ;; esac
[ "$status" -le 128 ] || finish 75 "mpirun ended with $status"
finish 70 "a rank exited with $status"
