#ifndef SHARDSTEP_OPTIMIZER_CUDA_DIGEST_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_DIGEST_INL_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/cuda_kernels.h"

namespace shardstep::cuda {

inline constexpr int kDigestThreads = 128;
inline constexpr int64_t kDigestBlock = 1024;

/// Hashes blocks thread, thread + threads, ... of a launch, each whole. Sums of words have no order.
template <DigestForm kForm, typename Machine>
SHARDSTEP_HOST_DEVICE void DigestBlocks(const Machine& machine, const CudaDigest& args, int64_t thread,
                                        int64_t threads) {
  const int64_t element_bytes = kForm == DigestForm::kFp32 ? 4 : 2;
  for (int64_t block = thread; block * kDigestBlock < args.elements; block += threads) {
    const int64_t begin = block * kDigestBlock;
    const int64_t rest = args.elements - begin;
    const DigestBlock<kForm> message(
        args.parameter, args.first_block + block, static_cast<const std::byte*>(args.values) + begin * element_bytes,
        args.remainder == nullptr ? nullptr : args.remainder + begin, rest < kDigestBlock ? rest : kDigestBlock);
    const Hash128 hash = Xxh3::Of(message);
    machine.AtomicAdd(&args.sum->limb[0], hash.low & 0xffffffffu);
    machine.AtomicAdd(&args.sum->limb[1], hash.low >> 32);
    machine.AtomicAdd(&args.sum->limb[2], hash.high & 0xffffffffu);
    machine.AtomicAdd(&args.sum->limb[3], hash.high >> 32);
  }
}

/// Calls visit(std::integral_constant of the launch's form).
template <typename Visit>
auto VisitForm(DigestForm form, const Visit& visit) {
  switch (form) {
    case DigestForm::kBf16:
      break;
    case DigestForm::kFp32:
      return visit(std::integral_constant<DigestForm, DigestForm::kFp32>());
    case DigestForm::kWidened:
      return visit(std::integral_constant<DigestForm, DigestForm::kWidened>());
  }
  return visit(std::integral_constant<DigestForm, DigestForm::kBf16>());
}

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_DIGEST_INL_H_
