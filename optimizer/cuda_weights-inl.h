#ifndef SHARDSTEP_OPTIMIZER_CUDA_WEIGHTS_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_WEIGHTS_INL_H_

#include <cstdint>

#include "shardstep/optimizer/cuda_vectors-inl.h"
#include "shardstep/optimizer/master_weights.h"

/// Where the update kernels read w and what they write. All have: Load<N>(machine, args, index), what lies in memory;
/// Value(loaded, i), w of element i of it; Store(machine, w, args, index, place).

namespace shardstep::cuda {

/// What rounding at random depends on.
struct RandomPlace {
  uint64_t seed = 0;
  int64_t applied_step = 0;
  int64_t global_element = 0;  ///< of the first of N
};

/// RandomBits16 of N consecutive elements.
template <int N>
SHARDSTEP_DEVICE Halves<N> RandomsAt(const RandomPlace& place) {
  if constexpr (N == 1) {
    return {{RandomBits16(place.seed, place.applied_step, place.global_element)}};
  } else {
    static_assert(N == kRandomsPerDraw);
    const auto element = static_cast<uint64_t>(place.global_element);
    const auto stream = static_cast<uint64_t>(place.applied_step);
    const auto offset = static_cast<uint32_t>(element % kRandomsPerDraw);
    const auto first = Philox4x32(place.seed, stream, element / kRandomsPerDraw);
    if (offset == 0) return {{first[0], first[1], first[2], first[3]}};
    const auto second = Philox4x32(place.seed, stream, element / kRandomsPerDraw + 1);
    // The pieces from `offset` on: registers have no index, so words move up by 2, by 1, and by half of one.
    uint32_t words[8] = {first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3]};
    SHARDSTEP_UNROLL
    for (int i = 0; i < 6; ++i) words[i] = (offset & 4) != 0 ? words[i + 2] : words[i];
    SHARDSTEP_UNROLL
    for (int i = 0; i < 5; ++i) words[i] = (offset & 2) != 0 ? words[i + 1] : words[i];
    SHARDSTEP_UNROLL
    for (int i = 0; i < 4; ++i) words[i] = (offset & 1) != 0 ? words[i] >> 16 | words[i + 1] << 16 : words[i];
    return {{words[0], words[1], words[2], words[3]}};
  }
}

/// FP32 behind bf16.
struct Fp32MasterWeights {
  template <int N>
  using Loaded = Floats<N>;
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE Loaded<N> Load(const Machine& machine, const CudaUpdate& args, int64_t index) {
    return LoadFloats<N>(machine, args.master + index);
  }
  template <int N>
  static SHARDSTEP_DEVICE float Value(const Floats<N>& loaded, int i) {
    return loaded[i];
  }
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE void Store(const Machine& machine, const Floats<N>& w, const CudaUpdate& args, int64_t index,
                                     const RandomPlace& /*place*/) {
    StoreFloats(machine, w, args.master + index);
    StoreHalves(machine, Round(w), static_cast<Bf16*>(args.weights) + index);
  }
};

/// SPLIT: Split and Join of master_weights.h.
struct SplitMasterWeights {
  template <int N>
  struct Loaded {
    Halves<N> weights, remainders;
  };
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE Loaded<N> Load(const Machine& machine, const CudaUpdate& args, int64_t index) {
    return {LoadHalves<N>(machine, static_cast<const Bf16*>(args.weights) + index),
            LoadHalves<N>(machine, args.remainder + index)};
  }
  template <int N>
  static SHARDSTEP_DEVICE float Value(const Loaded<N>& loaded, int i) {
    return Join({{loaded.weights[i]}, loaded.remainders[i]});
  }
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE void Store(const Machine& machine, const Floats<N>& w, const CudaUpdate& args, int64_t index,
                                     const RandomPlace& /*place*/) {
    Halves<N> weights, remainders;
    SHARDSTEP_UNROLL
    for (int i = 0; i < N; ++i) {
      const SplitMaster split = Split(w[i]);
      weights.Set(i, split.weight.bits);
      remainders.Set(i, split.remainder);
    }
    StoreHalves(machine, weights, static_cast<Bf16*>(args.weights) + index);
    StoreHalves(machine, remainders, args.remainder + index);
  }
};

/// NONE.
template <bool kStochastic>
struct NoMasterWeights {
  template <int N>
  using Loaded = Halves<N>;
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE Loaded<N> Load(const Machine& machine, const CudaUpdate& args, int64_t index) {
    return LoadHalves<N>(machine, static_cast<const Bf16*>(args.weights) + index);
  }
  template <int N>
  static SHARDSTEP_DEVICE float Value(const Halves<N>& loaded, int i) {
    return Widen(loaded, i);
  }
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE void Store(const Machine& machine, const Floats<N>& w, const CudaUpdate& args, int64_t index,
                                     const RandomPlace& place) {
    Halves<N> weights;
    if constexpr (kStochastic) {
      const Halves<N> randoms = RandomsAt<N>(place);
      SHARDSTEP_UNROLL
      for (int i = 0; i < N; ++i) weights.Set(i, RoundStochastically(w[i], randoms[i]).bits);
    } else {
      weights = Round(w);
    }
    StoreHalves(machine, weights, static_cast<Bf16*>(args.weights) + index);
  }
};

/// fp32 weights are their own master.
struct Fp32Weights {
  template <int N>
  using Loaded = Floats<N>;
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE Loaded<N> Load(const Machine& machine, const CudaUpdate& args, int64_t index) {
    return LoadFloats<N>(machine, static_cast<const float*>(args.weights) + index);
  }
  template <int N>
  static SHARDSTEP_DEVICE float Value(const Floats<N>& loaded, int i) {
    return loaded[i];
  }
  template <int N, typename Machine>
  static SHARDSTEP_DEVICE void Store(const Machine& machine, Floats<N> w, const CudaUpdate& args, int64_t index,
                                     const RandomPlace& /*place*/) {
    constexpr uint32_t kCanonicalNan = 0x7fc00000;
    SHARDSTEP_UNROLL
    for (int i = 0; i < N; ++i) w[i] = w[i] == w[i] ? w[i] : FloatFromBits(kCanonicalNan);
    StoreFloats(machine, w, static_cast<float*>(args.weights) + index);
  }
};

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_WEIGHTS_INL_H_
