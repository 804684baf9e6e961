#!/usr/bin/env bash
# R1, R6, R9 without mpirun: ranks that a script starts and that meet at an address. The same bits; what differs, what is
# missing and what dies is named.
. "$(dirname "$0")/lib.sh"

job=("${small[@]}" --warmup_steps 2 --micro_batches 3 --steps)

# free_port: one that nobody listens at, as far as can be known.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start RANKS RANK FLAG...: one rank, in the background, at $address; what it says is in $work/rank<RANK>.
start() {
  timeout -k 5 60 "$train" --backend TCP --address "$address" --ranks "$1" --rank "$2" "${job[@]}" "$steps" "${@:3}" \
    >"$work/rank$2" 2>&1 </dev/null &
  pids[$2]=$!
}

# ended RANK CODE TEXT...: it did, and said all of TEXT in one line.
ended() {
  local status=0
  wait "${pids[$1]}" || status=$?
  said=$(cat "$work/rank$1")
  [ "$status" = "$2" ] || fail "rank $1 ended with $status, not $2: $said"
  [ $# -le 2 ] || says "${@:3}"
}

pids=()
steps=10
address=127.0.0.1:$(free_port)
for rank in 0 1 2; do start 3 "$rank"; done
for rank in 0 1 2; do ended "$rank" 0; done
expect "$(digest "$train" --backend INPROC --ranks 3 "${job[@]}" 10)" "$(tail -n 1 "$work/rank0")" "3 processes over TCP"
[ ! -s "$work/rank1" ] || fail "another rank than 0 printed: $(cat "$work/rank1")"

# Started with another seed.
address=127.0.0.1:$(free_port)
start 2 0
start 2 1 --seed 2
for rank in 0 1; do ended "$rank" 78 "ranks 0 and 1" "seed = 1" "seed = 2"; done

# A rank that dies is missed by the deadline of a wait. (Its parent is the timeout that start puts around it.)
address=127.0.0.1:$(free_port)
steps=100000
deadline=(--set optimizer.wait_deadline_seconds=3)
start 2 0 "${deadline[@]}" --records "$work/killed.jsonl"
start 2 1 "${deadline[@]}"
for _ in $(seq 600); do
  [ "$(cat "$work/killed.jsonl" 2>/dev/null | wc -l)" -lt 2 ] || break
  sleep 0.05
done
pkill -KILL -P "${pids[1]}" || fail "there was nothing to kill: $(cat "$work/rank1")"
ended 0 75
grep -qE 'rank 1|ranks 0, 1 did not arrive' <<<"$said" || fail "rank 1 died, and is not named: $said"
echo "ended with 75: one rank of two killed"
steps=10

# A port that is no number.
address=127.0.0.1:http
start 2 0
ended 0 78 "127.0.0.1:http"
