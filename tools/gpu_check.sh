#!/usr/bin/env bash
# Usage: tools/gpu_check.sh [--out DIR] [--build DIR] [--device N] [--nccl FILE] [--python FILE]
#        tools/gpu_check.sh --bundle FILE.tar.gz [--build DIR]
# Whether the CUDA backend does on this machine's GPU what it does everywhere, in less than 10 minutes: runs every check
# of shardstep_gpu_check, some of them under compute-sanitizer, and PyTorch's fused AdamW beside our update, and prints a
# table of PASS, FAIL and NOT RUN. What a machine lacks (NCCL, compute-sanitizer, PyTorch) is NOT RUN, and no PASS.
# Exits with 0 when nothing failed, 1 when something did, 64 when the command line is wrong, 78 without a GPU that can be
# used or when this machine's C library is too old; before that it has run what needs no GPU.
#   --out DIR      logs and table.txt (default gpu_check_logs)
#   --build DIR    of CMake (default build/release); not looked at beside a program, as in a bundle
#   --device N     which GPU, as CUDA counts (default 0)
#   --nccl FILE    libnccl.so.2 (default: of the CUDA toolkit, the loader, or python's nvidia-nccl wheel)
#   --python FILE  one that may import torch (default python3)
#   --bundle FILE  builds (into build/gpu_check, unless --build names a configured tree) and packs everything that another
#                  machine needs into one archive: its only demands are a C library, and a driver for the GPU. There:
#                  tar xf FILE && shardstep_gpu_check/gpu_check.sh
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
budget_s=570
most_bundle_bytes=$((64 << 20))
bench_parameters=500000000

die() {
  echo "gpu_check.sh: $2" >&2
  exit "$1"
}

staging=''  # what the trap removes
out=gpu_check_logs build='' device=0 nccl='' python=python3 bundle=''
while [ $# -gt 0 ]; do
  case $1 in
    --out | --build | --device | --nccl | --python | --bundle)
      [ $# -ge 2 ] || die 64 "$1 needs a value"
      declare "${1#--}=$2"
      shift 2
      ;;
    --help)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) die 64 "$1: there is no such flag; see --help" ;;
  esac
done

# ---- Packing ---------------------------------------------------------------------------------------------------------

# Shared libraries that FILE... need, but for the C library's.
needed_libraries() {
  ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|libpthread|librt|ld-linux-x86-64)\.so[.0-9]*$'
}

# The newest version of the C library that any of FILE... asks for.
needed_glibc() {
  objdump -T "$@" 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1 | sed 's/GLIBC_//'
}

pack() {
  local source folder size
  source=$(dirname "$here")
  if [ -z "$build" ]; then
    build=$source/build/gpu_check
    cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSHARDSTEP_WITH_CUDA=ON \
      -DSHARDSTEP_WITH_MPI=OFF -DSHARDSTEP_BUILD_TESTS=OFF || die 70 "configuring failed"
  fi
  cmake --build "$build" --target shardstep_gpu_check --parallel "$(nproc)" || die 70 "building failed"
  [ -f "$build/libshardstep_cuda.so" ] || die 78 "$build was configured without CUDA (SHARDSTEP_WITH_CUDA)"

  staging=$(mktemp -d) || die 74 "no temporary folder"
  trap 'rm -rf "$staging"' EXIT
  folder=$staging/shardstep_gpu_check
  mkdir "$folder"
  cp "$build/tools/gpu_check/shardstep_gpu_check" "$build/libshardstep_cuda.so" "$here/gpu_check.sh" \
    "$here/gpu_check/fused_adamw.py" "$folder" || die 74 "copying failed"
  ldd "$folder/shardstep_gpu_check" "$folder/libshardstep_cuda.so" | grep 'not found' && die 70 "libraries are missing"
  # shellcheck disable=SC2046
  cp -L $(needed_libraries "$folder/shardstep_gpu_check" "$folder/libshardstep_cuda.so") "$folder" ||
    die 74 "copying libraries failed"
  needed_glibc "$folder"/* >"$folder/glibc_version"
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$staging" -cf - shardstep_gpu_check | gzip -9n \
    >"$bundle" || die 74 "$bundle cannot be written"
  size=$(stat -c %s "$bundle")
  [ "$size" -le "$most_bundle_bytes" ] || die 70 "$bundle has $size bytes, more than $most_bundle_bytes"
  echo "$bundle: $size bytes, needs glibc $(cat "$folder/glibc_version")"
}

if [ -n "$bundle" ]; then
  pack
  exit 0
fi

# ---- The program -----------------------------------------------------------------------------------------------------

if [ -x "$here/shardstep_gpu_check" ] && [ -f "$here/shardstep_gpu_check" ]; then
  program=$here/shardstep_gpu_check
  scripts=$here
else
  program=${build:-$(dirname "$here")/build/release}/tools/gpu_check/shardstep_gpu_check
  scripts=$here/gpu_check
fi
[ -x "$program" ] || die 78 "$program is not there: build shardstep_gpu_check, or give --build"
if [ -f "$here/glibc_version" ]; then
  needed=$(cat "$here/glibc_version")
  found=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/[^0-9.]*//')
  [ "$(printf '%s\n' "$needed" "${found:-0}" | sort -V | head -n 1)" = "$needed" ] ||
    die 78 "this bundle needs glibc $needed, and this machine has ${found:-another C library}"
fi
mkdir -p "$out" || die 74 "$out cannot be made"
table=$out/table.txt
: >"$table" || die 74 "$table cannot be written"
began=$SECONDS
passed=0 failed=0 not_run=0

# row RESULT CHECK SECONDS WHAT
row() {
  printf '%-8s %-20s %5s s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$table"
  case $1 in
    PASS) passed=$((passed + 1)) ;;
    FAIL) failed=$((failed + 1)) ;;
    *) not_run=$((not_run + 1)) ;;
  esac
}

# check NAME LIMIT_S COMMAND...: a row from how it ended and its last line; the exit code in $code, the log in $log.
# What matches $excuse in the log of a failure, if that is set, says that the check could not be made; what does not match
# $proof in the log of a success, if that is set, was none.
excuse='' proof=''
check() {
  local name=$1 limit=$2 start=$SECONDS left last
  shift 2
  log=$out/$name.log code=0
  left=$((budget_s - (SECONDS - began)))
  if [ "$left" -le 0 ]; then
    row FAIL "$name" 0 "not made: the time of $budget_s s is used up"
    code=77
    return
  fi
  timeout -k 5 $((limit < left ? limit : left)) "$@" >"$log" 2>&1 </dev/null || code=$?
  last=$(grep -E '^(PASS|FAIL|NOT RUN) ' "$log" | tail -n 1 | sed -E 's/^(PASS|FAIL|NOT RUN) +[^ ]+ ?//')
  if [ "$code" != 0 ] && [ -n "$excuse" ] && grep -qiE "$excuse" "$log"; then
    row "NOT RUN" "$name" $((SECONDS - start)) "$(grep -iE "$excuse" "$log" | head -n 1)"
    return
  fi
  if [ "$code" = 0 ] && [ -n "$proof" ] && ! grep -qE "$proof" "$log"; then
    row FAIL "$name" $((SECONDS - start)) "the log has no $proof"
    return
  fi
  case $code in
    0) row PASS "$name" $((SECONDS - start)) "$last" ;;
    78) row "NOT RUN" "$name" $((SECONDS - start)) "$last" ;;
    124 | 137) row FAIL "$name" $((SECONDS - start)) "did not end in time; see $log" ;;
    *) row FAIL "$name" $((SECONDS - start)) "${last:-ended with $code: $(tail -n 1 "$log")}" ;;
  esac
}

finish() {
  echo "$passed passed, $failed failed, $not_run not run, in $((SECONDS - began)) s; logs in $out" | tee -a "$table"
  exit "$1"
}

# ---- What the machine has --------------------------------------------------------------------------------------------

find_nccl() {
  local file
  for file in /usr/local/cuda*/lib64/libnccl.so.2 /usr/local/cuda*/lib/libnccl.so.2 \
    /usr/local/cuda*/targets/x86_64-linux/lib/libnccl.so.2; do
    [ -f "$file" ] && echo "$file" && return
  done
  file=$(ldconfig -p 2>/dev/null | awk '/libnccl\.so\.2 .*x86-64/ { print $NF; exit }')
  [ -n "$file" ] && echo "$file" && return
  "$python" -c '
import os, sys
for folder in sys.path:
    file = os.path.join(folder, "nvidia", "nccl", "lib", "libnccl.so.2")
    if os.path.isfile(file):
        print(file)
        break
' 2>/dev/null
}

[ -n "$nccl" ] || nccl=$(find_nccl)
with_nccl=()
[ -z "$nccl" ] || with_nccl=("--nccl=$nccl")
{ uname -a; nvidia-smi; } >"$out/machine.log" 2>&1

# Streams that share a queue of the driver wait for each other; staging has more than the 8 that there are by default.
export CUDA_DEVICE_MAX_CONNECTIONS=32

# ---- The checks ------------------------------------------------------------------------------------------------------

check host 90 "$program" host --elements=20000000 --training_elements=40000 "${with_nccl[@]+"${with_nccl[@]}"}"
check kernels 200 "$program" kernels "--device=$device"
if [ "$code" = 78 ]; then
  for name in nccl staged graph async bench torch memcheck memcheck_steps racecheck initcheck; do row "NOT RUN" "$name" 0 "no GPU"; done
  echo "no GPU: $(sed -n 's/^NOT RUN kernels //p' "$log")" | tee -a "$table"
  [ "$failed" = 0 ] || finish 1
  finish 78
fi
# Figures first: nobody can have them elsewhere. What several processes do comes last.
check bench 120 "$program" bench "--device=$device" "--parameters=$bench_parameters"
update_ms=$(sed -nE 's/.*update kernel ([0-9.]+) ms.*/\1/p' "$log" | tail -n 1)

if "$python" -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else 1)' >"$out/torch_import.log" 2>&1; then
  if [ -n "$update_ms" ]; then
    check torch 120 "$python" "$scripts/fused_adamw.py" "--device=$device" "--parameters=$bench_parameters" \
      "--ours_ms=$update_ms"
  else
    row FAIL torch 0 "not made: our update was not measured"
  fi
else
  row "NOT RUN" torch 0 "$python has no torch that sees a GPU: $(tail -n 1 "$out/torch_import.log")"
fi

if [ -n "$nccl" ]; then
  check nccl 90 "$program" nccl "--device=$device" "--nccl=$nccl"
else
  row "NOT RUN" nccl 0 "no libnccl.so.2 was found"
fi
check graph 60 "$program" graph "--device=$device"
check async 60 "$program" async "--device=$device"
check staged 150 "$program" staged "--device=$device"

# sanitize NAME TOOL ARGUMENT...: this program with these arguments under a tool of compute-sanitizer.
sanitize() {
  local name=$1 tool=$2
  shift 2
  if [ -z "$sanitizer" ]; then
    row "NOT RUN" "$name" 0 "compute-sanitizer is not there"
    return
  fi
  check "$name" 120 "$sanitizer" --tool "$tool" --error-exitcode 9 "$program" "$@" "--device=$device"
}
sanitizer=$(command -v compute-sanitizer) || for file in /usr/local/cuda*/bin/compute-sanitizer; do
  [ ! -x "$file" ] || sanitizer=$file
done
# What the tool says where it cannot work at all.
excuse='^=+ Error: *(Device not supported|unable to find injection library)'
proof='(ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards)'
few=(kernels --elements=1 --decisions=50 --threads=1)
sanitize memcheck memcheck "${few[@]}"
sanitize memcheck_steps memcheck graph --training_elements=2000
sanitize racecheck racecheck "${few[@]}"
sanitize initcheck initcheck "${few[@]}"

[ "$failed" = 0 ] || finish 1
finish 0
