#!/usr/bin/env bash
# D6 as a program: when every checkpoint is damaged, --resume says which and why and ends; it does not start afresh over
# what may yet be rescued.
. "$(dirname "$0")/lib.sh"

job=("${small[@]}" --steps 12 --warmup_steps 4 --micro_batches 3 --checkpoint_interval 2
  --checkpoint_dir "$work/checkpoints")

# contents: of every file of every checkpoint.
contents() { find "$work/checkpoints" -type f -exec sha256sum {} + | sort; }

ends_with 0 "$train" --backend INPROC --ranks 2 "${job[@]}" --stop_after 4
flip_byte "$work/checkpoints/step-000000000002/shard-0-of-2.safetensors"
flip_byte "$work/checkpoints/step-000000000004/shard-1-of-2.safetensors"
before=$(contents)
[ "$(wc -l <<<"$before")" = 6 ] || fail "two checkpoints of three files each were expected: $before"
for launch in "$mpirun 2 $train" "$train --backend INPROC --ranks 3"; do
  # shellcheck disable=SC2086 # several words
  ends_with 65 $launch "${job[@]}" --resume --records "$work/records.jsonl"
  says "step-000000000002 is damaged"
  says "step-000000000004 is damaged"
  says_nothing_of "starting afresh"
  says_nothing_of "step 1/12"
  says_nothing_of "digest weights="
  [ ! -s "$work/records.jsonl" ] || fail "a step was recorded: $(cat "$work/records.jsonl")"
  [ "$(contents)" = "$before" ] || fail "the damaged checkpoints were changed"
done
