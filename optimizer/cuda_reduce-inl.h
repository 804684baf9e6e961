#ifndef SHARDSTEP_OPTIMIZER_CUDA_REDUCE_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_REDUCE_INL_H_

#include "shardstep/optimizer/cuda_gradients-inl.h"
#include "shardstep/optimizer/nonfinite_element.h"

namespace shardstep::cuda {

inline constexpr int kReduceWarps = 4;
inline constexpr int kReduceThreads = kReduceWarps * kWarpLanes;

/// The sums of a block. Rows of 32, one element for each lane of the norm, are 4 words apart: so neither vectors of
/// consecutive elements nor rows meet in a bank of shared memory.
struct BlockSums {
  static constexpr int kRow = kWarpLanes + 4;
  alignas(16) float values[kBlockElements / kWarpLanes * kRow];

  /// kVector consecutive ones from a multiple of kVector on lie in one row.
  SHARDSTEP_DEVICE float* At(int i) { return values + i / kWarpLanes * kRow + i % kWarpLanes; }
};

/// What the threads of a block share, a warp's part first. No initializers: shared memory has none.
template <bool kPlain>
struct WarpSums {
  BlockSums s;
};
template <>
struct WarpSums<false> {
  BlockSums s, p;
};
template <bool kPlain>
struct ReduceShared {
  WarpSums<kPlain> warps[kReduceWarps];
  uint64_t limbs[ExactSum::kLimbs];
  uint32_t max_abs_bits;
};

template <bool kPlain>
SHARDSTEP_DEVICE void BeginReduce(int thread, ReduceShared<kPlain>* shared) {
  if (thread < ExactSum::kLimbs) shared->limbs[thread] = 0;
  if (thread == 0) shared->max_abs_bits = 0;
}

/// When all warps are done. A step has at most 2^40 elements, the places that GradientPlace can name, so a limb of the
/// scan gets less than 2^30 blocks' 2^32 before Contribute normalizes: nobody has to count additions.
template <bool kPlain, typename Machine>
SHARDSTEP_DEVICE void EndReduce(const Machine& machine, int thread, const CudaReduce& args,
                                ReduceShared<kPlain>* shared) {
  if (args.scan == nullptr || !args.take_norm) return;
  if (thread < ExactSum::kLimbs && shared->limbs[thread] != 0) {
    machine.AtomicAdd(reinterpret_cast<uint64_t*>(&args.scan->squared_norm.limbs()[thread]), shared->limbs[thread]);
  }
  if (thread == 0) machine.AtomicMax(&args.scan->max_abs_bits, shared->max_abs_bits);
}

/// Reduce: a warp's part, one block of 1024 elements after the other.
template <bool kPlain, typename Machine>
class ReduceWarp {
 public:
  SHARDSTEP_DEVICE ReduceWarp(const Machine& machine, const CudaReduce& args, const CudaSumSchedule& sum, bool aligned,
                              int warp, ReduceShared<kPlain>* shared)
      : machine_(machine), args_(args), sum_(sum), aligned_(aligned), shared_(*shared), sums_(shared->warps[warp]) {}

  SHARDSTEP_DEVICE void Run(int64_t first_block, int64_t step) {
    machine_.ForEachLane([&](int lane) { max_abs_[lane] = 0; });
    SegmentCursor cursor(args_.segments);
    for (int64_t block = first_block; block < args_.segments.blocks; block += step) {
      const CudaSegment& segment = cursor.MoveTo(block);
      Block(segment, cursor.Range(block));
    }
    if (args_.take_norm) AddMaxAbs();
  }

 private:
  static constexpr uint32_t kInfinityBits = 0x7f800000;
  // Vectors of a lane that are summed at once; half of a block's.
  static constexpr int kParts = kPlain ? 2 : 1;
  template <typename T>
  using PerLane = typename Machine::template PerLane<T>;

  SHARDSTEP_DEVICE void Block(const CudaSegment& segment, const BlockRange& range) {
    PerLane<uint32_t> max_abs;    // of this block
    PerLane<bool> group_is_open;  // and not finite
    machine_.ForEachLane([&](int lane) {
      max_abs[lane] = 0;
      group_is_open[lane] = false;
      SumLane(lane, segment.shard_begin_element + range.begin, range.elements, &max_abs[lane], &group_is_open[lane]);
      const uint32_t capped = max_abs[lane] < kInfinityBits ? max_abs[lane] : kInfinityBits;
      if (capped > max_abs_[lane]) max_abs_[lane] = capped;
    });
    machine_.SyncWarp();
    PerLane<bool> bad;
    machine_.ForEachLane([&](int lane) { bad[lane] = max_abs[lane] >= kInfinityBits; });
    const bool finite = !machine_.Any(bad);
    if (args_.scan != nullptr && (!finite || machine_.Any(group_is_open))) Search(segment, range);
    // Nothing has been written where the search reads.
    if (args_.accumulator_out != nullptr || args_.group_accumulator_out != nullptr || args_.rounded_out != nullptr) {
      machine_.ForEachLane(
          [&](int lane) { StoreLane(lane, segment.shard_begin_element + range.begin, range.elements); });
    }
    if (args_.take_norm && finite) AddNorm(segment.norm_weight);
    machine_.SyncWarp();
  }

  // A lane takes every 32nd vector; what is not aligned or no whole vector one by one.
  template <typename Vectors, typename One>
  SHARDSTEP_DEVICE void ForLane(int lane, int elements, const Vectors& vectors, const One& one) const {
    if (!aligned_) {
      SHARDSTEP_NO_UNROLL
      for (int i = lane; i < elements; i += kWarpLanes) one(i);
      return;
    }
    SHARDSTEP_NO_UNROLL
    for (int i = lane * kVector; i < elements; i += kParts * kPartStride) {
      if (i + (kParts - 1) * kPartStride + kVector <= elements) {
        vectors(i);
        continue;
      }
      for (int part = 0; part < kParts; ++part) {
        const int begin = i + part * kPartStride;
        const int end = begin + kVector < elements ? begin + kVector : elements;
        SHARDSTEP_NO_UNROLL
        for (int e = begin; e < end; ++e) one(e);
      }
    }
  }

  SHARDSTEP_DEVICE void SumLane(int lane, int64_t origin, int elements, uint32_t* max_abs, bool* group_is_bad) const {
    ForLane(
        lane, elements, [&](int i) { SumAt<kVector, kParts>(origin, i, max_abs, group_is_bad); },
        [&](int i) { SumAt<1, 1>(origin, i, max_abs, group_is_bad); });
    // The end of a parameter: a zero's square changes no lane of the norm.
    SHARDSTEP_NO_UNROLL
    for (int i = elements + lane; i < kBlockElements; i += kWarpLanes) *sums_.s.At(i) = 0;
  }

  template <int N, int kPartsHere>
  SHARDSTEP_DEVICE void SumAt(int64_t origin, int i, uint32_t* max_abs, bool* group_is_bad) const {
    Sums<N, kPartsHere> sums;
    SumSlices<kPlain>(machine_, sum_, origin + i, &sums);
    SHARDSTEP_UNROLL
    for (int part = 0; part < kPartsHere; ++part) {
      SHARDSTEP_UNROLL
      for (int e = 0; e < N; ++e) {
        const uint32_t bits = FloatBits(sums.s[part][e]) & 0x7fffffffu;
        if (bits > *max_abs) *max_abs = bits;
      }
      Keep(sums.s[part], i + part * kPartStride, &sums_.s);
      if constexpr (!kPlain) {
        if (args_.group_accumulator_out == nullptr) continue;
        SHARDSTEP_UNROLL
        for (int e = 0; e < N; ++e) *group_is_bad = *group_is_bad || !IsFinite(sums.p[part][e]);
        Keep(sums.p[part], i + part * kPartStride, &sums_.p);
      }
    }
  }

  template <int N>
  static SHARDSTEP_DEVICE void Keep(const Floats<N>& from, int i, BlockSums* to) {
    float* const at = to->At(i);
    if constexpr (N == 1) {
      *at = from[0];
    } else {
      SHARDSTEP_UNROLL
      for (int v = 0; v < N; v += 4) {
        *reinterpret_cast<FloatWords*>(at + v) = FloatWords{{from[v], from[v + 1], from[v + 2], from[v + 3]}};
      }
    }
  }
  template <int N>
  static SHARDSTEP_DEVICE Floats<N> Kept(int i, BlockSums* from) {
    const float* const at = from->At(i);
    Floats<N> to;
    if constexpr (N == 1) {
      to[0] = *at;
    } else {
      SHARDSTEP_UNROLL
      for (int v = 0; v < N; v += 4) {
        const FloatWords words = *reinterpret_cast<const FloatWords*>(at + v);
        SHARDSTEP_UNROLL
        for (int e = 0; e < 4; ++e) to[v + e] = words.value[e];
      }
    }
    return to;
  }

  SHARDSTEP_DEVICE void StoreLane(int lane, int64_t origin, int elements) const {
    ForLane(
        lane, elements,
        [&](int i) {
          SHARDSTEP_UNROLL
          for (int part = 0; part < kParts; ++part) StoreAt<kVector>(origin, i + part * kPartStride);
        },
        [&](int i) { StoreAt<1>(origin, i); });
  }

  template <int N>
  SHARDSTEP_DEVICE void StoreAt(int64_t origin, int i) const {
    const Floats<N> s = Kept<N>(i, &sums_.s);
    if (args_.accumulator_out != nullptr) StoreFloats(machine_, s, args_.accumulator_out + origin + i);
    if (args_.rounded_out != nullptr) StoreHalves(machine_, Round(s), args_.rounded_out + origin + i);
    if constexpr (!kPlain) {
      if (args_.group_accumulator_out == nullptr) return;
      StoreFloats(machine_, Kept<N>(i, &sums_.p), args_.group_accumulator_out + origin + i);
    }
  }

  SHARDSTEP_DEVICE void Search(const CudaSegment& segment, const BlockRange& range) const {
    machine_.ForEachLane([&](int lane) {
      NonFinitePlaces places;
      SHARDSTEP_NO_UNROLL
      for (int i = lane; i < range.elements; i += kWarpLanes) {
        LookAtElement(sum_, segment.shard_begin_element + range.begin + i,
                      segment.global_begin_element + range.begin + i, &places);
      }
      if (places.nonfinite != kNowhere) machine_.AtomicMin(&args_.scan->first_nonfinite, places.nonfinite);
      if (places.overflow != kNowhere) machine_.AtomicMin(&args_.scan->first_overflow, places.overflow);
    });
    machine_.SyncWarp();
  }

  // Numeric contract 3.
  SHARDSTEP_DEVICE void AddNorm(double norm_weight) {
    PerLane<double> squares;
    machine_.ForEachLane([&](int lane) {
      double sum = 0;
      SHARDSTEP_UNROLL
      for (int row = 0; row < kBlockElements / kWarpLanes; ++row) {
        const double wide = *sums_.s.At(row * kWarpLanes + lane);
        sum = sum + wide * wide;
      }
      squares[lane] = sum;
    });
    for (int half = kWarpLanes / 2; half > 0; half /= 2) {
      PerLane<double> others = machine_.Down(squares, half);
      machine_.ForEachLane([&](int lane) { squares[lane] = squares[lane] + others[lane]; });
    }
    machine_.ForEachLane([&](int lane) {
      if (lane != 0) return;
      const ExactSum::Position at = ExactSum::PositionOf(squares[lane] * norm_weight);
      SHARDSTEP_UNROLL
      for (int word = 0; word < 3; ++word) {
        if (at.words[word] != 0) {
          machine_.AtomicAdd(&shared_.limbs[at.limb + word], static_cast<uint64_t>(at.words[word]));
        }
      }
    });
  }

  SHARDSTEP_DEVICE void AddMaxAbs() {
    for (int half = kWarpLanes / 2; half > 0; half /= 2) {
      PerLane<uint32_t> others = machine_.Down(max_abs_, half);
      machine_.ForEachLane([&](int lane) {
        if (others[lane] > max_abs_[lane]) max_abs_[lane] = others[lane];
      });
    }
    machine_.ForEachLane([&](int lane) {
      if (lane == 0) machine_.AtomicMax(&shared_.max_abs_bits, max_abs_[lane]);
    });
  }

  struct alignas(16) FloatWords {
    float value[4];
  };

  const Machine& machine_;
  const CudaReduce& args_;
  const CudaSumSchedule& sum_;
  const bool aligned_;
  ReduceShared<kPlain>& shared_;
  WarpSums<kPlain>& sums_;
  PerLane<uint32_t> max_abs_;  // of all blocks so far
};

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_REDUCE_INL_H_
