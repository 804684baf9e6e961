#ifndef SHARDSTEP_OPTIMIZER_CUDA_UPDATE_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_UPDATE_INL_H_

#include "shardstep/optimizer/cuda_gradients-inl.h"
#include "shardstep/optimizer/cuda_rules-inl.h"
#include "shardstep/optimizer/cuda_weights-inl.h"

namespace shardstep::cuda {

/// Threads that share a block of 1024 elements, one vector each.
inline constexpr int kUpdateThreads = kBlockElements / kVector;

/// Where a thread of a launch begins, and how far it goes from block to block.
struct BlockStride {
  int64_t first = 0;
  int64_t step = 1;
};

/// Update of one rule with one kind of weights: a thread's part. A moment that is not kept is never touched.
template <typename UpdateRule, typename Weights, bool kPlain, typename Machine>
class UpdateThread {
 public:
  SHARDSTEP_DEVICE UpdateThread(const Machine& machine, const CudaUpdate& args, const CudaSumSchedule& sum,
                                bool aligned)
      : machine_(machine), args_(args), sum_(sum), aligned_(aligned), scalars_(*args.scalars) {}

  SHARDSTEP_DEVICE void Run(int thread, BlockStride blocks) {
    if (!scalars_.apply) return;
    SegmentCursor cursor(args_.segments);
    for (int64_t block = blocks.first; block < args_.segments.blocks; block += blocks.step) {
      const CudaSegment& segment = cursor.MoveTo(block);
      Block(segment, cursor.Range(block), thread);
    }
  }

 private:
  SHARDSTEP_DEVICE void Block(const CudaSegment& segment, const BlockRange& range, int thread) const {
    const auto scalars = UpdateRule::Of(args_.rules[segment.scalars]);
    const int begin = thread * kVector;
    if (aligned_ && begin + kVector <= range.elements) {
      Elements<kVector>(segment, range.begin + begin, scalars);
      return;
    }
    // The end of a parameter is less than a vector, one thread's; what is not aligned is the block's, in turns.
    const int step = aligned_ ? 1 : kUpdateThreads;
    SHARDSTEP_NO_UNROLL
    for (int i = aligned_ ? begin : thread; i < range.elements; i += step) {
      Elements<1>(segment, range.begin + i, scalars);
    }
  }

  // Elements [begin, begin + N) of the segment.
  template <int N>
  SHARDSTEP_DEVICE void Elements(const CudaSegment& segment, int64_t begin,
                                 const typename UpdateRule::Scalars& scalars) const {
    const int64_t index = segment.shard_begin_element + begin;
    const typename Weights::template Loaded<N> loaded = Weights::template Load<N>(machine_, args_, index);
    Floats<N> first_moment = {};
    Floats<N> second_moment = {};
    if constexpr (UpdateRule::kFirstMoment) first_moment = LoadFloats<N>(machine_, args_.first_moment + index);
    if constexpr (UpdateRule::kSecondMoment) second_moment = LoadFloats<N>(machine_, args_.second_moment + index);
    Sums<N, 1> sums;
    SumSlices<kPlain>(machine_, sum_, index, &sums);
    Floats<N> w;
    SHARDSTEP_UNROLL
    for (int i = 0; i < N; ++i) {
      const float g = sums.s[0][i] * scalars_.scale;
      const UpdateElement<float> x = UpdateRule::Apply(
          UpdateElement<float>{Weights::Value(loaded, i), first_moment[i], second_moment[i]}, g, scalars);
      w[i] = x.master;
      first_moment[i] = x.first_moment;
      second_moment[i] = x.second_moment;
    }
    if constexpr (UpdateRule::kFirstMoment) StoreFloats(machine_, first_moment, args_.first_moment + index);
    if constexpr (UpdateRule::kSecondMoment) StoreFloats(machine_, second_moment, args_.second_moment + index);
    Weights::Store(machine_, w, args_, index,
                   {scalars_.seed, scalars_.applied_step, segment.global_begin_element + begin});
  }

  const Machine& machine_;
  const CudaUpdate& args_;
  const CudaSumSchedule& sum_;
  const bool aligned_;
  const UpdateScalars scalars_;
};

/// Calls visit(Weights()) with the class that stands for the weights of `args`.
template <typename Visit>
int VisitWeights(const CudaUpdate& args, const Visit& visit) {
  if (args.fp32_weights) return visit(Fp32Weights());
  switch (args.kind.master) {
    case Master::kFp32:
      return visit(Fp32MasterWeights());
    case Master::kSplit:
      return visit(SplitMasterWeights());
    case Master::kNone:
      break;
  }
  return args.kind.rounding == Rounding::kNearest ? visit(NoMasterWeights<false>()) : visit(NoMasterWeights<true>());
}

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_UPDATE_INL_H_
