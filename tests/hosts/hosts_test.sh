#!/usr/bin/env bash
# Usage: tests/hosts/hosts_test.sh SOURCE_DIR BINARY_DIR
# tests/hosts.sh is what it says: hosts that share no memory, links that count, lose and limit, nothing left behind.
# W1, W2 for the launcher alone: a link that comes back is no alarm, one that does not ends the job as retryable.
set -euo pipefail
hosts=$1/tests/hosts.sh
probe=$2/tests/hosts/host_probe
"$hosts" check || exit

work=$(mktemp -d)
ids=()
cleanup() {
  for id in "${ids[@]}"; do "$hosts" down "$id"; done
  rm -rf "$work"
}
trap cleanup EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# up ARGUMENT...: sets $id.
up() {
  id=$("$hosts" up "$@" --owner $$) || fail "up $* ended with $?"
  ids+=("$id")
}

# says FILE LINE...
says() {
  local file=$1 line
  for line in "${@:2}"; do
    grep -qxF -- "$line" "$file" || fail "no line '$line': $(cat "$file")"
  done
}

# sent HOST, received HOST: bytes.
sent() { "$hosts" counters "$id" | awk -v host="$1" '$1 == host { print $2 }'; }
received() { "$hosts" counters "$id" | awk -v host="$1" '$1 == host { print $3 }'; }

# reaches FROM TO: a port that nobody listens to says so at once, over a link that works.
reaches() {
  local status=0
  "$hosts" exec "$id" "$1" timeout 1 bash -c "</dev/tcp/10.77.0.$(($2 + 1))/9" 2>/dev/null || status=$?
  [ "$status" = 1 ]
}

# Ranks of one host share memory, of two hosts they do not.
"$hosts" run 2 2 "$probe" 1000 1 0 60 >"$work/two" || fail "two hosts: ended with $?"
says "$work/two" "rank 0 on host0, host 0" "rank 1 on host0, host 0" "rank 2 on host1, host 1" "rank 3 on host1, host 1" \
  "round 0"
echo "two hosts of two ranks"

# Three hosts: each sends its 4 MiB to both others, and the interfaces count that.
bytes=$((4 << 20))
up 3
before=$(sent 1)
"$hosts" mpirun "$id" 1 "$probe" "$bytes" 1 0 60 >"$work/three" || fail "three hosts: ended with $?"
says "$work/three" "rank 0 on host0, host 0" "rank 1 on host1, host 1" "rank 2 on host2, host 2" "round 0"
for host in 0 1 2; do
  for counted in "$(sent "$host")" "$(received "$host")"; do
    [[ $counted -ge $((2 * bytes)) && $counted -le $((2 * bytes + bytes / 2)) ]] ||
      fail "host $host: $counted bytes counted, $((2 * bytes)) were sent"
  done
done
[ "$before" -lt 100000 ] || fail "$before bytes before anything was sent"
echo "three hosts, counted"

# A link that is cut, one way or both, loses what goes that way.
reaches 0 1 || fail "host 0 does not reach host 1"
for way in "" from to; do
  # shellcheck disable=SC2086 # may be none
  "$hosts" cut "$id" 1 $way
  ! reaches 0 1 || fail "host 0 reaches host 1, which is cut off ($way)"
  reaches 0 2 || fail "host 0 does not reach host 2"
  "$hosts" heal "$id" 1
  reaches 0 1 || fail "host 0 does not reach host 1 again ($way)"
done
echo "cut and healed"

# A rate is not exceeded: 4 MiB at 40 Mbit/s take 0.84 s, less what the bucket lets through at first.
"$hosts" slow "$id" 1 40mbit
"$hosts" exec "$id" 1 python3 -c "
import socket
listener = socket.create_server(('10.77.0.2', 5000))
peer = listener.accept()[0]
while peer.recv(1 << 20): pass
peer.sendall(b'x')" &
receiver=$!
elapsed_ms=$("$hosts" exec "$id" 0 python3 -c "
import socket, time
for _ in range(100):
    try:
        peer = socket.create_connection(('10.77.0.2', 5000))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
begin = time.monotonic()
peer.sendall(bytes($bytes))
peer.shutdown(socket.SHUT_WR)
peer.recv(1)
print(int(1000 * (time.monotonic() - begin)))")
wait "$receiver"
[ "$elapsed_ms" -ge 700 ] || fail "4 MiB took $elapsed_ms ms at 40 Mbit/s"
"$hosts" exec "$id" 1 tc qdisc show dev eth0 | grep -q 'tbf .*rate 40Mbit' || fail "no rate on host 1"
"$hosts" heal "$id" 1
! "$hosts" exec "$id" 1 tc qdisc show dev eth0 | grep -q tbf || fail "healed, but still slow"
echo "slowed down"
"$hosts" down "$id"
[ ! -e "/proc/$id" ] || fail "$id is still there after down"

# rounds FILE NUMBER: waits until the job has printed round NUMBER.
rounds() {
  for _ in $(seq 300); do
    ! grep -qx "round $2" "$1" || return 0
    sleep 0.1
  done
  fail "round $2 did not come: $(cat "$1")"
}

# W2: a job waits while a link is gone for 2 s, and goes on.
up 2 --rate 100mbit
"$hosts" mpirun "$id" 1 "$probe" 1000 60 50 60 >"$work/flap" 2>&1 &
job=$!
rounds "$work/flap" 5
"$hosts" cut "$id" 1
sleep 1
stopped=$(wc -l <"$work/flap")
sleep 1
[ "$(wc -l <"$work/flap")" = "$stopped" ] || fail "the job went on while a host was cut off"
"$hosts" heal "$id" 1
wait "$job" || fail "a flap ended the job with $?: $(cat "$work/flap")"
says "$work/flap" "round 59"
echo "went on after a flap"

# W1: a link that does not come back ends the job, though mpirun itself waits for ever.
"$hosts" mpirun "$id" 1 "$probe" 1000 100000 50 2 >"$work/cut" 2>&1 &
job=$!
rounds "$work/cut" 5
"$hosts" cut "$id" 1
timeout 100 tail --pid="$job" -f /dev/null || fail "the job does not end: $(cat "$work/cut")"
status=0
wait "$job" || status=$?
[ "$status" = 75 ] || fail "a host that is cut off ended the job with $status: $(cat "$work/cut")"
grep -q 'mpirun.sh: .*host' "$work/cut" || fail "it does not say why: $(cat "$work/cut")"
echo "ended after a cut: $(tail -n 1 "$work/cut")"

# A whole host is lost: its mpirun daemon dies.
"$hosts" heal "$id" 1
"$hosts" mpirun "$id" 1 "$probe" 1000 100000 50 60 >"$work/lost" 2>&1 &
job=$!
rounds "$work/lost" 5
"$hosts" exec "$id" 1 pkill -KILL orted
timeout 60 tail --pid="$job" -f /dev/null || fail "the job does not end: $(cat "$work/lost")"
status=0
wait "$job" || status=$?
[ "$status" = 75 ] || fail "a lost host ended the job with $status: $(cat "$work/lost")"
echo "ended after a loss: $(tail -n 1 "$work/lost")"

# Whoever is killed leaves nothing behind: the runner of a job, the owner of hosts.
"$hosts" run 2 1 sleep 4321 &
runner=$!
for _ in $(seq 100); do
  [ "$(pgrep --full --count '^sleep 4321$')" != 2 ] || break
  sleep 0.1
done
holder=$(pgrep --full --newest '^unshare .*hosts.sh inside-hold 2')
[ "$(pgrep --full --count '^sleep 4321$')" = 2 ] || fail "two ranks do not run"
kill -KILL "$runner"
for _ in $(seq 100); do
  [ -e "/proc/$holder" ] || break
  sleep 0.1
done
[ ! -e "/proc/$holder" ] || fail "the hosts outlive the killed script"
! pgrep --full '^sleep 4321$' >/dev/null || fail "ranks outlive the killed script"
wait "$runner" 2>/dev/null || true
echo "nothing is left behind"

# What cannot be.
status=0
"$hosts" run 5 1 true 2>/dev/null || status=$?
[ "$status" = 64 ] || fail "five hosts: $status"
status=0
"$hosts" up 2 --rate fast 2>/dev/null || status=$?
[ "$status" = 64 ] || fail "rate 'fast': $status"
status=0
"$hosts" counters 1 2>/dev/null || status=$?
[ "$status" = 78 ] || fail "counters of no hosts: $status"
echo "refused"
