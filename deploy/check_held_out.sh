#!/usr/bin/env bash
# Usage: deploy/check_held_out.sh LOG LIMIT
# Fails when the last `held-out bits per byte: <x>` of a training run's output is above LIMIT, or when there is none.
# Generated text, which may say anything, comes after it and is not looked at.
set -euo pipefail
if [ $# -ne 2 ]; then
  echo "usage: deploy/check_held_out.sh LOG LIMIT" >&2
  exit 64
fi
return_and_clear=$(printf '\r\033\\[K')
bits_per_byte=$(sed -e '/generated text:/,$d' "$1" | tr -d '\r' |
  sed -n "s/^\(.*${return_and_clear#?}\)\{0,1\}held-out bits per byte: \([0-9]*\.[0-9]*\)\$/\2/p" | tail -n 1)
if ! awk -v got="$bits_per_byte" -v limit="$2" 'BEGIN { exit !(got != "" && got + 0 <= limit + 0) }'; then
  echo "held-out bits per byte ${bits_per_byte:-missing}, worse than the limit $2" >&2
  exit 1
fi
echo "held-out bits per byte $bits_per_byte, within the limit $2"
