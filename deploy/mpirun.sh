#!/usr/bin/env bash
# Usage: deploy/mpirun.sh RANKS PROGRAM [ARGUMENT...]
# mpirun on this host with what it needs here: leave to run as root in containers, more ranks than cores without
# spinning, no binding of ranks to cores.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: deploy/mpirun.sh RANKS PROGRAM [ARGUMENT...]" >&2
  exit 64
fi
ranks=$1
shift
options=(--oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
[ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
# A rank's standard output is always a terminal of mpirun's own making; whether one stands behind it is known out here
# only, and to a caller that pipes this script's output to one.
if [ -z "${SHARDSTEP_TERMINAL_COLUMNS:-}" ]; then
  SHARDSTEP_TERMINAL_COLUMNS=0
  [ ! -t 1 ] || SHARDSTEP_TERMINAL_COLUMNS=$(tput cols 2>/dev/null || echo 80)
fi
export SHARDSTEP_TERMINAL_COLUMNS
options+=(-x SHARDSTEP_TERMINAL_COLUMNS)
exec mpirun "${options[@]}" -n "$ranks" "$@"
