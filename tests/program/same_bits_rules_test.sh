#!/usr/bin/env bash
# N1, N6, K2 as whole programs, for every rule, every master and every order of sums: 10 steps, clipping active, one step
# made non-finite on purpose. The digest line is the unsharded reference's at 1, 2 and 3 ranks, as processes and as
# threads, and after a stop at 2 ranks and a resume at 3. The one order of sums that is not exact says so.
. "$(dirname "$0")/lib.sh"

job=("${small[@]}" --steps 10 --warmup_steps 2 --max_norm 0.5 --poison_step 4 --micro_batches 13)

# same_bits NAME FLAG...
same_bits() {
  local name=$1 wanted
  shift
  wanted=$(digest "$reference" "${job[@]}" "$@")
  [ "$wanted" != "$adamw" ] || fail "$name has the digest of plain AdamW: the flags do nothing"
  same_bits_as "$wanted" "$name" "$@"
}

# same_bits_as WANTED NAME FLAG...
same_bits_as() {
  local wanted=$1 name=$2
  shift 2
  expect "$wanted" "$(digest "$train" --backend INPROC --ranks 1 "${job[@]}" "$@")" "$name, 1 thread"
  expect "$wanted" "$(digest "$train" --backend INPROC --ranks 3 "${job[@]}" "$@")" "$name, 3 threads"
  local checkpoints=(--checkpoint_dir "$work/$name")
  expect "$wanted" "$(digest "$mpirun" 2 "$train" "${job[@]}" "$@" "${checkpoints[@]}")" "$name, 2 processes"
  rm -r "$work/$name"
  digest "$mpirun" 2 "$train" "${job[@]}" "$@" "${checkpoints[@]}" --stop_after 6 >/dev/null
  expect "$wanted" "$(digest "$mpirun" 3 "$train" "${job[@]}" "$@" "${checkpoints[@]}" --resume)" \
    "$name, stopped at 2 processes after step 6, resumed at 3"
}

adamw=$(digest "$reference" "${job[@]}")
same_bits "SGD" --rule sgd --learning_rate 0.1
same_bits "SGD with momentum" --rule sgd --momentum 0.9 --weight_decay 1e-2 --learning_rate 0.1
same_bits "Lion, SPLIT" --rule lion --weight_decay 0.1 --master SPLIT --learning_rate 3e-4
same_bits "SPLIT" --master SPLIT
same_bits "NONE, nearest" --master NONE
same_bits "NONE, stochastic" --master NONE --rounding STOCHASTIC --rounding_seed 77
# Enough micro-batches that some sums of a few bf16 numbers are no longer exact in fp32.
same_bits "sum_group 2" --sum_group 2
same_bits "sum_group 3, SPLIT" --sum_group 3 --master SPLIT
same_bits_as "$adamw" "PRIVATE" --weights PRIVATE

# Another seed of the rounding, other bits.
[ "$(digest "$reference" "${job[@]}" --master NONE --rounding STOCHASTIC)" != \
  "$(digest "$reference" "${job[@]}" --master NONE --rounding STOCHASTIC --rounding_seed 77)" ] ||
  fail "the seed of stochastic rounding makes no difference"

# Summed by each rank first: named in every record, the same bits again on as many ranks, and others than the contract's.
local_sums=("${job[@]}" --accumulation LOCAL --records "$work/records.jsonl")
inexact=$(digest "$mpirun" 2 "$train" "${local_sums[@]}")
[ "$(grep -c '"inexact_mode":\["accumulation: LOCAL"\]' "$work/records.jsonl")" = 10 ] ||
  fail "not every record says that it is not exact: $(head -n 1 "$work/records.jsonl")"
expect "$inexact" "$(digest "$train" --backend INPROC --ranks 2 "${local_sums[@]}")" "LOCAL, 2 processes and 2 threads"
[ "$inexact" != "$adamw" ] || fail "LOCAL at 2 ranks has the bits of SHARDED"
expect "$adamw" "$(digest "$train" --backend INPROC --ranks 1 "${local_sums[@]}")" "LOCAL, 1 thread: the order is the same"
digest "$mpirun" 2 "$train" "${job[@]}" --records "$work/records.jsonl" >/dev/null
! grep -q inexact_mode "$work/records.jsonl" || fail "an exact step is called inexact"
