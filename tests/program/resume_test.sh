#!/usr/bin/env bash
# K1, K2, K9, D6 as a program: what --resume says and does when there is no checkpoint, when settings differ, and when
# checkpoints are damaged; how many are kept.
. "$(dirname "$0")/lib.sh"

job=("${small[@]}" --steps 12 --warmup_steps 4 --max_norm 0.5 --micro_batches 3 --checkpoint_interval 2)
threads=("$train" --backend INPROC --ranks)

# digest_said: the last line of $said.
digest_said() { tail -n 1 <<<"$said"; }

ends_with 0 "${threads[@]}" 2 "${job[@]}" --checkpoint_dir "$work/whole"
whole=$(digest_said)
case $whole in digest\ weights=*step=12) ;; *) fail "no digest line: $whole" ;; esac
says_nothing_of "warning"
[ "$(ls -A "$work/whole" | tr '\n' ' ')" = "step-000000000008 step-000000000010 step-000000000012 " ] ||
  fail "12 steps with 6 checkpoints of which 3 are kept left: $(ls -A "$work/whole")"
[ "$(grep -c '^saved step ' <<<"$said")" = 6 ] || fail "not six checkpoints: $said"
echo "kept: the newest three of six"

# Nothing to resume from: no directory, then an empty one.
mkdir "$work/empty"
for directory in nowhere empty; do
  ends_with 0 "${threads[@]}" 2 "${job[@]}" --checkpoint_dir "$work/$directory" --resume
  says "starting afresh: " "$work/$directory"
  expect "$whole" "$(digest_said)" "resumed with no checkpoint ($directory)"
done

ends_with 0 "${threads[@]}" 2 "${job[@]}" --checkpoint_dir "$work/half" --stop_after 6
[ "$(ls -A "$work/half" | tr '\n' ' ')" = "step-000000000002 step-000000000004 step-000000000006 " ] ||
  fail "6 steps left: $(ls -A "$work/half")"

# Other settings: shown, both, and trained with nevertheless. The same ones: no word.
cp -r "$work/half" "$work/other"
ends_with 0 "${threads[@]}" 1 "${job[@]}" --checkpoint_dir "$work/other" --resume --learning_rate 0.5
says "resumed after step 6"
says "warning: the checkpoint was written by a run with other settings"
that=$(sed -n '/^that run:$/,/^this run:$/p' <<<"$said")
this=$(sed -n '/^this run:$/,$p' <<<"$said")
grep -q '^learning_rate = 0.001' <<<"$that" || fail "the checkpoint's learning rate is not shown: $said"
grep -q '^learning_rate = 0.5$' <<<"$this" || fail "this run's learning rate is not shown: $said"
[ "$(digest_said)" != "$whole" ] || fail "another learning rate made no difference"
cp -r "$work/half" "$work/same"
ends_with 0 "${threads[@]}" 3 "${job[@]}" --checkpoint_dir "$work/same" --resume
says "resumed after step 6"
says_nothing_of "warning"
expect "$whole" "$(digest_said)" "resumed with the same settings"

# The newest is damaged, once in each kind of place: the one before it is used, and the end is the same.
newest=step-000000000006
for what in shard-1-of-2.safetensors MANIFEST missing; do
  cp -r "$work/half" "$work/$what"
  if [ "$what" = missing ]; then
    file=shard-0-of-2.safetensors
    rm "$work/$what/$newest/$file"
  else
    file=$what
    flip_byte "$work/$what/$newest/$file"
  fi
  ends_with 0 "$mpirun" 2 "$train" "${job[@]}" --checkpoint_dir "$work/$what" --resume
  says "warning: $newest is damaged" "$file"
  says "resumed after step 4"
  expect "$whole" "$(digest_said)" "resumed beside a damaged checkpoint ($what)"
  [ "$(ls -A "$work/$what" | tr '\n' ' ')" = "step-000000000008 step-000000000010 step-000000000012 " ] ||
    fail "beside a damaged checkpoint were kept: $(ls -A "$work/$what")"
done
