#!/usr/bin/env bash
# Usage: tools/scaling.sh [--FLAG VALUE]... [-- FLAG-OF-SHARDSTEP_BENCH...]
# How shardstep_bench's step scales: strong, where the parameters stay the same, and weak, where those of each rank do;
# over ranks on this host, and over hosts that tests/hosts.sh emulates. The first of each list is what the others are
# compared with.
#   --bench PROGRAM         build/release/tools/bench/shardstep_bench
#   --out DIR               for scaling.csv, scaling.svg and scaling.png (default build/scaling)
#   --mode strong|weak|both (default both)
#   --parameters N          in all when strong, of each rank when weak (default 20000000)
#   --ranks "N..."          (default "1 2 4"; "" leaves them out)
#   --hosts "N..."          up to 4 (default "1 2 4"; "" leaves them out, and so does, with a word on standard error, a
#                           machine where hosts cannot be emulated)
#   --ranks_per_host N      (default 1)
#   --rate RATE             of each host's link, in kbit, mbit or gbit a second (default: as fast as the machine)
# scaling.csv has the bench's columns and, behind them, the share of the ideal that is reached:
#   efficiency         strong: time * ranks of the first row / time * ranks of this one; weak: time of the first / time
#   floor_efficiency   the same of floor_ms instead of step_ms. Ranks on one host share its memory, and hosts of one
#                      machine share all but their links: the floor cannot scale either, and what is below it is ours
# Exit codes: 64 this command line is wrong, 77 only hosts were asked for and cannot be emulated, 78 no such program or
# no gnuplot, 74 what cannot be written, and those of deploy/mpirun.sh; scaling.csv then has what was measured.
set -euo pipefail
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
readonly root

# fail CODE WHY
fail() {
  echo "scaling.sh: $2" >&2
  exit "$1"
}

bench=$root/build/release/tools/bench/shardstep_bench
out=$root/build/scaling
mode=both
parameters=20000000
ranks='1 2 4'
hosts='1 2 4'
ranks_per_host=1
rate=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --*) [ $# -ge 2 ] || fail 64 "$1 needs a value, or is no flag" ;;
  esac
  case $1 in
    --bench) bench=$2 wanted=.+ ;;
    --out) out=$2 wanted=.+ ;;
    --mode) mode=$2 wanted='strong|weak|both' ;;
    --parameters) parameters=$2 wanted='[1-9][0-9]{0,12}' ;;
    --ranks) ranks=$2 wanted=' *([1-9][0-9]{0,3}( +|$))*' ;;
    --hosts) hosts=$2 wanted=' *([1-4]( +|$))*' ;;
    --ranks_per_host) ranks_per_host=$2 wanted='[1-9][0-9]{0,3}' ;;
    --rate) rate=$2 wanted='[1-9][0-9]{0,5}[kmg]bit' ;;
    *) fail 64 "\"$1\" is none of my flags; those of shardstep_bench follow --" ;;
  esac
  [[ $2 =~ ^($wanted)$ ]] || fail 64 "$1 \"$2\": not a value of it"
  shift 2
done
[ $# -eq 0 ] || shift
flags=("$@")
for flag in "${flags[@]}"; do
  case ${flag%%=*} in
    --model) fail 64 "$flag: --parameters says how many" ;;
    --json) fail 64 "$flag: --out says where" ;;
    --backward_ms | --kernels | --help) fail 64 "$flag: the floor is that of a step alone" ;;
  esac
done
[[ $ranks =~ [1-9] || $hosts =~ [1-9] ]] || fail 64 "--ranks and --hosts are both empty"
[[ -f $bench && -x $bench ]] || fail 78 "--bench $bench: no such program"
bench=$(readlink -f "$bench")
gnuplot --version >/dev/null 2>&1 || fail 78 "there is no gnuplot to draw with: apt-get install gnuplot-nox"
if [[ $hosts =~ [2-4] ]] && ! why=$("$root/tests/hosts.sh" check 2>&1); then
  echo "scaling.sh: nothing over hosts: $why" >&2
  hosts=
  [[ $ranks =~ [1-9] ]] || exit 77
fi
mkdir -p "$out" || exit 74
rm -f "$out"/scaling.{csv,svg,png} || exit 74
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# write_table [print]: from all lines so far.
write_table() {
  python3 - "$scratch" "$out/scaling.csv" "$rate" "${1:-}" <<'EOF'
import csv
import json
import os
import sys

scratch, path, rate, also_print = sys.argv[1:]


def fail(code, why):
    print(f"scaling.sh: {why}", file=sys.stderr)
    sys.exit(code)


rows = []
for scaling in "strong", "weak":
    for over in "ranks", "hosts":
        lines = os.path.join(scratch, f"{scaling}.{over}")
        first = {}
        for line in open(lines) if os.path.exists(lines) else ():
            row = json.loads(line, parse_float=str)  # as the bench wrote it
            # The bench's baselines are compared with themselves.
            reference = first.setdefault(row["wire"], row)
            if not (float(row["step_ms"]) and float(row["floor_ms"])):
                fail(64, f"--parameters: {row['parameters']} take no time")

            def efficiency(time):
                work = reference["ranks"] / row["ranks"] if scaling == "strong" else 1
                return f"{float(reference[time]) / float(row[time]) * work:.4f}"

            rows.append({"scaling": scaling, "over": over, "rate": rate if row["hosts"] > 1 else ""} | row |
                        {"efficiency": efficiency("step_ms"), "floor_efficiency": efficiency("floor_ms")})
if not rows:
    fail(78, "--bench: it measured nothing")
try:
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
except OSError as error:
    fail(74, error)
if also_print:
    print(path)
    columns = ["scaling", "over", "hosts", "ranks", "parameters", "wire", "step_ms", "step_ms_min", "step_ms_max",
               "floor_ms", "floor_ratio", "efficiency", "floor_efficiency"]
    cells = [columns] + [[str(row[column]) for column in columns] for row in rows]
    for line in cells:
        print("  ".join(cell.rjust(max(map(len, column))) for cell, column in zip(line, zip(*cells))))
EOF
}

# measure SCALING ranks|hosts COUNT: one line, or one for each baseline too.
measure() {
  local start=("$root/deploy/mpirun.sh" "$3") all=$3 total=$parameters status=0
  if [ "$2" = hosts ]; then
    all=$(($3 * ranks_per_host))
    start=("$root/deploy/mpirun.sh" "$all")
    [ "$3" -eq 1 ] || start=("$root/tests/hosts.sh" run "$3" "$ranks_per_host" ${rate:+--rate "$rate"})
  fi
  [ "$1" = strong ] || total=$((parameters * all))
  echo "scaling.sh: $1, $3 $2" >&2
  # Whatever ends this script ends what it has started.
  setpriv --pdeathsig TERM "${start[@]}" "$bench" --model "flat:$total" --json "$scratch/$1.$2" "${flags[@]}" >&2 ||
    status=$?
  [ "$status" -eq 0 ] || fail "$status" "$1 scaling ended at $3 $2 with $status"
  write_table
}

for scaling in strong weak; do
  [[ $mode = both || $mode = "$scaling" ]] || continue
  for count in $ranks; do measure "$scaling" ranks "$count"; done
  for count in $hosts; do measure "$scaling" hosts "$count"; done
done
(cd "$out" && gnuplot "$root/tools/scaling.gp") || fail 74 "gnuplot ended with $?, drawing in $out"
write_table print
