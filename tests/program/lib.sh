# Sourced by the program tests. Arguments of each: SOURCE_DIR BINARY_DIR.
set -euo pipefail
source_dir=$1
binary_dir=$2
train=$binary_dir/tools/train/shardstep_train
reference=$binary_dir/tests/program/reference_trainer
mpirun=$source_dir/deploy/mpirun.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Some hundred kilobytes of text that every clone has.
corpus=$work/corpus.txt
cat "$source_dir"/*/*.h "$source_dir"/*/*.cc "$source_dir"/docs/*.md >"$corpus"

# A model that takes seconds.
shape=(--layers 2 --heads 2 --context 32 --sequences 2 --evaluate_windows 8)
small=(--data "$corpus" "${shape[@]}" --width 64)

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# digest COMMAND...: the last line it prints, which must be a digest line.
digest() {
  local output
  output=$("$@" 2>&1) || fail "$* ended with $?: $output"
  output=$(tail -n 1 <<<"$output")
  case $output in digest\ weights=*) ;; *) fail "$* ended with '$output'" ;; esac
  printf '%s\n' "$output"
}

# expect WANTED GOT WHAT
expect() {
  [ "$1" = "$2" ] || fail "$3
  expected $1
  got      $2"
  echo "same bits: $3"
}

# ends_with CODE COMMAND...: it ends with CODE within 30 s; what it printed is in $said.
ends_with() {
  local code=$1 status=0
  shift
  said=$(timeout -k 5 30 "$@" 2>&1 </dev/null | tr -d '\0'; exit "${PIPESTATUS[0]}") || status=$?
  [ "$status" != 124 ] || fail "$* did not end within 30 s: $said"
  [ "$status" = "$code" ] || fail "$* ended with $status, not $code: $said"
}

# says TEXT...: one line of $said has them all.
says() {
  local lines=$said text
  for text in "$@"; do
    lines=$(grep -F -- "$text" <<<"$lines") || fail "no line of it says '$text' (of $*): $said"
  done
  echo "said: $*"
}

# says_nothing_of TEXT
says_nothing_of() {
  ! grep -qF -- "$1" <<<"$said" || fail "it said '$1': $said"
}

# flip_byte FILE: damages one byte in its middle.
flip_byte() {
  python3 -c '
import os, sys
with open(sys.argv[1], "r+b") as file:
    file.seek(os.path.getsize(sys.argv[1]) // 2)
    byte = file.read(1)[0]
    file.seek(-1, os.SEEK_CUR)
    file.write(bytes([byte ^ 1]))
' "$1"
}
