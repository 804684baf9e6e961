#!/usr/bin/env bash
# Usage: precision_test.sh SOURCE_DIR BINARY_DIR
# shardstep_precision as a program: it prints every figure of docs/why_fp32_master.md, writes what it is asked for, and
# names what is wrong.
set -euo pipefail
precision=$2/tools/precision/shardstep_precision
document=$1/docs/why_fp32_master.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# Every line of a ```text block of the document is a line of the default run.
"$precision" >"$work/tables"
sed -n '/^```text$/,/^```$/{/^```/d;p}' "$document" >"$work/quoted"
[ "$(wc -l <"$work/quoted")" -ge 20 ] || fail "the document quotes next to nothing"
while IFS= read -r line; do
  grep -qxF -- "$line" "$work/tables" || fail "the document has, and the program does not print: $line"
done <"$work/quoted"
# Every figure of its prose, marked as `code`, occurs in that output as well.
sed '/^```/,/^```/d' "$document" | grep -oE '`-?[0-9][^`]*`' | tr -d '`' | sort -u >"$work/figures"
[ -s "$work/figures" ] || fail "no figures found in the document's prose"
while IFS= read -r figure; do
  grep -qwF -- "$figure" "$work/tables" || fail "the document's prose says $figure, the program does not print it"
done <"$work/figures"
echo "printed: every figure of ${document##*/}"

small=(--steps 20 --stochastic_weights 2 --elements 8 --max_count 4 --max_ranks=4 --seed=3)
"$precision" "${small[@]}" --json="$work/a.json" --gnuplot="$work/new/plots" >"$work/small"
"$precision" "${small[@]}" --json "$work/b.json" >"$work/again"
cmp "$work/small" "$work/again" || fail "the same command printed something else"
cmp "$work/a.json" "$work/b.json" || fail "the same command wrote other JSON"
python3 -c 'import json, sys; json.load(open(sys.argv[1]))["one_update"]["half_ulp"]' "$work/a.json"
for file in weight_over_steps.dat micro_gradient_sums.dat rank_sums.dat plots.gp; do
  [ -s "$work/new/plots/$file" ] || fail "$file was not written"
done
echo "written: JSON and plots, the same twice"

# refused CODE TEXT ARGUMENT...: exits with CODE and says TEXT.
refused() {
  local code=$1 text=$2 output status=0
  shift 2
  output=$("$precision" "$@" 2>&1 >"$work/out") || status=$?
  [ "$status" = "$code" ] || fail "$* exited with $status, not $code: $output"
  grep -qF -- "$text" <<<"$output" || fail "$* did not say '$text': $output"
  echo "refused with $code: $text"
}

refused 64 "--no_such_flag" --no_such_flag
refused 64 "--elements" --elements=3
refused 74 "$work/nowhere/a.json" "${small[@]}" --json="$work/nowhere/a.json"
refused 74 "$work/small/plots" "${small[@]}" --gnuplot="$work/small/plots"
refused 74 "$work" "${small[@]}" --json="$work"
status=0
"$precision" "${small[@]}" >/dev/full 2>"$work/err" || status=$?
[ "$status" = 74 ] || fail "a full disk gave $status, not 74"
"$precision" --help | grep -q -- --gnuplot= || fail "--help does not name --gnuplot"
