#!/usr/bin/env bash
# Usage: tests/runtime/c_library_test.sh SOURCE_DIR OBJECT
# libshardstep.so as it was linked: exports the functions of shardstep.h and nothing else, finds all that it needs, can
# be closed and loaded again, and takes the CUDA backend that lies beside it. The header stands alone in C and in C++.
set -euo pipefail
header=$1/runtime/shardstep.h
program=$1/tests/runtime/c_library_test.c
object=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

strict=(-Wall -Wextra -pedantic -Werror -fsyntax-only)
cc -x c -std=c99 "${strict[@]}" "$header"
for standard in c++11 c++20; do
  c++ -x c++ -std=$standard "${strict[@]}" "$header"
done

declared=$(cc -x c -E -P "$header" | tr '\n' ' ' | grep -o 'visibility("default")[^;]*;' |
  sed 's/[^;]*[ *]\(shardstep_[a-z0-9_]*\)(.*/\1/' | sort)
exported=$(nm -D --defined-only "$object" | awk '{print $NF}' | sort)
[ "$(wc -l <<<"$declared")" -ge 40 ] || fail "the functions of $header were not found: $declared"
diff <(echo "$declared") <(echo "$exported") >&2 || fail "what $header declares (<) is not what $object exports (>)"

ldd -r "$object" >"$work/needed" 2>&1
! grep -E 'not found|undefined symbol|libcuda|libnccl' "$work/needed" >&2 || fail "$object cannot be loaded everywhere"

# A backend of another version, which says whether it is this one that was found.
cp "$(readlink -f "$object")" "$work/$(basename "$object")"
echo 'const char* shardstep_cuda_version(void) { return "none"; }' |
  cc -x c -shared -fPIC -o "$work/libshardstep_cuda.so" -
cc -std=c99 -Wall -Wextra -Werror -I "$(dirname "$header")" "$program" -o "$work/program" -ldl
said=$("$work/program" "$work/$(basename "$object")")
grep -q 'libshardstep_cuda.so is of version none' <<<"$said" || fail "the CUDA backend beside it was not taken: $said"
echo "exports $(wc -l <<<"$exported") functions"
