#!/bin/sh
# Usage: keep_output.sh OBJECT COMMAND...
# Runs COMMAND, which makes OBJECT, and keeps what it says as OBJECT.log; shows it when the command fails.
log=$1.log
shift
"$@" >"$log" 2>&1 || {
  code=$?
  cat "$log"
  exit $code
}
