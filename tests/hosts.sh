#!/usr/bin/env bash
# Several hosts on one machine, for MPI jobs: 2 to 4 network namespaces with hostnames of their own, each joined by a veth
# to a bridge in a further namespace. Needs root and namespaces.
#
#   tests/hosts.sh check                                 exits with 0 where this works, else with 77 and says why not
#   tests/hosts.sh run N RANKS_PER_HOST [--rate RATE] PROGRAM [ARGUMENT...]
#                                                        up, mpirun, down; exits as deploy/mpirun.sh does
#   tests/hosts.sh up N [--rate RATE] [--owner PID]      prints the ID that the commands below take
#   tests/hosts.sh mpirun ID RANKS_PER_HOST PROGRAM [ARGUMENT...]
#   tests/hosts.sh exec ID HOST PROGRAM [ARGUMENT...]    on one host
#   tests/hosts.sh counters ID                           a line "<host> <bytes sent> <bytes received>" for each host
#   tests/hosts.sh cut ID HOST [from|to]                 loses what HOST sends, what is sent to it, or (default) both
#   tests/hosts.sh slow ID HOST RATE                     another rate, both ways
#   tests/hosts.sh delay ID HOST TIME                    both ways, instead of a rate; 77 where the kernel has no netem
#   tests/hosts.sh heal ID HOST                          as HOST was at first
#   tests/hosts.sh down ID
#
# HOST counts from 0. RATE is a whole number of kbit, mbit or gbit a second in each direction ("200mbit"); without it the
# links are as fast as the machine. Host h is host<h>, 10.77.0.<h + 1>.
#
# Everything hangs from one process, ID, and its namespaces (of processes and mounts too, with a /dev/shm that is theirs):
# when it ends, by `down`, by a signal, or because --owner has ended, the kernel ends every process in them and removes
# all else. So parallel runs cannot meet, and nothing stays behind.
# Exit codes: 64 usage, 77 not permitted here (ctest's SKIP_RETURN_CODE), 78 no such hosts.
set -euo pipefail
self=$(readlink -f "${BASH_SOURCE[0]}")
readonly self
readonly subnet=10.77.0

usage() {
  sed -n '5,17s/^#  *//p' "$self" >&2
  exit 64
}

fail() {
  echo "hosts.sh: $2" >&2
  exit "$1"
}

# One namespace of each kind, and a link of the kind that we build.
check() {
  local why
  [ "$(id -u)" -eq 0 ] || fail 77 "several hosts on one machine need root"
  why=$(unshare --net --uts --mount --pid --fork --kill-child --mount-proc bash -euc '
    mount -t tmpfs tmpfs /dev/shm
    ip link add port0 type veth peer name eth0
    ip link add bridge0 type bridge
    ip link set port0 master bridge0
    tc qdisc add dev port0 root tbf rate 1mbit burst 64kb latency 50ms' 2>&1) ||
    fail 77 "several hosts on one machine are not permitted here: $why"
}

# tbf DEVICE RATE: the words after `tc qdisc replace dev`. The bucket holds 10 ms, so that the rate is reached.
tbf() {
  [[ $2 =~ ^([1-9][0-9]{0,5})([kmg])bit$ ]] || fail 64 "not a rate: $2"
  local bytes_per_ms=$((BASH_REMATCH[1] * 125))
  case ${BASH_REMATCH[2]} in k) bytes_per_ms=$((bytes_per_ms / 1000)) ;; g) bytes_per_ms=$((bytes_per_ms * 1000)) ;; esac
  local burst=$((10 * bytes_per_ms))
  [ "$burst" -ge 65536 ] || burst=65536
  echo "$1 root tbf rate $2 burst $burst latency 50ms"
}

# Runs as the first process of the new namespaces. Its own network is the switch.
hold() {
  local hosts=$1 rate=$2 host pid
  mount -t tmpfs tmpfs /dev/shm
  ip link add bridge0 type bridge
  ip link set bridge0 up
  ip link set lo up
  for ((host = 0; host < hosts; ++host)); do
    unshare --net --uts bash -c "hostname host$host && exec -a shardstep-host-$host sleep infinity" &
    pid=$!
    until [ "$(tr '\0' ' ' <"/proc/$pid/cmdline")" = "shardstep-host-$host infinity " ]; do
      kill -0 "$pid"
      sleep 0.01
    done
    ip link add "port$host" type veth peer name eth0 netns "$pid"
    ip link set "port$host" master bridge0 up
    nsenter --target "$pid" --net bash -euc "
      ip link set lo up
      ip address add $subnet.$((host + 1))/24 dev eth0
      ip link set eth0 up"
  done
  echo "$rate" >/dev/shm/rate
  for ((host = 0; host < hosts; ++host)); do restore "$host"; done
  echo up
  exec >&-
  wait
}

# Below, where the namespace of processes is ours: host h is a child of process 1.
inner_pid_of() { pgrep --parent 1 --full "^shardstep-host-$1 " || fail 78 "no host $1"; }

# on_switch QDISC..., on_host HOST QDISC...: tc qdisc replace dev.
on_switch() { tc qdisc replace dev "$@"; }
on_host() {
  local pid
  pid=$(inner_pid_of "$1")
  shift
  nsenter --target "$pid" --net tc qdisc replace dev "$@"
}

# both_ways HOST RATE
both_ways() {
  local words
  words=$(tbf "port$1" "$2") || exit
  # shellcheck disable=SC2086 # words
  on_switch $words
  # shellcheck disable=SC2086
  on_host "$1" ${words/port$1/eth0}
}

restore() {
  local rate
  rate=$(cat /dev/shm/rate)
  ip link set "port$1" master bridge0
  if [ -n "$rate" ]; then
    both_ways "$1" "$rate"
  else
    tc qdisc delete dev "port$1" root 2>/dev/null || true
    nsenter --target "$(inner_pid_of "$1")" --net tc qdisc delete dev eth0 root 2>/dev/null || true
  fi
}

inside() {
  local command=$1 host=$2
  inner_pid_of "$host" >/dev/null
  case $command in
    # Lost beyond the host's own device, so that its TCP learns nothing at once.
    cut-both) ip link set "port$host" nomaster ;;
    cut-to) on_switch "port$host" root pfifo limit 0 ;;
    cut-from) on_host "$host" eth0 root pfifo limit 0 ;;
    slow) both_ways "$host" "$3" ;;
    delay)
      on_switch "port$host" root netem delay "$3" 2>/dev/null || fail 77 "this kernel has no netem"
      on_host "$host" eth0 root netem delay "$3"
      ;;
    heal) restore "$host" ;;
    mpirun) inside_mpirun "${@:3}" ;;
  esac
}

# On host 0: mpirun over all hosts, over their one network and no other way.
inside_mpirun() {
  local ranks_per_host=$1 hosts host
  shift
  hosts=$(pgrep --parent 1 --full --count '^shardstep-host-')
  for ((host = 0; host < hosts; ++host)); do
    echo "$subnet.$((host + 1)) slots=$ranks_per_host"
  done >/dev/shm/hostfile
  export OMPI_MCA_plm=rsh
  export OMPI_MCA_plm_rsh_agent="$self inside-agent"
  export OMPI_MCA_oob_tcp_if_include=eth0
  export OMPI_MCA_btl=self,vader,tcp
  export OMPI_MCA_btl_tcp_if_include=eth0
  export OMPI_MCA_orte_tmpdir_base=/dev/shm
  exec "$(dirname "$self")/../deploy/mpirun.sh" --hostfile /dev/shm/hostfile $((hosts * ranks_per_host)) "$@"
}

# What mpirun takes for ssh: ADDRESS COMMAND...
inside_agent() {
  local host=$((${1##*.} - 1))
  shift
  exec nsenter --target "$(inner_pid_of "$host")" --net --uts sh -c "$*"
}

is_up() { [[ ${1:-} =~ ^[0-9]+$ ]] && grep --quiet --text --fixed-strings hosts.sh "/proc/$1/cmdline" 2>/dev/null; }

# first_process_of ID, host_of ID HOST: process ids out here.
first_process_of() {
  is_up "${1:-}" || fail 78 "no hosts are up as ${1:-}"
  pgrep --parent "$1" || fail 78 "the hosts of $1 are gone"
}
host_of() {
  local first
  first=$(first_process_of "${1:-}") || exit
  pgrep --parent "$first" --full "^shardstep-host-${2:-} " || fail 78 "no host ${2:-} in $1"
}

# enter PID PROGRAM...: goes on as PROGRAM in all namespaces of a process.
enter() {
  exec nsenter --target "$1" --net --uts --mount --pid -- "${@:2}"
}

# up N [--rate RATE] [--owner PID]: sets $id.
up() {
  [[ ${1:-} =~ ^[2-4]$ ]] || usage
  local hosts=$1 rate='' owner='' ready
  shift
  while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
      --rate) rate=$2 ;;
      --owner) owner=$2 ;;
      *) usage ;;
    esac
    shift 2
  done
  [ -z "$rate" ] || tbf none "$rate" >/dev/null
  check
  coproc READY {
    exec setsid unshare --net --uts --mount --pid --fork --kill-child --mount-proc \
      bash "$self" inside-hold "$hosts" "$rate" 2>&1 </dev/null
  }
  id=$READY_PID
  disown "$id"
  IFS= read -r ready <&"${READY[0]}" || true
  if [ "$ready" != up ]; then
    kill -KILL "$id" 2>/dev/null || true
    fail 70 "the hosts did not come up: $ready"
  fi
  if [ -n "$owner" ]; then
    setsid bash "$self" watch "$owner" "$id" </dev/null >/dev/null 2>&1 &
  fi
}

down() {
  is_up "${1:-}" || return 0
  local first
  first=$(pgrep --parent "$1" || true)
  kill -KILL "$1" 2>/dev/null || true
  # The kernel has ended all when the first process is gone.
  [ -z "$first" ] || timeout 10 tail --pid="$first" -f /dev/null || fail 70 "the hosts of $1 do not end"
}

run() {
  [[ ${1:-} =~ ^[2-4]$ && ${2:-} =~ ^[1-9][0-9]*$ ]] || usage
  local hosts=$1 ranks_per_host=$2 rate=() status signaled
  shift 2
  if [ "${1:-}" = --rate ]; then
    rate=(--rate "${2:-}")
    shift 2 || usage
  fi
  [ $# -ge 1 ] || usage
  up "$hosts" "${rate[@]}" --owner $$
  trap 'down "$id"' EXIT
  trap 'exit 75' INT TERM HUP
  enter "$(host_of "$id" 0)" "$self" inside mpirun 0 "$ranks_per_host" "$@" <&0 &
  trap 'signaled=1; pkill --signal USR1 --parent $!' USR1
  while true; do
    signaled=
    status=0
    wait $! || status=$?
    [ -n "$signaled" ] || break
  done
  exit "$status"
}

counters() {
  local first pid host
  first=$(first_process_of "${1:-}") || exit
  for ((host = 0; ; ++host)); do
    pid=$(pgrep --parent "$first" --full "^shardstep-host-$host ") || break
    awk -v host="$host" -F '[: ]+' '$2 == "eth0" { print host, $11, $3 }' "/proc/$pid/net/dev"
  done
}

command=${1:-}
shift || usage
case $command in
  check) check ;;
  run) run "$@" ;;
  up)
    up "$@"
    echo "$id"
    ;;
  mpirun)
    [ $# -ge 3 ] || usage
    pid=$(host_of "$1" 0) || exit
    enter "$pid" "$self" inside mpirun 0 "${@:2}"
    ;;
  exec)
    [ $# -ge 3 ] || usage
    pid=$(host_of "$1" "$2") || exit
    enter "$pid" "${@:3}"
    ;;
  counters) counters "$@" ;;
  cut | slow | delay | heal)
    case $command-$#-${3:-} in
      cut-2- | cut-3-from | cut-3-to) command=cut-${3:-both} ;;
      slow-3-* | delay-3-* | heal-2-) ;;
      *) usage ;;
    esac
    pid=$(first_process_of "$1") || exit
    enter "$pid" bash "$self" inside "$command" "${@:2}"
    ;;
  down) down "$@" ;;
  watch)
    tail --pid="$1" -f /dev/null
    down "$2"
    ;;
  inside-hold) hold "$@" ;;
  inside-agent) inside_agent "$@" ;;
  inside) inside "$@" ;;
  *) usage ;;
esac
