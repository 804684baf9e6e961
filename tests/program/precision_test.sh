#!/usr/bin/env bash
# Usage: precision_test.sh SOURCE_DIR BINARY_DIR
# shardstep_precision as a program: it prints every figure of docs/why_fp32_master.md, writes what it is asked for, and
# names what is wrong.
set -euo pipefail
source_dir=$1
precision=$2/tools/precision/shardstep_precision
document=$1/docs/why_fp32_master.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# Every line of a ```text block of the document is a line of the default run, but for the training runs.
"$precision" >"$work/tables"
sed '/^## What a training run loses$/,/^## /d' "$document" >"$work/document"
cmp -s "$document" "$work/document" && fail "the document has no section on training runs"
document=$work/document
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
echo "printed: every figure of docs/why_fp32_master.md"

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

# The document's training runs, much shorter: rounding to nearest loses what a split master and chance do not. What the
# document says was run is what is run by default.
cat "$source_dir"/*/*.h "$source_dir"/*/*.cc "$source_dir"/docs/*.md >"$work/corpus.txt"
"$precision" "${small[@]}" --data="$work/corpus.txt" --train_steps=200 --train_layers=1 --train_width=32 \
  --json="$work/trained.json" --gnuplot="$work/trained" >"$work/tables" 2>"$work/told"
python3 - "$work/trained.json" <<'PY' || fail "the training runs: $(cat "$work/tables")"
import json
import sys

runs = {run["master"]: run for run in json.load(open(sys.argv[1]))["trainings"]["runs"]}
assert list(runs) == ["FP32", "SPLIT", "NONE, nearest", "NONE, stochastic"], runs.keys()
assert [run["master_bytes"] for run in runs.values()] == [4, 2, 0, 0]
last = {name: run["held_out"][-1]["bits_per_byte"] for name, run in runs.items()}
assert all(run["held_out"][-1]["step"] == 200 and len(run["held_out"]) == 20 for run in runs.values())
assert last["FP32"] < 5.5, "nothing was learnt"
assert last["NONE, nearest"] > last["FP32"] + 0.05, last
assert abs(last["SPLIT"] - last["FP32"]) < 0.01, last
assert abs(last["NONE, stochastic"] - last["FP32"]) < 0.03, last
PY
[ -s "$work/trained/master_training.dat" ] || fail "the curves of the training runs were not written"
grep -qF "training with master SPLIT" "$work/told" || fail "nothing is told of the training: $(cat "$work/told")"
help=$("$precision" --help)
for default in "train_steps=N .*(1500)" "train_layers=N .*(2)" "train_width=N .*(96)" "train_learning_rate=X .*(0.001)"; do
  grep -q -- "--$default" <<<"$help" || fail "the default is not the document's: $default"
done
for words in "2 layers of width 96" "1500 steps" "learning rate 0.001"; do
  grep -qF "$words" "$source_dir/docs/why_fp32_master.md" || fail "the document does not say: $words"
done
echo "trained: with each master"

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
refused 64 "--train_width" --train_width=33
refused 64 "--train_learning_rate" --train_learning_rate=nan
refused 65 "$work/nowhere" "${small[@]}" --data="$work/nowhere"
refused 74 "$work/nowhere/a.json" "${small[@]}" --json="$work/nowhere/a.json"
refused 74 "$work/small/plots" "${small[@]}" --gnuplot="$work/small/plots"
refused 74 "$work" "${small[@]}" --json="$work"
status=0
"$precision" "${small[@]}" >/dev/full 2>"$work/err" || status=$?
[ "$status" = 74 ] || fail "a full disk gave $status, not 74"
"$precision" --help | grep -q -- --gnuplot= || fail "--help does not name --gnuplot"
