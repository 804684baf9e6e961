#!/usr/bin/env bash
# shardstep_bench: in every mode its steps have the reference's weights, its line, its JSON and the table of bytes agree,
# and what it refuses it names. Nothing here is about how fast it is.
. "$(dirname "$0")/lib.sh"
bench=$binary_dir/tools/bench/shardstep_bench
check=$source_dir/tests/program/check_bench.py
small=(--model=flat:300000 --steps=2 --warmup=1)

# measured RANKS CHECKED "NAME=VALUE ..." FLAG...: sets $said.
measured() {
  local ranks=$1 checked=$2 values=$3
  shift 3
  rm -f "$work/rows.jsonl"
  ends_with 0 "$mpirun" "$ranks" "$bench" "${small[@]}" --json="$work/rows.jsonl" "$@"
  printf '%s\n' "$said" >"$work/said"
  # shellcheck disable=SC2086 # words
  python3 "$check" "$work/said" "$work/rows.jsonl" "$checked" parameters=300000 ranks="$ranks" hosts=1 $values ||
    fail "what $* at $ranks ranks printed: $said"
}
# right RANKS "NAME=VALUE ..." FLAG...: no weight is wrong.
right() {
  measured "$1" 1 "$2" --check "${@:3}"
  echo "right: $1 ranks ${*:3}"
}

for rule in adamw sgd lion; do
  for master in fp32 split; do
    mode=(--rule=$rule --master=$master)
    values="rule=$rule master=$master wire=exact weights=shared micro_steps=1"
    right 2 "$values clip=0.001" "${mode[@]}" --clip=0.001
    right 3 "$values clip=off passes=1" "${mode[@]}" --clip=off --nonfinite=ignore
  done
done
for ranks in 1 2 3; do
  right $ranks "micro_steps=3 clip=0.01" --micro_steps=3 --clip=0.01
  right $ranks "micro_steps=3 clip=off passes=1" --micro_steps=3 --clip=off --nonfinite=ignore --master=split
  right $ranks "weights=private" --weights=private --master=split --micro_steps=2
  right $ranks "weights=private clip=off passes=1" --weights=private --clip=off --nonfinite=ignore --bucket_bytes=5000
  right $ranks "wire=exact" --sum_group=2 --micro_steps=3 --bucket_bytes=1 --update_threads=2
done
right 5 "clip=off" --clip=off
right 2 "wire=exact" --backward_ms=5
right 3 "micro_steps=2" --backward_ms=5 --micro_steps=2 --weights=private

measured 2 1 "wire=exact" --check --baselines=all
for baseline in mpi_fp32 mpi_bf16_op mpi_alltoall mpi_p2p; do
  says "# $baseline: " " times our step"
  says "# $baseline+malloc: " " times our step"
done
[ "$(wc -l <"$work/rows.jsonl")" = 9 ] || fail "not a row for us and for each baseline twice: $said"
measured 3 0 "clip=off passes=1" --baselines=mpi_p2p --clip=off --nonfinite=ignore --master=split
# Rows are appended.
ends_with 0 "$mpirun" 1 "$bench" "${small[@]}" --json="$work/rows.jsonl"
[ "$(wc -l <"$work/rows.jsonl")" = 4 ] || fail "rows were not appended"

measured 2 0 "" --trace="$work/trace.json" --backward_ms=2
python3 - "$work/trace.json" <<'EOT2' || fail "the trace"
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
names = [event["name"] for event in events if event["ph"] == "X"]
assert {"Exchange", "Reduce", "Update", "Publish"} <= set(names), set(names)
ranks = {event["args"]["name"].split(" (")[0] for event in events if event["name"] == "process_name"}
assert ranks == {"rank 0", "rank 1"}, ranks
EOT2
echo "traced"

# As fast as asked or not.
ends_with 1 "$mpirun" 2 "$bench" "${small[@]}" --max_floor_ratio=0.0001
says "floor_ratio" "wrong"
says_nothing_of "mpirun.sh:"
ends_with 0 "$mpirun" 2 "$bench" "${small[@]}" --max_floor_ratio=1e9

# Every kernel on every target of this CPU, and the floor beside a plain loop.
rm -f "$work/kernels.jsonl"
ends_with 0 "$mpirun" 2 "$bench" "${small[@]}" --kernels --json="$work/kernels.jsonl"
printf '%s\n' "$said" >"$work/said"
python3 - "$work/said" "$work/kernels.jsonl" <<'EOT2' || fail "the kernels: $said"
import json, sys
lines = [line.split() for line in open(sys.argv[1])]
rows = [dict(zip(lines[0], line)) for line in lines[1:]]
objects = [json.loads(line) for line in open(sys.argv[2])]
assert [list(row) for row in objects] == [lines[0]] * len(rows)
bytes_of = {"reduce": 4, "reduce_into_sum": 8, "reduce_onto_sum": 12, "update": 30, "update_from_sum": 30, "copy": 4,
            "zero": 2}
for row, values in zip(rows, objects):
    assert all(values[name] == text if isinstance(values[name], str) else values[name] == float(text)
               for name, text in row.items()), (row, values)
assert (objects[-1]["kernel"], objects[-1]["target"]) == ("floor", "plain_loop")
targets = []
for row in objects[:-1]:
    if row["target"] not in targets:
        targets.append(row["target"])
assert [(row["kernel"], row["target"]) for row in objects[:-1]] == [(k, t) for t in targets for k in bytes_of]
assert all(row["bytes_per_element"] == bytes_of[row["kernel"]] for row in objects[:-1])
flags = next(line for line in open("/proc/cpuinfo") if line.startswith(("flags", "Features"))).split()
for flag, target in (("avx512bw", "AVX3"), ("avx2", "AVX2"), ("sse4_1", "SSE4")):
    assert (flag in flags) == (target in targets), (flag, targets)
EOT2
echo "kernels"
ends_with 0 "$mpirun" 3 "$bench" "${small[@]}" --kernels --rule=lion --master=split
says "update_from_sum"
says_nothing_of "plain_loop"

# What it refuses, by name and before anything is allocated.
refuses() {
  ends_with 64 "${@:2}"
  says "shardstep_bench, rank 0: INVALID_ARGUMENT: " "$1"
}
refuses "--no_such_flag" "$bench" --no_such_flag=1
refuses "--steps" "$mpirun" 2 "$bench" --steps=0
refuses "--steps was given twice" "$bench" --steps=1 --steps=1
refuses "--clip" "$bench" --clip=nan
refuses "--model" "$bench" --model=gpt5
refuses "--nonfinite" "$bench" --nonfinite=ignore
refuses "--baselines" "$bench" --baselines=all --micro_steps=2
refuses "--check" "$bench" --check=1
for flag in --wire=exact --weights=private --update_threads=2 --backward_ms=1 --baselines=all --trace=x --kernels; do
  refuses "${flag%=*}: not with --device=cuda" "$bench" --device=cuda "$flag"
done
for flag in --gpu=0 --transport=nccl --exchange=exact --nccl=x --graph; do
  refuses "${flag%=*}: not with --device=cpu" "$mpirun" 2 "$bench" "$flag"
done
refuses "--exchange=nccl_reduce_scatter" "$bench" --device=cuda --transport=staged --exchange=nccl_reduce_scatter

# Without a GPU, whether or not the backend was built.
no_gpu() {
  ends_with 78 env CUDA_VISIBLE_DEVICES= "$@"
  says "shardstep_bench, rank 0: NOT_FOUND: "
  case $said in
    *"no CUDA backend: "* | *"there is no GPU that can be used: cudaError"*) ;;
    *) fail "it does not say what is missing: $said" ;;
  esac
  says_nothing_of "step_ms"
}
no_gpu "$bench" --device=cuda
no_gpu "$mpirun" 2 "$bench" --device=cuda --transport=staged
no_gpu "$bench" --device=cuda --graph --json="$work/nowhere/rows.jsonl"
ends_with 74 "$mpirun" 2 "$bench" --model=flat:1000000000000 --steps=1
says "rank 0: RESOURCE_EXHAUSTED" "flat:1000000000000 with 2 ranks on a host: needs 18000000000000 bytes of memory, " \
  " are available"
ends_with 74 "$mpirun" 2 "$bench" "${small[@]}" --json="$work/nowhere/rows.jsonl"
says "$work/nowhere/rows.jsonl"
says_nothing_of "step_ms"
ends_with 74 "$mpirun" 2 "$bench" "${small[@]}" --trace="$work/nowhere/trace.json"
says "$work/nowhere/trace.json"
ends_with 0 "$bench" --help
says "--max_floor_ratio="
