#ifndef SHARDSTEP_OPTIMIZER_CUDA_VECTORS_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_VECTORS_INL_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/cuda_kernels.h"

/// What the bodies of CUDA kernels (cuda_*-inl.h) have in common. They need no header of CUDA: nvcc compiles them for
/// the device, tests compile the same text for the host and run it in loops over blocks, warps and lanes.
///
/// Whoever runs them is their `Machine`:
///   Words4 Load(const void*)            16 aligned bytes that nobody reads again soon
///   void Store(const Words4&, void*)    likewise
///   PerLane<T>                          a T of every lane of a warp: operator[](lane)
///   ForEachLane(f)                      f(lane) for every lane of the warp
///   SyncWarp()                          what lanes wrote is visible to the warp's others
///   PerLane<T> Down(per_lane, n)        lane l gets lane l + n's, where there is one
///   bool Any(PerLane<bool>)
///   AtomicAdd, AtomicMax, AtomicMin     of one word, relaxed
///   PublishToHost(value, int64_t* word) *word = value, once the host sees all that the warp has written
/// A thread that takes no part in a warp's common work uses Load and Store only.

#ifdef __CUDACC__
#define SHARDSTEP_DEVICE __device__ __forceinline__
#else
#define SHARDSTEP_DEVICE inline
#endif

namespace shardstep::cuda {

inline constexpr int kBlockElements = 1024;  // ShardLayout::kBlockElements
inline constexpr int kWarpLanes = 32;
/// What a thread takes at once: 16 bytes of bf16, 32 of fp32.
inline constexpr int kVector = 8;

struct alignas(16) Words4 {
  uint32_t word[4];
};

/// N consecutive elements; N is kVector, or 1 where there are fewer or they are not aligned.
template <int N>
struct Floats {
  float value[N];
  SHARDSTEP_DEVICE float& operator[](int i) { return value[i]; }
  SHARDSTEP_DEVICE float operator[](int i) const { return value[i]; }
};

/// Pairs of 16-bit elements as they lie in memory; of a single one the lower half.
template <int N>
struct Halves {
  uint32_t pair[(N + 1) / 2];
  SHARDSTEP_DEVICE uint16_t operator[](int i) const {
    return static_cast<uint16_t>(i % 2 == 0 ? pair[i / 2] : pair[i / 2] >> 16);
  }
  SHARDSTEP_DEVICE void Set(int i, uint16_t bits) {
    pair[i / 2] = i % 2 == 0 ? bits : pair[i / 2] | static_cast<uint32_t>(bits) << 16;
  }
};

template <int N, typename Machine>
SHARDSTEP_DEVICE Floats<N> LoadFloats(const Machine& machine, const float* from) {
  Floats<N> to;
  if constexpr (N == 1) {
    to[0] = *from;
  } else {
    Words4 words[N / 4];
    SHARDSTEP_UNROLL
    for (int v = 0; v < N / 4; ++v) words[v] = machine.Load(from + 4 * v);
    SHARDSTEP_UNROLL
    for (int i = 0; i < N; ++i) to[i] = FloatFromBits(words[i / 4].word[i % 4]);
  }
  return to;
}

template <int N, typename Machine>
SHARDSTEP_DEVICE void StoreFloats(const Machine& machine, const Floats<N>& from, float* to) {
  if constexpr (N == 1) {
    *to = from[0];
  } else {
    SHARDSTEP_UNROLL
    for (int v = 0; v < N / 4; ++v) {
      machine.Store(Words4{{FloatBits(from[4 * v]), FloatBits(from[4 * v + 1]), FloatBits(from[4 * v + 2]),
                            FloatBits(from[4 * v + 3])}},
                    to + 4 * v);
    }
  }
}

/// `from` is of Bf16 or uint16_t.
template <int N, typename Machine>
SHARDSTEP_DEVICE Halves<N> LoadHalves(const Machine& machine, const void* from) {
  if constexpr (N == 1) {
    return {{*static_cast<const uint16_t*>(from)}};
  } else {
    static_assert(N == kVector);
    const Words4 words = machine.Load(from);
    return {{words.word[0], words.word[1], words.word[2], words.word[3]}};
  }
}

template <int N, typename Machine>
SHARDSTEP_DEVICE void StoreHalves(const Machine& machine, const Halves<N>& from, void* to) {
  if constexpr (N == 1) {
    *static_cast<uint16_t*>(to) = from[0];
  } else {
    static_assert(N == kVector);
    machine.Store(Words4{{from.pair[0], from.pair[1], from.pair[2], from.pair[3]}}, to);
  }
}

/// bf16 to fp32.
template <int N>
SHARDSTEP_DEVICE float Widen(const Halves<N>& halves, int i) {
  return FloatFromBits(i % 2 == 0 ? halves.pair[i / 2] << 16 : halves.pair[i / 2] & 0xffff0000u);
}

/// fp32 to bf16, nearest even.
template <int N>
SHARDSTEP_DEVICE Halves<N> Round(const Floats<N>& floats) {
  Halves<N> halves;
  SHARDSTEP_UNROLL
  for (int i = 0; i < N; ++i) halves.Set(i, ToBf16(floats[i]).bits);
  return halves;
}

/// Elements of one segment that make a block.
struct BlockRange {
  int64_t begin = 0;  ///< in the segment
  int elements = 0;
};

/// The segment of a block, by bisection of the table; cheap when the block before was of the same one.
class SegmentCursor {
 public:
  SHARDSTEP_DEVICE explicit SegmentCursor(const CudaSegments& segments) : segments_(segments) {}

  SHARDSTEP_DEVICE const CudaSegment& MoveTo(int64_t block) {
    if (block >= end_block_) {
      int32_t low = 0;
      int32_t high = segments_.count;
      while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        if (segments_.table[middle].first_block <= block) {
          low = middle;
        } else {
          high = middle;
        }
      }
      segment_ = segments_.table + low;
      end_block_ = low + 1 < segments_.count ? segments_.table[low + 1].first_block : segments_.blocks;
    }
    return *segment_;
  }
  /// Of the segment that MoveTo found.
  SHARDSTEP_DEVICE BlockRange Range(int64_t block) const {
    const int64_t begin = (block - segment_->first_block) * kBlockElements;
    const int64_t rest = segment_->elements - begin;
    return {begin, rest < kBlockElements ? static_cast<int>(rest) : kBlockElements};
  }

 private:
  const CudaSegments& segments_;
  const CudaSegment* segment_ = nullptr;
  int64_t end_block_ = 0;
};

inline bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(Words4) == 0; }

/// Whether vectors can be loaded everywhere: shards and blocks begin at multiples of kVector elements, but a trainer's
/// own buffers may lie anywhere.
inline bool IsAligned(const CudaSumSchedule& sum) {
  bool aligned = IsAligned(sum.accumulator) && IsAligned(sum.group_accumulator);
  for (int32_t i = 0; i < sum.additions_count; ++i) aligned = aligned && IsAligned(sum.additions[i].data);
  return aligned;
}
inline bool IsAligned(const CudaReduce& args, const CudaSumSchedule& sum) {
  return IsAligned(sum) && IsAligned(args.accumulator_out) && IsAligned(args.group_accumulator_out) &&
         IsAligned(args.rounded_out);
}
inline bool IsAligned(const CudaUpdate& args, const CudaSumSchedule& sum) {
  return IsAligned(sum) && IsAligned(args.master) && IsAligned(args.remainder) && IsAligned(args.first_moment) &&
         IsAligned(args.second_moment) && IsAligned(args.weights);
}

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_VECTORS_INL_H_
