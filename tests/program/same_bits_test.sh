#!/usr/bin/env bash
# N1, K1, K2 as whole programs: 20 steps, clipping active, one step made non-finite on purpose. The digest line is the
# unsharded reference's at 1, 2, 3 and 4 ranks, as processes and as threads, with 12 and with 11 micro-batches a step,
# and after a stop at 2 ranks and a resume at 3 and at 1.
. "$(dirname "$0")/lib.sh"

for micro_batches in 12 11; do
  job=("${small[@]}" --steps 20 --warmup_steps 4 --max_norm 0.5 --poison_step 7 --micro_batches "$micro_batches")
  wanted=$(digest "$reference" "${job[@]}")
  for ranks in 1 2 3 4; do
    records=$work/records.jsonl
    expect "$wanted" "$(digest "$mpirun" "$ranks" "$train" "${job[@]}" --records "$records")" \
      "$ranks processes, $micro_batches micro-batches"
    [ "$(wc -l <"$records")" = 20 ] || fail "$records does not have one line per step"
    [ "$(grep -c '"applied":false' "$records")" = 1 ] || fail "not exactly one step was skipped"
    clipped=$(grep -o '"clip_factor":0' "$records" | wc -l)
    [ "$clipped" -ge 10 ] || fail "clipping was active in $clipped steps only"
    expect "$wanted" "$(digest "$train" --backend INPROC --ranks "$ranks" "${job[@]}")" \
      "$ranks threads, $micro_batches micro-batches"
  done

  for after in 3 1; do
    checkpoints=(--checkpoint_dir "$work/checkpoints-$micro_batches-$after")
    stopped=$(digest "$mpirun" 2 "$train" "${job[@]}" "${checkpoints[@]}" --stop_after 9)
    [ "${stopped##*step=}" = 9 ] || fail "--stop_after 9 stopped with: $stopped"
    expect "$wanted" "$(digest "$mpirun" "$after" "$train" "${job[@]}" "${checkpoints[@]}" --resume)" \
      "stopped at 2 processes after step 9, resumed at $after, $micro_batches micro-batches"
  done
done

# K1: killed without warning somewhere after its first checkpoint, then resumed at another number of ranks.
job=("${small[@]}" --steps 60 --warmup_steps 4 --max_norm 0.5 --poison_step 7 --micro_batches 6)
wanted=$(digest "$reference" "${job[@]}")
checkpoints=(--checkpoint_dir "$work/killed" --checkpoint_interval 5)
"$mpirun" 2 "$train" "${job[@]}" "${checkpoints[@]}" >"$work/killed.log" 2>&1 &
launcher=$!
for _ in $(seq 600); do
  [ -n "$(find "$work/killed" -path '*/step-*/MANIFEST' 2>/dev/null)" ] && break
  sleep 0.05
done
pkill -KILL -f -- "--checkpoint_dir $work/killed" || fail "there was nothing to kill: $(cat "$work/killed.log")"
wait "$launcher" && fail "mpirun ended well although its ranks were killed"
expect "$wanted" "$(digest "$mpirun" 3 "$train" "${job[@]}" "${checkpoints[@]}" --resume)" \
  "killed at 2 processes, resumed at 3"
