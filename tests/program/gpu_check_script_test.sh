#!/usr/bin/env bash
# Usage: gpu_check_script_test.sh SOURCE_DIR BINARY_DIR
# The table of tools/gpu_check.sh and its exit code, over a program, a compute-sanitizer and a python that say what the
# test wants.
set -euo pipefail
source_dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

mkdir "$work/bundle" "$work/bin"
cp "$source_dir/tools/gpu_check.sh" "$source_dir/tools/gpu_check/fused_adamw.py" "$work/bundle"
touch "$work/libnccl.so.2"

# The doubles: `program CHECK` ends as the file "CHECK" says, else well.
cat >"$work/bundle/shardstep_gpu_check" <<'SH'
#!/bin/sh
answers=$(dirname "$0")/../answers
echo "$*" >>"$answers/calls"
[ -f "$answers/$1" ] && { . "$answers/$1"; }
case $1 in bench) echo "PASS bench update kernel 1.250 ms, step 3 ms" ;; *) echo "PASS $1 fine" ;; esac
SH
cat >"$work/bin/compute-sanitizer" <<'SH'
#!/bin/sh
answers=$(dirname "$0")/../answers
echo "compute-sanitizer $*" >>"$answers/calls"
[ -f "$answers/sanitizer_$2" ] && { . "$answers/sanitizer_$2"; }
tool=$2
shift 4
"$@" || exit
case $tool in
  racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
  *) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
SH
cat >"$work/bin/python" <<'SH'
#!/bin/sh
answers=$(dirname "$0")/../answers
echo "python $*" >>"$answers/calls"
case $1 in
  -c) [ -f "$answers/no_torch" ] && { echo "no module named torch"; exit 1; }; exit 0 ;;
esac
echo "PASS torch ours is faster"
SH
chmod +x "$work/bundle/shardstep_gpu_check" "$work/bin/compute-sanitizer" "$work/bin/python"

# run EXIT_CODE: with the answers so far; the table is in $said.
run() {
  local code=0
  said=$(PATH=$work/bin:$PATH "$work/bundle/gpu_check.sh" --out "$work/logs" --nccl "$work/libnccl.so.2" \
    --python "$work/bin/python" --device 3 2>&1) || code=$?
  [ "$code" = "$1" ] || fail "it ended with $code, not $1: $said"
}
says() {
  grep -qE -- "$1" <<<"$said" || fail "it does not say '$1': $said"
}
# answer NAME TEXT CODE
answer() {
  printf 'echo "%s"\nexit %s\n' "$2" "$3" >"$work/answers/$1"
}
begin() {
  rm -rf "$work/answers"
  mkdir "$work/answers"
}

begin
run 0
for check in host kernels nccl staged graph async bench torch memcheck memcheck_steps racecheck initcheck; do
  says "^PASS +$check +[0-9]+ s "
done
says '^12 passed, 0 failed, 0 not run'
grep -qF -- "--ours_ms=1.250" "$work/answers/calls" || fail "the update's time was not handed on"
for check in kernels staged graph async bench; do
  grep -E "^$check " "$work/answers/calls" | grep -qF -- "--device=3" || fail "$check was not given the device"
done
grep -qF -- "nccl --device=3 --nccl=$work/libnccl.so.2" "$work/answers/calls" || fail "nccl was not given the library"
echo "all passed"

begin
answer graph "FAIL graph other bits" 1
run 1
says '^FAIL +graph +[0-9]+ s +other bits'
says '^10 passed, 2 failed, 0 not run' # memcheck_steps is graph too
says '^PASS +initcheck'
echo "a failure: the rest goes on, exit code 1"

begin
answer async "it dies" 134
run 1
says '^FAIL +async .*ended with 134: it dies'
echo "a crash is a failure"

begin
answer sanitizer_racecheck "========= Error: Device not supported." 1
answer sanitizer_initcheck "========= 3 errors" 9
touch "$work/answers/no_torch"
run 1
says '^NOT RUN +racecheck .*Device not supported'
says '^FAIL +initcheck .*3 errors'
says '^NOT RUN +torch .*no module named torch'
says '^9 passed, 1 failed, 2 not run'
echo "what cannot be made is not run, and no pass"

# A tool that ends well and has not looked.
begin
answer sanitizer_initcheck "PASS kernels fine" 0
run 1
says '^FAIL +initcheck .*the log has no'
says '^11 passed, 1 failed, 0 not run'
echo "a sanitizer that did not look is a failure"

begin
answer bench "it dies" 134
run 1
says '^FAIL +bench '
says '^FAIL +torch .*our update was not measured'
echo "a comparison that could not be made is a failure"

begin
answer kernels "NOT RUN kernels this machine has no GPU" 78
run 78
says '^no GPU: this machine has no GPU'
says '^1 passed, 0 failed, 11 not run'
[ "$(grep -c . "$work/answers/calls")" -le 3 ] || fail "it went on without a GPU: $(cat "$work/answers/calls")"
answer host "FAIL host wrong" 1
run 1
echo "without a GPU: 78, or 1 when the host's part failed"

code=0
"$work/bundle/gpu_check.sh" --dance >"$work/said" 2>&1 || code=$?
[ "$code" = 64 ] || fail "an unknown flag gave $code"
code=0
"$work/bundle/gpu_check.sh" --out >"$work/said" 2>&1 || code=$?
[ "$code" = 64 ] || fail "a flag without a value gave $code"
"$work/bundle/gpu_check.sh" --help | grep -q -- --bundle || fail "--help does not name --bundle"
code=0
"$source_dir/tools/gpu_check.sh" --build "$work/nowhere" >"$work/said" 2>&1 || code=$?
[ "$code" = 78 ] || fail "a build that is not there gave $code"
echo "refused: wrong command lines"
