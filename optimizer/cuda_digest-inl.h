#ifndef SHARDSTEP_OPTIMIZER_CUDA_DIGEST_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_DIGEST_INL_H_

#include <cstddef>
#include <type_traits>

#include "shardstep/optimizer/cuda_vectors-inl.h"
#include "shardstep/optimizer/digest_formula.h"

namespace shardstep::cuda {

inline constexpr int kDigestWarps = 4;
inline constexpr int kDigestThreads = kDigestWarps * kWarpLanes;
inline constexpr int kDigestQuarters = 4;  // of a block, a lane each
/// What a warp hashes at a time.
inline constexpr int kDigestWarpBlocks = kWarpLanes / kDigestQuarters;

SHARDSTEP_HOST_DEVICE inline int64_t BlocksOf(const CudaDigest& args) {
  return (args.elements + kBlockElements - 1) / kBlockElements;
}
/// Thread blocks that there is work for.
inline int64_t DigestGrid(const CudaDigest& args) {
  constexpr int64_t kBlocks = kDigestWarps * kDigestWarpBlocks;
  return (BlocksOf(args) + kBlocks - 1) / kBlocks;
}

/// Digest: a warp's part, eight blocks of 1024 elements after the other. Four lanes share a block: each reads 16 bytes
/// of every 64, and only their ends are added up.
template <DigestForm kForm, typename Machine>
class DigestWarp {
 public:
  SHARDSTEP_DEVICE DigestWarp(const Machine& machine, const CudaDigest& args, bool aligned)
      : machine_(machine), args_(args), aligned_(aligned) {}

  SHARDSTEP_DEVICE void Run(int64_t warp, int64_t warps) {
    machine_.ForEachLane([&](int lane) {
      for (int i = 0; i < kLimbs; ++i) sum_[i][lane] = 0;
    });
    const int64_t blocks = BlocksOf(args_);
    for (int64_t first = warp * kDigestWarpBlocks; first < blocks; first += warps * kDigestWarpBlocks) {
      Blocks(first, blocks);
    }
    for (int distance = kWarpLanes / 2; distance >= kDigestQuarters; distance /= 2) {
      for (int i = 0; i < kLimbs; ++i) AddFrom(distance, &sum_[i]);
    }
    machine_.ForEachLane([&](int lane) {
      if (lane != 0) return;
      for (int i = 0; i < kLimbs; ++i) machine_.AtomicAdd(&args_.sum->limb[i], sum_[i][lane]);
    });
  }

 private:
  static constexpr int kLimbs = 4;
  // Stripes whose loads are issued before the first is used; a divisor of a round's 16.
  static constexpr int kBatch = 4;
  template <typename T>
  using PerLane = typename Machine::template PerLane<T>;

  SHARDSTEP_DEVICE void Blocks(int64_t first, int64_t blocks) {
    PerLane<uint64_t> low;
    PerLane<uint64_t> high;
    machine_.ForEachLane([&](int lane) {
      const int64_t block = first + lane / kDigestQuarters;
      const Hash128 part = block < blocks ? Part(Message(block), lane % kDigestQuarters) : Hash128();
      low[lane] = part.low;
      high[lane] = part.high;
    });
    for (int distance = kDigestQuarters / 2; distance > 0; distance /= 2) {
      AddFrom(distance, &low);
      AddFrom(distance, &high);
    }
    machine_.ForEachLane([&](int lane) {
      const int64_t block = first + lane / kDigestQuarters;
      if (lane % kDigestQuarters != 0 || block >= blocks) return;
      const int size = Message(block).size_bytes();
      Hash128 hash = {low[lane], high[lane]};
      if (!Xxh3::IsShort(size)) hash = Xxh3::OfParts(hash, size);
      sum_[0][lane] += hash.low & 0xffffffffu;
      sum_[1][lane] += hash.low >> 32;
      sum_[2][lane] += hash.high & 0xffffffffu;
      sum_[3][lane] += hash.high >> 32;
    });
  }

  SHARDSTEP_DEVICE void AddFrom(int distance, PerLane<uint64_t>* values) const {
    PerLane<uint64_t> others = machine_.Down(*values, distance);
    machine_.ForEachLane([&](int lane) { (*values)[lane] += others[lane]; });
  }

  SHARDSTEP_DEVICE DigestBlock<kForm> Message(int64_t block) const {
    constexpr int kBytes = kForm == DigestForm::kFp32 ? 4 : 2;
    const int64_t begin = block * kBlockElements;
    const int64_t rest = args_.elements - begin;
    return DigestBlock<kForm>(args_.parameter, args_.first_block + block,
                              static_cast<const std::byte*>(args_.values) + begin * kBytes,
                              args_.remainder == nullptr ? nullptr : args_.remainder + begin,
                              rest < kBlockElements ? static_cast<int>(rest) : kBlockElements);
  }

  // What quarter `q` knows of the hash; of a short message the first knows it all.
  SHARDSTEP_DEVICE Hash128 Part(const DigestBlock<kForm>& message, int q) const {
    const int size = message.size_bytes();
    if (Xxh3::IsShort(size)) return q == 0 ? Xxh3::OfShort(message) : Hash128();
    Xxh3::Quarter quarter(q);
    const int stripes = Xxh3::Stripes(size);
    int stripe = 0;
    SHARDSTEP_NO_UNROLL
    for (; stripe + kBatch <= stripes; stripe += kBatch) AddStripes<kBatch>(message, stripe, &quarter);
    SHARDSTEP_NO_UNROLL
    for (; stripe < stripes; ++stripe) AddStripes<1>(message, stripe, &quarter);
    quarter.AddLast(message.Words(quarter.LastOffset(size)));
    return quarter.Part();
  }

  template <int kStripes>
  SHARDSTEP_DEVICE void AddStripes(const DigestBlock<kForm>& message, int stripe, Xxh3::Quarter* quarter) const {
    DigestWords words[kStripes];
    SHARDSTEP_UNROLL
    for (int i = 0; i < kStripes; ++i) words[i] = Load(message, quarter->Offset(stripe + i));
    SHARDSTEP_UNROLL
    for (int i = 0; i < kStripes; ++i) quarter->Add(stripe + i, words[i]);
  }

  // `offset` is a multiple of 16.
  SHARDSTEP_DEVICE DigestWords Load(const DigestBlock<kForm>& message, int offset) const {
    if constexpr (kForm != DigestForm::kWidened) {
      if (aligned_ && offset != 0) return message.Hashed(machine_.Load(message.At(offset)).word);
    }
    return message.Words(offset);
  }

  const Machine& machine_;
  const CudaDigest& args_;
  const bool aligned_;
  PerLane<uint64_t> sum_[kLimbs];
};

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
