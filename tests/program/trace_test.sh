#!/usr/bin/env bash
# A timeline of a training run: every operation of every rank and step is in it, it changes no bits, and a file that cannot
# be written is refused before the first step.
. "$(dirname "$0")/lib.sh"

job=("${small[@]}" --steps 5 --warmup_steps 2 --micro_batches 4)
plain=$(digest "$train" --backend INPROC --ranks 2 "${job[@]}")

cat >"$work/check_trace.py" <<'EOT'
# Usage: check_trace.py TRACE RANKS FIRST_STEP LAST_STEP: of a run with micro-batches for two micro-steps.
import collections
import json
import sys

ranks, first, last = map(int, sys.argv[2:])
events = json.load(open(sys.argv[1]))["traceEvents"]
names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
assert [name.split(" (")[0] for name in names.values()] == [f"rank {rank}" for rank in range(ranks)], names
threads = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
tracks = collections.defaultdict(list)
operations = collections.Counter()
for event in events:
    if event["ph"] == "X":
        tracks[event["pid"], event["tid"]].append(event)
        if "level" in event["args"]:
            key = (event["pid"], event["args"]["step"], event["name"], threads[event["pid"], event["tid"]])
            operations[key] += 1
assert {step for _, step, _, _ in operations} == set(range(first, last + 1)), operations
buckets = operations[min(names), first, "Update", "update"]
assert buckets > 0
micro_steps = 4 // ranks
for pid in names:
    for step in range(first, last + 1):
        for name, count in {"Exchange": buckets * micro_steps, "Reduce": buckets * micro_steps, "Update": buckets,
                            "Publish": buckets, "AllReduceSmall": 1, "Decide": 1}.items():
            thread = "caller" if name == "Exchange" else "update"
            assert operations[pid, step, name, thread] == count, (pid, step, name, operations)
for slices in tracks.values():
    for before, after in zip(slices, slices[1:]):
        assert before["ts"] + before["dur"] <= after["ts"] + 1e-4, (before, after)
arrows = collections.Counter(event["ph"] for event in events if event["ph"] in "stf")
count = ranks * (last - first + 1) * buckets * micro_steps
assert arrows["s"] == arrows["f"] == count, (arrows, count)
# On one host clocks agree: no rank's Decide ends before another has contributed.
for step in range(first, last + 1):
    def times(name, what):
        return [event["ts"] + (event["dur"] if what == "end" else 0) for event in events
                if event["ph"] == "X" and event["name"] == name and event["args"]["step"] == step]
    assert max(times("Contribute", "begin")) <= min(times("Decide", "end")) + 100, step
EOT

# traced RANKS FIRST LAST COMMAND...
traced() {
  local ranks=$1 first=$2 last=$3
  shift 3
  rm -f "$work/trace.json"
  ends_with 0 "$@" "${job[@]}" --trace "$work/trace.json"
  says "timeline: $work/trace.json"
  python3 "$work/check_trace.py" "$work/trace.json" "$ranks" "$first" "$last" || fail "the trace of $*"
  echo "traced: $ranks ranks, steps $first to $last"
}

traced 2 1 5 "$mpirun" 2 "$train"
expect "$plain" "$(tail -n 1 <<<"$said")" "traced or not"
traced 4 1 5 "$train" --backend INPROC --ranks 4

# A resumed run numbers its steps as its records do.
saved=("$train" --backend INPROC --ranks 2 --checkpoint_dir "$work/saved")
ends_with 0 "${saved[@]}" "${job[@]}" --stop_after 3
traced 2 4 5 "${saved[@]}" --resume

ends_with 74 "$mpirun" 2 "$train" "${job[@]}" --trace "$work/nowhere/trace.json"
says "$work/nowhere/trace.json"
says_nothing_of "step 1/"
# Only the end of the run finds a full disk.
ends_with 74 "$mpirun" 2 "$train" "${job[@]}" --trace /dev/full
says "writing /dev/full"
ends_with 78 "$train" --backend INPROC "${job[@]}" --trace=
says "run.trace"
