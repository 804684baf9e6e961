#!/usr/bin/env bash
# X1 as a program: what is wrong is named, and the exit code says of which kind it is.
. "$(dirname "$0")/lib.sh"

# refused CODE TEXT ARGUMENT...: exits with CODE and says TEXT.
refused() {
  local code=$1 text=$2 output status=0
  shift 2
  output=$("$train" --backend INPROC --ranks 2 "$@" 2>&1) || status=$?
  [ "$status" = "$code" ] || fail "$* exited with $status, not $code: $output"
  grep -qF -- "$text" <<<"$output" || fail "$* did not say '$text': $output"
  echo "refused with $code: $text"
}

refused 64 "--no_such_flag" "${small[@]}" --no_such_flag 1
refused 78 "schedule.learning_rate" "${small[@]}" --learning_rate nan
refused 78 "schedule.steps" "${small[@]}" --steps 0
refused 78 "schedule.max_norm" "${small[@]}" --max_norm inf
refused 78 "optimizer.group[0].beta2" "${small[@]}" --set optimizer.group[0].beta2=1e39
refused 78 "must be one of adamw, sgd, lion" "${small[@]}" --rule adam
refused 78 "optimizer.group[0].sgd.beta1" "${small[@]}" --rule sgd --beta1 0.9
refused 78 "optimizer.group[0].sgd.nesterov" "${small[@]}" --rule sgd --nesterov
refused 78 "optimizer.group[0].master" "${small[@]}" --master BF16
refused 78 "optimizer.group[0].rounding" "${small[@]}" --rounding STOCHASTIC
refused 78 "optimizer.sum_group" "${small[@]}" --sum_group 0
refused 78 "optimizer.sum_group" "${small[@]}" --sum_group 2 --accumulation LOCAL
refused 78 "optimizer.max_message_bytes" "${small[@]}" --max_message_bytes 100
refused 78 "optimizer.weights" "${small[@]}" --weights TWICE
refused 78 "run.rank" "${small[@]}" --rank 1
refused 78 "run.device = cuda: the model of this program has no GPU code" "${small[@]}" --device cuda
refused 78 "run.device = gpu: must be cpu" "${small[@]}" --device=gpu
refused 78 "run.plot" "${small[@]}" --plot pictures/
refused 78 "no_such_field" "${small[@]}" --set optimizer.no_such_field=1
refused 78 "model.width" --data "$corpus" "${shape[@]}" --width 63
refused 65 "$work/nothing" "${shape[@]}" --data "$work/nothing"
: >"$work/empty"
refused 65 "$work/empty" "${shape[@]}" --data "$work/empty"
printf 'schedule { steps: 5\n  steps: 6 }\n' >"$work/twice.textproto"
refused 78 "$work/twice.textproto" "${small[@]}" --options "$work/twice.textproto"
