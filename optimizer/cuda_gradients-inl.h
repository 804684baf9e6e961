#ifndef SHARDSTEP_OPTIMIZER_CUDA_GRADIENTS_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_GRADIENTS_INL_H_

#include "shardstep/optimizer/cuda_vectors-inl.h"

/// The sums of a shard's slices (numeric contract 1), kParts vectors of N elements at a time, kPartStride elements
/// apart. Of a batch of slices all loads are issued before the first addition.

namespace shardstep::cuda {

inline constexpr int kPartStride = kVector * kWarpLanes;

template <int N, int kParts>
struct Sums {
  Floats<N> s[kParts];
  Floats<N> p[kParts];  ///< of the group that is open in the end; not set by plain sums
};

template <int N, int kParts, typename Machine>
SHARDSTEP_DEVICE void LoadSumsSoFar(const Machine& machine, const float* accumulator, int64_t index,
                                    Floats<N> (&sums)[kParts]) {
  SHARDSTEP_UNROLL
  for (int part = 0; part < kParts; ++part) {
    if (accumulator != nullptr) {
      sums[part] = LoadFloats<N>(machine, accumulator + index + part * kPartStride);
    } else {
      sums[part] = Floats<N>{};
    }
  }
}

/// bf16 slices without groups.
template <int N, int kParts, typename Machine>
SHARDSTEP_DEVICE void SumPlain(const Machine& machine, const CudaSumSchedule& sum, int64_t index,
                               Floats<N> (&s)[kParts]) {
  constexpr int kBatch = kParts == 1 ? 4 : 2;
  LoadSumsSoFar(machine, sum.accumulator, index, s);
  SHARDSTEP_NO_UNROLL
  for (int32_t first = 0; first < sum.additions_count; first += kBatch) {
    Halves<N> slices[kBatch][kParts] = {};
    SHARDSTEP_UNROLL
    for (int j = 0; j < kBatch; ++j) {
      if (first + j < sum.additions_count) {
        const Bf16* const data = static_cast<const Bf16*>(sum.additions[first + j].data) + index;
        SHARDSTEP_UNROLL
        for (int part = 0; part < kParts; ++part) slices[j][part] = LoadHalves<N>(machine, data + part * kPartStride);
      }
    }
    SHARDSTEP_UNROLL
    for (int j = 0; j < kBatch; ++j) {
      if (first + j < sum.additions_count) {
        SHARDSTEP_UNROLL
        for (int part = 0; part < kParts; ++part) {
          SHARDSTEP_UNROLL
          for (int i = 0; i < N; ++i) s[part][i] = s[part][i] + Widen(slices[j][part], i);
        }
      }
    }
  }
}

template <int N>
SHARDSTEP_DEVICE void EndGroup(Floats<N>* s, Floats<N>* p) {
  SHARDSTEP_UNROLL
  for (int i = 0; i < N; ++i) (*s)[i] = (*s)[i] + (*p)[i];
  *p = Floats<N>{};
}

template <int N, typename Machine>
SHARDSTEP_DEVICE Floats<N> LoadSlice(const Machine& machine, const CudaAddition& addition, int64_t index) {
  if (addition.fp32) return LoadFloats<N>(machine, static_cast<const float*>(addition.data) + index);
  const Halves<N> halves = LoadHalves<N>(machine, static_cast<const Bf16*>(addition.data) + index);
  Floats<N> slice;
  SHARDSTEP_UNROLL
  for (int i = 0; i < N; ++i) slice[i] = Widen(halves, i);
  return slice;
}

/// Any slices, with groups; the next slice is loaded before one is added.
template <int N, int kParts, typename Machine>
SHARDSTEP_DEVICE void SumAny(const Machine& machine, const CudaSumSchedule& sum, int64_t index, Sums<N, kParts>* sums) {
  LoadSumsSoFar(machine, sum.accumulator, index, sums->s);
  LoadSumsSoFar(machine, sum.group_accumulator, index, sums->p);
  Floats<N> next[kParts] = {};
  const auto load = [&](int32_t j) {
    SHARDSTEP_UNROLL
    for (int part = 0; part < kParts; ++part) {
      next[part] = LoadSlice<N>(machine, sum.additions[j], index + part * kPartStride);
    }
  };
  if (sum.additions_count > 0) load(0);
  SHARDSTEP_UNROLL
  for (int part = 0; part < kParts; ++part) {
    if (sum.begins_with_end) EndGroup(&sums->s[part], &sums->p[part]);
  }
  SHARDSTEP_NO_UNROLL
  for (int32_t j = 0; j < sum.additions_count; ++j) {
    const CudaAddition& addition = sum.additions[j];
    Floats<N> slice[kParts];
    SHARDSTEP_UNROLL
    for (int part = 0; part < kParts; ++part) slice[part] = next[part];
    if (j + 1 < sum.additions_count) load(j + 1);
    SHARDSTEP_UNROLL
    for (int part = 0; part < kParts; ++part) {
      Floats<N>& s = sums->s[part];
      Floats<N>& p = sums->p[part];
      SHARDSTEP_UNROLL
      for (int i = 0; i < N; ++i) {
        if (addition.to_group) {
          p[i] = p[i] + slice[part][i];
        } else {
          s[i] = s[i] + slice[part][i];
        }
      }
      if (addition.ends_group) EndGroup(&s, &p);
    }
  }
}

/// kPlain: bf16 slices without groups, as the schedule says.
template <bool kPlain, int N, int kParts, typename Machine>
SHARDSTEP_DEVICE void SumSlices(const Machine& machine, const CudaSumSchedule& sum, int64_t index,
                                Sums<N, kParts>* sums) {
  if constexpr (kPlain) {
    SumPlain(machine, sum, index, sums->s);
  } else {
    SumAny(machine, sum, index, sums);
  }
}

inline bool IsPlain(const CudaSumSchedule& sum) { return sum.plain && sum.bf16; }

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_GRADIENTS_INL_H_
