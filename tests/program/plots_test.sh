#!/usr/bin/env bash
# Pictures of a training run: drawn by the gnuplot that there is, refused before the first step where there is none.
. "$(dirname "$0")/lib.sh"

job=("$train" --backend INPROC --ranks 2 "${small[@]}" --steps 6 --warmup_steps 2 --micro_batches 2 --evaluate_interval 2)

# Without gnuplot.
mkdir "$work/bin"
ends_with 78 env PATH="$work/bin" "${job[@]}" --plot "$work/run"
says "there is no gnuplot"
says_nothing_of "step 1/"
[ -z "$(find "$work" -name 'run.*')" ] || fail "files were left: $(ls "$work")"

# A folder that is not there.
printf '#!/bin/sh\n[ "$1" = --version ] || exec true\n' >"$work/bin/gnuplot"
chmod +x "$work/bin/gnuplot"
ends_with 74 env PATH="$work/bin:$PATH" "${job[@]}" --plot "$work/nowhere/run"
says "$work/nowhere/run.steps.dat"
says_nothing_of "step 1/"

# A gnuplot that fails: said, and the digest line is there nevertheless.
printf '#!/bin/sh\n[ "$1" = --version ]\n' >"$work/bin/gnuplot"
ends_with 74 env PATH="$work/bin:$PATH" "${job[@]}" --plot "$work/run"
says "$work/run.gp"
says "digest weights="

command -v gnuplot >/dev/null || fail "no gnuplot: deploy/packages.txt has it"
rm "$work"/run.*
plain=$(digest "${job[@]}")
mkdir "$work/it's"
ends_with 0 "${job[@]}" --plot "$work/it's/a run"
expect "$plain" "$(tail -n 1 <<<"$said")" "drawn or not"
for picture in loss phases; do
  grep -q '</svg>' "$work/it's/a run.$picture.svg" || fail "no $picture.svg: $said"
  head -c 8 "$work/it's/a run.$picture.png" | grep -q PNG || fail "no $picture.png: $said"
done
[ "$(grep -vc '^#' "$work/it's/a run.steps.dat")" = 6 ] || fail "not six steps: $(cat "$work/it's/a run.steps.dat")"
[ "$(grep -vc '^#' "$work/it's/a run.held_out.dat")" = 3 ] || fail "not three evaluations"
! grep -qi 'warning\|error' <<<"$said" || fail "gnuplot complains: $said"
echo "drawn: loss and phases"
