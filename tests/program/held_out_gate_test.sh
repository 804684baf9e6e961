#!/usr/bin/env bash
# The gate of the main job (deploy/check_held_out.sh): the last held-out line counts, wherever a terminal put it, and nothing else does.
. "$(dirname "$0")/lib.sh"
gate=$source_dir/deploy/check_held_out.sh
log=$work/log

# gate_says CODE LIMIT, of the log on standard input
gate_says() {
  local status=0
  cat >"$log"
  "$gate" "$log" "$2" >/dev/null 2>&1 || status=$?
  [ "$status" = "$1" ] || fail "the gate ended with $status, not $1, at limit $2 for: $(cat -v "$log")"
}

printf 'held-out bits per byte: 2.3601\n' | gate_says 0 2.3601
printf 'held-out bits per byte: 2.3601\n' | gate_says 1 2.36
printf 'held-out bits per byte: 2.1000\nheld-out bits per byte: 2.5000\n' | gate_says 1 2.41
printf 'held-out bits per byte: 2.9000\nheld-out bits per byte: 2.3000\n' | gate_says 0 2.41
printf '\r\033[Kstep 1/2\r\033[Kheld-out bits per byte: 2.3000\r\nstep 2/2\n' | gate_says 0 2.41
printf '\r\033[Kstep 1/2\r\033[Kheld-out bits per byte: 2.5000\r\nstep 2/2\n' | gate_says 1 2.41
printf 'held-out bits per byte: 2.9000\ngenerated text:\nheld-out bits per byte: 1.0000\n' | gate_says 1 2.41
printf 'they say held-out bits per byte: 1.0000\n' | gate_says 1 2.41
printf 'held-out bits per byte: nan\n' | gate_says 1 2.41
printf 'nothing\n' | gate_says 1 2.41
echo "the gate holds"
