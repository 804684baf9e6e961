#!/usr/bin/env bash
# Usage: gpu_bundle_test.sh SOURCE_DIR BINARY_DIR
# What tools/gpu_check.sh packs runs elsewhere: from an empty folder, with an empty environment, where no GPU is.
set -euo pipefail
source_dir=$1
binary_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

said=$("$source_dir/tools/gpu_check.sh" --bundle "$work/bundle.tar.gz" --build "$binary_dir" 2>&1) || fail "packing: $said"
size=$(stat -c %s "$work/bundle.tar.gz")
[ "$size" -le $((64 << 20)) ] || fail "the bundle has $size bytes"
grep -qE "bundle.tar.gz: $size bytes, needs glibc [0-9.]+$" <<<"$said" || fail "the size is not said: $said"
echo "packed: $size bytes"

mkdir "$work/elsewhere"
cd "$work/elsewhere"
tar xzf "$work/bundle.tar.gz"
[ "$(ls)" = shardstep_gpu_check ] || fail "the bundle is no folder of its own: $(ls)"
for file in gpu_check.sh shardstep_gpu_check libshardstep_cuda.so fused_adamw.py; do
  [ -f "shardstep_gpu_check/$file" ] || fail "$file is missing"
done

# Everything but the C library comes from the bundle, and CUDA's runtime and NCCL are no part of it.
env -i /usr/bin/ldd shardstep_gpu_check/shardstep_gpu_check >libraries
! grep -F 'not found' libraries || fail "libraries are missing"
! grep -E 'libmpi|libcudart|libnccl|libcuda\.so' libraries || fail "the program needs what it is not to need"
others=$(awk '$2 == "=>" { print $3 }' libraries | grep -v "^$work/elsewhere/shardstep_gpu_check/" || true)
! grep -vE '/(libc|libm|libdl|libpthread|librt)\.so[.0-9]*$' <<<"$others" || fail "libraries of this machine are used"
! env -i /usr/bin/ldd shardstep_gpu_check/libshardstep_cuda.so | grep -E 'libcudart|libnccl|libcuda\.so|not found' ||
  fail "libshardstep_cuda.so needs what it is not to need"
echo "libraries: all but the C library of the bundle"

# A machine with a GPU goes on; what is tested here is one without. No device of its own is shown to CUDA.
code=0
env -i CUDA_VISIBLE_DEVICES= ./shardstep_gpu_check/gpu_check.sh --out "$work/logs" >said 2>&1 || code=$?
[ "$code" = 78 ] || fail "without a GPU it ended with $code: $(cat said)"
grep -qE '^PASS +host .*one hash, [0-9a-f]{32}: reference, .*1 to 4 ranks on CPUs end in weights=' said ||
  fail "what needs no GPU did not pass: $(cat said)"
for check in kernels nccl staged graph async bench torch memcheck memcheck_steps racecheck initcheck; do
  grep -qE "^NOT RUN +$check " said || fail "$check is not said to be not run: $(cat said)"
done
! grep -qE '^(FAIL|PASS) +[^h ]' said || fail "it claims what it cannot know: $(cat said)"
grep -qE '^no GPU: .*cuda' said || fail "it does not say that there is no GPU: $(cat said)"
grep -qE '^1 passed, 0 failed, 11 not run' said || fail "it counts wrongly: $(cat said)"
cmp -s <(grep -vE '^$' said) "$work/logs/table.txt" || fail "table.txt is not what was printed"
echo "run: without a GPU, said so"

# A C library that is too old is told before anything runs.
echo 99.1 >shardstep_gpu_check/glibc_version
code=0
env -i ./shardstep_gpu_check/gpu_check.sh --out "$work/logs" >said 2>&1 || code=$?
[ "$code" = 78 ] || fail "an old C library gave $code: $(cat said)"
grep -qF 'needs glibc 99.1, and this machine has' said || fail "an old C library is not named: $(cat said)"
echo "refused: an old C library"
