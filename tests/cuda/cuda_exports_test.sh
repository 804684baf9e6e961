#!/usr/bin/env bash
# Usage: tests/cuda/cuda_exports_test.sh OBJECT
# The CUDA backend's shared object needs no library of CUDA or NCCL, and gives away no name but its own.
set -euo pipefail
object=$1

needed=$(readelf -d "$object" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for library in $needed; do
  case $library in
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | ld-linux*.so.* | libgcc_s.so.* | libstdc++.so.*) ;;
    *)
      echo "$object needs $library" >&2
      exit 1
      ;;
  esac
done
if ldd "$object" | grep -E 'libcuda|libnccl|not found'; then
  echo "$object cannot be loaded without the libraries above" >&2
  exit 1
fi

exported=$(nm -D --defined-only "$object" | awk '{print $NF}')
wrong=$(grep -v '^shardstep_' <<<"$exported" || true)
if [[ -n $wrong ]]; then
  echo "$object exports:" $wrong >&2
  exit 1
fi
for name in shardstep_cuda_api shardstep_cuda_kernels; do
  grep -qx "$name" <<<"$exported" || { echo "$object does not export $name" >&2; exit 1; }
done
echo "needs:" $needed
echo "exports:" $exported
