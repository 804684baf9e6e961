#ifndef SHARDSTEP_OPTIMIZER_CUDA_TWINS_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_TWINS_INL_H_

#include "shardstep/optimizer/cuda_reduce-inl.h"
#include "shardstep/optimizer/cuda_update-inl.h"

/// Kernels that move what Reduce and Update move, in the same way, and compute next to nothing: what they take is a
/// floor. Only aligned arrays and whole vectors are moved.

namespace shardstep::cuda {

/// Zero, but no compiler knows: what is masked with it must be loaded and changes nothing.
SHARDSTEP_DEVICE uint32_t HiddenZero(const CudaSegments& segments) { return segments.count < 0 ? 0xffffffffu : 0; }

template <int N>
SHARDSTEP_DEVICE uint32_t MixedBits(const Halves<N>& halves) {
  uint32_t mixed = 0;
  SHARDSTEP_UNROLL
  for (int i = 0; i < N / 2; ++i) mixed |= halves.pair[i];
  return mixed;
}
template <int N>
SHARDSTEP_DEVICE uint32_t MixedBits(const Floats<N>& floats) {
  uint32_t mixed = 0;
  SHARDSTEP_UNROLL
  for (int i = 0; i < N; ++i) mixed |= FloatBits(floats[i]);
  return mixed;
}

/// Loads what the sums of kParts vectors are made of. `first` gets the first bf16 slice's, or is left alone.
template <bool kPlain, int kParts, typename Machine>
SHARDSTEP_DEVICE uint32_t LoadSlices(const Machine& machine, const CudaSumSchedule& sum, int64_t index,
                                     Halves<kVector> (&first)[kParts]) {
  constexpr int kBatch = kParts == 1 ? 4 : 2;
  uint32_t mixed = 0;
  SHARDSTEP_NO_UNROLL
  for (int32_t begin = 0; begin < sum.additions_count; begin += kBatch) {
    Halves<kVector> slices[kBatch][kParts] = {};
    SHARDSTEP_UNROLL
    for (int j = 0; j < kBatch; ++j) {
      if (begin + j >= sum.additions_count) break;
      const CudaAddition& addition = sum.additions[begin + j];
      SHARDSTEP_UNROLL
      for (int part = 0; part < kParts; ++part) {
        const int64_t at = index + part * kPartStride;
        if (!kPlain && addition.fp32) {
          mixed |= MixedBits(LoadFloats<kVector>(machine, static_cast<const float*>(addition.data) + at));
        } else {
          slices[j][part] = LoadHalves<kVector>(machine, static_cast<const Bf16*>(addition.data) + at);
        }
      }
    }
    SHARDSTEP_UNROLL
    for (int part = 0; part < kParts; ++part) {
      if (begin == 0) first[part] = slices[0][part];
      SHARDSTEP_UNROLL
      for (int j = 0; j < kBatch; ++j) mixed |= MixedBits(slices[j][part]);
    }
  }
  return mixed;
}

/// Reduce with a norm. Running sums that are updated in place keep their bits, those that begin are the first slice.
template <bool kPlain, typename Machine>
class ReduceTwinWarp {
 public:
  SHARDSTEP_DEVICE ReduceTwinWarp(const Machine& machine, const CudaReduce& args, const CudaSumSchedule& sum)
      : machine_(machine), args_(args), sum_(sum) {}

  SHARDSTEP_DEVICE void Run(int64_t first_block, int64_t step) {
    machine_.ForEachLane([&](int lane) { mixed_[lane] = 0; });
    SegmentCursor cursor(args_.segments);
    for (int64_t block = first_block; block < args_.segments.blocks; block += step) {
      const CudaSegment& segment = cursor.MoveTo(block);
      const BlockRange range = cursor.Range(block);
      machine_.ForEachLane([&](int lane) {
        constexpr int kStep = kParts * kPartStride;
        SHARDSTEP_NO_UNROLL
        for (int i = lane * kVector; i + kStep - kPartStride + kVector <= range.elements; i += kStep) {
          Vectors(segment.shard_begin_element + range.begin + i, &mixed_[lane]);
        }
      });
    }
    machine_.ForEachLane([&](int lane) {
      const uint32_t nothing = mixed_[lane] & HiddenZero(args_.segments);
      if (args_.scan != nullptr && (lane == 0 || nothing != 0)) machine_.AtomicMax(&args_.scan->max_abs_bits, nothing);
    });
  }

 private:
  static constexpr int kParts = kPlain ? 2 : 1;
  template <typename T>
  using PerLane = typename Machine::template PerLane<T>;

  SHARDSTEP_DEVICE void Vectors(int64_t index, uint32_t* mixed) const {
    Floats<kVector> s[kParts];
    LoadSumsSoFar(machine_, sum_.accumulator, index, s);
    Halves<kVector> first[kParts] = {};
    *mixed |= LoadSlices<kPlain>(machine_, sum_, index, first);
    SHARDSTEP_UNROLL
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = index + part * kPartStride;
      if (sum_.accumulator != nullptr) {
        *mixed |= MixedBits(s[part]);
      } else {
        SHARDSTEP_UNROLL
        for (int i = 0; i < kVector; ++i) s[part][i] = Widen(first[part], i);
      }
      if (args_.accumulator_out != nullptr) StoreFloats(machine_, s[part], args_.accumulator_out + at);
      if (args_.rounded_out != nullptr) StoreHalves(machine_, first[part], args_.rounded_out + at);
      if (args_.group_accumulator_out != nullptr) Group(at, s[part]);
    }
  }
  SHARDSTEP_DEVICE void Group(int64_t at, const Floats<kVector>& begin) const {
    const bool goes_on = sum_.group_accumulator != nullptr;
    StoreFloats(machine_, goes_on ? LoadFloats<kVector>(machine_, sum_.group_accumulator + at) : begin,
                args_.group_accumulator_out + at);
  }

  const Machine& machine_;
  const CudaReduce& args_;
  const CudaSumSchedule& sum_;
  PerLane<uint32_t> mixed_;
};

/// Update of AdamW with an fp32 master behind bf16 weights, which become the master's upper halves.
template <bool kPlain, typename Machine>
class UpdateTwinThread {
 public:
  SHARDSTEP_DEVICE UpdateTwinThread(const Machine& machine, const CudaUpdate& args, const CudaSumSchedule& sum)
      : machine_(machine), args_(args), sum_(sum) {}

  SHARDSTEP_DEVICE void Run(int thread, BlockStride blocks) const {
    if (!args_.scalars->apply) return;
    SegmentCursor cursor(args_.segments);
    for (int64_t block = blocks.first; block < args_.segments.blocks; block += blocks.step) {
      const CudaSegment& segment = cursor.MoveTo(block);
      const BlockRange range = cursor.Range(block);
      const int begin = thread * kVector;
      if (begin + kVector <= range.elements) Vector(segment.shard_begin_element + range.begin + begin);
    }
  }

 private:
  SHARDSTEP_DEVICE void Vector(int64_t index) const {
    const Floats<kVector> master = LoadFloats<kVector>(machine_, args_.master + index);
    const Floats<kVector> first_moment = LoadFloats<kVector>(machine_, args_.first_moment + index);
    const Floats<kVector> second_moment = LoadFloats<kVector>(machine_, args_.second_moment + index);
    Floats<kVector> accumulator[1];
    LoadSumsSoFar(machine_, sum_.accumulator, index, accumulator);
    Halves<kVector> first[1];
    const uint32_t mixed = LoadSlices<kPlain>(machine_, sum_, index, first) | MixedBits(accumulator[0]);
    StoreFloats(machine_, first_moment, args_.first_moment + index);
    StoreFloats(machine_, second_moment, args_.second_moment + index);
    StoreFloats(machine_, master, args_.master + index);
    Halves<kVector> weights;
    SHARDSTEP_UNROLL
    for (int i = 0; i < kVector; ++i) weights.Set(i, static_cast<uint16_t>(FloatBits(master[i]) >> 16));
    weights.pair[0] |= mixed & HiddenZero(args_.segments);
    StoreHalves(machine_, weights, static_cast<Bf16*>(args_.weights) + index);
  }

  const Machine& machine_;
  const CudaUpdate& args_;
  const CudaSumSchedule& sum_;
};

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_TWINS_INL_H_
