#!/usr/bin/env bash
# C6 and what shardstep_train prints and records besides, judged at 1, 2 and 3 ranks, as processes and as threads: which lines, in which
# order, and that what does not depend on time is the same bytes.
. "$(dirname "$0")/lib.sh"

job=("${small[@]}" --steps 6 --warmup_steps 2 --micro_batches 3 --max_norm 0.5 --evaluate_interval 2 --poison_step 3
  --generate_bytes 50)

cat >"$work/check_output.py" <<'EOF'
# Usage: check_output.py OUTPUT RECORDS LASTING: of a run without a terminal. Writes to LASTING what does not depend on
# time or on the number of ranks.
import json
import re
import sys

NUMBER = rb"[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?"
DURATION = rb"([0-9]+ s|[0-9]+ min [0-9]{2} s)"
PROGRESS = re.compile(
    rb"step ([0-9]+)/6  bits/byte (%s)(  norm %s)?  (clip %s|SKIPPED)  %s[kM]? tokens/s  forward %s ms  backward %s ms"
    rb"  exposed step %s ms  ETA %s" % ((NUMBER,) * 7 + (DURATION,)))
HELD_OUT = re.compile(rb"held-out bits per byte: [0-9]\.[0-9]{4}")
SKIPPED = (b"step 3 skipped, the 1. in a row and 1 in all: non-finite gradient at micro-batch 0 (rank 0), "
           b'parameter "embedding.token.weight", element 0')
DIGEST = re.compile(rb"digest weights=[0-9a-f]{32} master=[0-9a-f]{32} state=[0-9a-f]{64} step=6")


def fail(why):
    sys.exit(f"{sys.argv[1]}: {why}")


output = open(sys.argv[1], "rb").read()
body, separator, rest = output.partition(b"generated text:\n")
if not separator:
    fail("no generated text")
text, rest = rest[:50], rest[50:]
if not rest.startswith(b"\n") or not DIGEST.fullmatch(rest[1:-1]) or not rest.endswith(b"\n"):
    fail(f"50 bytes of text and the digest line were expected at the end, got {text + rest}")

kinds = []
lasting = []
for line in body.splitlines()[1:]:
    progress = PROGRESS.fullmatch(line)
    if progress:
        skipped = b"SKIPPED" in line
        if skipped == (b"  norm " in line):
            fail(f"a norm belongs to an applied step: {line}")
        kinds.append(f"step {int(progress[1])}" + (", not applied" if skipped else ""))
    elif HELD_OUT.fullmatch(line):
        kinds.append("held out")
        lasting.append(line)
    elif line == SKIPPED:
        kinds.append("skipped")
        lasting.append(line)
    else:
        fail(f"unexpected line {line}")
wanted = ["step 1", "step 2", "held out", "step 3, not applied", "skipped", "step 4", "held out", "step 5", "step 6",
          "held out"]
if kinds != wanted:
    fail(f"expected {wanted}, got {kinds}")
if not body.rstrip().splitlines()[-2].endswith(b"ETA 0 s"):
    fail("the last step has nothing left to wait for")
if len(set(lasting[:1] + lasting[2:])) != 3:
    fail(f"a model that learns was expected: {lasting}")

records = [json.loads(line) for line in open(sys.argv[2])]
if len(records) != 6:
    fail(f"{len(records)} records of 6 steps")
for number, record in enumerate(records, 1):
    step = record["step"]
    poisoned = number == 3
    found = (int(step["step"]), int(step["applied_steps"]), step["applied"], int(step["skipped_steps"]))
    if found != (number, number - (number >= 3), not poisoned, int(number >= 3)):
        fail(f"counters of record {number}: {found}")
    if ("gradient_norm" in step) == poisoned or ("non_finite" in step) != poisoned:
        fail(f"record {number}: a norm, or else the place of what was not finite: {step}")
    if not poisoned and not step["gradient_norm"] > 0:
        fail(f"record {number}: norm {step['gradient_norm']}")
    if not 0 < record["bits_per_byte"] < 16:
        fail(f"record {number}: {record['bits_per_byte']} bits per byte")
    shown = [line for line in body.splitlines() if line.startswith(b"step %d/6 " % number)]
    if b"  bits/byte %.4f  " % record["bits_per_byte"] not in shown[0]:
        fail(f"record {number} has {record['bits_per_byte']} bits per byte, shown was {shown[0]}")
    if not poisoned and f"  norm {step['gradient_norm']:.4g}  clip {step['clip_factor']:.3f}  ".encode() not in shown[0]:
        fail(f"record {number} has {step}, shown was {shown[0]}")
    lasting.append(repr((record["bits_per_byte"], step.get("gradient_norm"), step["clip_factor"])).encode())
place = records[2]["step"]["non_finite"]
found = (int(place["micro_batch"]), int(place["rank"]), place["parameter"], int(place["element"]))
if found != (0, 0, "embedding.token.weight", 0):
    fail(f"the poisoned gradient was found at {found}")

with open(sys.argv[3], "wb") as file:
    file.write(b"\n".join(lasting + [text, rest]))
EOF

# judge NAME COMMAND...: what lasts of its output is what lasted of the first.
judge() {
  local name=$1
  shift
  "$@" "${job[@]}" --records "$work/records.jsonl" >"$work/output" 2>"$work/errors" ||
    fail "$name ended with $?: $(cat "$work/output" "$work/errors")"
  python3 "$work/check_output.py" "$work/output" "$work/records.jsonl" "$work/lasting" || fail "output of $name"
  [ -e "$work/wanted" ] || cp "$work/lasting" "$work/wanted"
  cmp "$work/wanted" "$work/lasting" || fail "$name printed something else:
$(diff -a "$work/wanted" "$work/lasting")"
  echo "printed and recorded: $name"
}

for ranks in 1 2 3; do
  judge "$ranks processes" "$mpirun" "$ranks" "$train"
  judge "$ranks threads" "$train" --backend INPROC --ranks "$ranks"
done

# On a terminal steps overwrite each other, cut to its width; every other line is the same.
SHARDSTEP_TERMINAL_COLUMNS=60 "$mpirun" 2 "$train" "${job[@]}" >"$work/terminal" 2>&1 || fail "with a terminal"
python3 - "$work/terminal" "$work/wanted" <<'EOF' || fail "output on a terminal: $(cat -v "$work/terminal")"
import re
import sys

output = open(sys.argv[1], "rb").read().partition(b"generated text:\n")[0]
wanted = open(sys.argv[2], "rb").read()
shown = [text for text in re.split(rb"\r\x1b\[K|\n", output) if text.startswith(b"step ")]
steps = [text for text in shown if re.match(rb"step [0-9]+/6 ", text)]
assert {text.split()[1] for text in steps} == {b"%d/6" % step for step in range(1, 7)}, steps
assert max(map(len, steps)) == 59, steps
assert not re.search(rb"step [0-9]+/6 [^\r\n]*\n", output), "a step's line was left standing"
held_out = re.findall(rb"\r\x1b\[K(held-out bits per byte: .*)\n", output)
assert held_out == [line for line in wanted.split(b"\n") if line.startswith(b"held-out")], held_out
EOF
echo "printed: on a terminal"
