#include "shardstep/tests/cuda/host_cuda_kernels.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "shardstep/optimizer/cuda_decide-inl.h"
#include "shardstep/optimizer/cuda_digest-inl.h"
#include "shardstep/optimizer/cuda_reduce-inl.h"
#include "shardstep/optimizer/cuda_twins-inl.h"
#include "shardstep/optimizer/cuda_update-inl.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/tests/cuda/host_machine.h"

namespace shardstep {
namespace {

using cuda::kReduceThreads;
using cuda::kReduceWarps;
using cuda::kUpdateThreads;

// How many thread blocks a launch with so many useful ones has.
int Grid(const HostCudaKernelsOptions& options, int64_t useful_blocks) {
  return static_cast<int>(std::min<int64_t>(options.filling_blocks, useful_blocks));
}
int64_t ReduceBlocks(const CudaReduce& args) { return (args.segments.blocks + kReduceWarps - 1) / kReduceWarps; }

template <bool kPlain>
void RunReduce(const HostCudaKernelsOptions& options, const CudaReduce& args, const CudaSumSchedule& sum) {
  HostMachine machine(options.order_seed);
  const int grid = Grid(options, ReduceBlocks(args));
  const bool aligned = cuda::IsAligned(args, sum);
  const auto shared = std::make_unique<cuda::ReduceShared<kPlain>>();
  for (const int block : machine.Order(grid)) {
    std::memset(static_cast<void*>(shared.get()), 0xab, sizeof(*shared));
    for (const int thread : machine.Order(kReduceThreads)) BeginReduce(thread, shared.get());
    for (const int warp : machine.Order(kReduceWarps)) {
      cuda::ReduceWarp<kPlain, HostMachine>(machine, args, sum, aligned, warp, shared.get())
          .Run(int64_t{block} * kReduceWarps + warp, int64_t{grid} * kReduceWarps);
    }
    for (const int thread : machine.Order(kReduceThreads)) EndReduce(machine, thread, args, shared.get());
  }
}

template <typename UpdateRule, typename Weights, bool kPlain>
void RunUpdate(const HostCudaKernelsOptions& options, const CudaUpdate& args, const CudaSumSchedule& sum) {
  HostMachine machine(options.order_seed);
  const int grid = Grid(options, args.segments.blocks);
  const bool aligned = cuda::IsAligned(args, sum);
  for (const int block : machine.Order(grid)) {
    for (const int thread : machine.Order(kUpdateThreads)) {
      cuda::UpdateThread<UpdateRule, Weights, kPlain, HostMachine>(machine, args, sum, aligned)
          .Run(thread, {block, grid});
    }
  }
}

template <typename UpdateRule>
void RunRule(const HostCudaKernelsOptions& options, const CudaUpdate& args, const CudaSumSchedule& sum) {
  cuda::VisitWeights(args, [&](auto weights) {
    using Weights = decltype(weights);
    if (cuda::IsPlain(sum)) {
      RunUpdate<UpdateRule, Weights, true>(options, args, sum);
    } else {
      RunUpdate<UpdateRule, Weights, false>(options, args, sum);
    }
    return 0;
  });
}

void RunUpdate(const HostCudaKernelsOptions& options, const CudaUpdate& args, const CudaSumSchedule& sum) {
  switch (args.kind.rule) {
    case Rule::kAdamW:
      return RunRule<cuda::AdamWRule>(options, args, sum);
    case Rule::kSgd:
      return args.kind.momentum ? RunRule<cuda::SgdRule<true>>(options, args, sum)
                                : RunRule<cuda::SgdRule<false>>(options, args, sum);
    case Rule::kLion:
      return RunRule<cuda::LionRule>(options, args, sum);
  }
}

template <bool kPlain>
void RunReduceTwin(const HostCudaKernelsOptions& options, const CudaReduce& args, const CudaSumSchedule& sum) {
  HostMachine machine(options.order_seed);
  const int grid = Grid(options, ReduceBlocks(args));
  for (const int block : machine.Order(grid)) {
    for (const int warp : machine.Order(kReduceWarps)) {
      cuda::ReduceTwinWarp<kPlain, HostMachine>(machine, args, sum)
          .Run(int64_t{block} * kReduceWarps + warp, int64_t{grid} * kReduceWarps);
    }
  }
}

template <bool kPlain>
void RunUpdateTwin(const HostCudaKernelsOptions& options, const CudaUpdate& args, const CudaSumSchedule& sum) {
  HostMachine machine(options.order_seed);
  const int grid = Grid(options, args.segments.blocks);
  for (const int block : machine.Order(grid)) {
    for (const int thread : machine.Order(kUpdateThreads)) {
      cuda::UpdateTwinThread<kPlain, HostMachine>(machine, args, sum).Run(thread, {block, grid});
    }
  }
}

// What a launch touches, by the arguments that it was made from.
class LaunchRanges {
 public:
  LaunchRanges(const CudaSegments& segments, const CudaSumSchedule& sum) : table_(segments) {
    for (int32_t i = 0; i < segments.count; ++i) {
      const CudaSegment& segment = segments.table[i];
      segments_.push_back({.scalars = segment.scalars,
                           .elements = segment.elements,
                           .shard_begin_element = segment.shard_begin_element});
      rules_ = std::max(rules_, segment.scalars + 1);
    }
    for (int32_t i = 0; i < sum.additions_count; ++i) {
      slices_.push_back({.data = sum.additions[i].data, .dtype = sum.additions[i].fp32 ? DType::kFp32 : DType::kBf16});
    }
    sum_ = {.slices = slices_, .accumulator = sum.accumulator, .group_accumulator = sum.group_accumulator};
  }

  std::vector<MemoryAccess> Of(const CudaReduce& args) const {
    return WithTable(Accesses(ReduceArgs{.segments = segments_,
                                         .sum = sum_,
                                         .accumulator_out = args.accumulator_out,
                                         .group_accumulator_out = args.group_accumulator_out,
                                         .rounded_out = args.rounded_out,
                                         .take_norm = args.take_norm,
                                         .scan = args.scan}));
  }
  std::vector<MemoryAccess> Of(const CudaUpdate& args) const {
    void* const destinations[] = {args.weights};
    return WithTable(Accesses(UpdateArgs{.kind = args.kind,
                                         .weight_dtype = args.fp32_weights ? DType::kFp32 : DType::kBf16,
                                         .segments = segments_,
                                         .sum = sum_,
                                         .master = args.master,
                                         .remainder = args.remainder,
                                         .first_moment = args.first_moment,
                                         .second_moment = args.second_moment,
                                         .destinations = destinations,
                                         .scalars = args.scalars,
                                         .rules = absl::MakeConstSpan(args.rules, rules_)}));
  }

 private:
  std::vector<MemoryAccess> WithTable(std::vector<MemoryAccess> accesses) const {
    if (table_.count > 0) {
      accesses.push_back({.begin = table_.table,
                          .size_bytes = table_.count * static_cast<int64_t>(sizeof(CudaSegment)),
                          .write = false});
    }
    return accesses;
  }

  const CudaSegments table_;
  std::vector<Segment> segments_;
  std::vector<Slice> slices_;
  SumArgs sum_;
  int rules_ = 0;
};

}  // namespace

int HostCudaKernels::Reduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return cuda_.Enqueue(stream, "Reduce", LaunchRanges(args.segments, sum).Of(args), [options = options_, args, sum] {
    if (cuda::IsPlain(sum)) {
      RunReduce<true>(options, args, sum);
    } else {
      RunReduce<false>(options, args, sum);
    }
  });
}

int HostCudaKernels::Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return cuda_.Enqueue(stream, "Update", LaunchRanges(args.segments, sum).Of(args),
                       [options = options_, args, sum] { RunUpdate(options, args, sum); });
}

int HostCudaKernels::Contribute(const ContributeWords& words, CudaStreamHandle stream) {
  return cuda_.Enqueue(stream, "Contribute", Accesses(words), [options = options_, words] {
    const HostMachine machine(options.order_seed);
    cuda::ContributeShared shared;
    cuda::Contribute(machine, words, &shared);
  });
}

int HostCudaKernels::Decide(const DecideWords& words, CudaStreamHandle stream) {
  return cuda_.Enqueue(stream, "Decide", Accesses(words), [options = options_, words] {
    const HostMachine machine(options.order_seed);
    cuda::DecideShared shared;
    cuda::Decide(machine, words, &shared);
  });
}

int HostCudaKernels::Digest(const CudaDigest& args, CudaStreamHandle stream) {
  const std::vector<MemoryAccess> accesses = Accesses(DigestArgs{.form = args.form,
                                                                 .values = args.values,
                                                                 .remainder = args.remainder,
                                                                 .elements = args.elements,
                                                                 .sum = args.sum});
  return cuda_.Enqueue(stream, "Digest", accesses, [options = options_, args] {
    HostMachine machine(options.order_seed);
    const int warps = Grid(options, cuda::DigestGrid(args)) * cuda::kDigestWarps;
    const bool aligned = cuda::IsAligned(args.values);
    cuda::VisitForm(args.form, [&](auto form) {
      for (const int warp : machine.Order(warps)) {
        cuda::DigestWarp<decltype(form)::value, HostMachine>(machine, args, aligned).Run(warp, warps);
      }
    });
  });
}

int HostCudaKernels::ReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return cuda_.Enqueue(stream, "ReduceTwin", LaunchRanges(args.segments, sum).Of(args),
                       [options = options_, args, sum] {
                         if (cuda::IsPlain(sum)) {
                           RunReduceTwin<true>(options, args, sum);
                         } else {
                           RunReduceTwin<false>(options, args, sum);
                         }
                       });
}

int HostCudaKernels::UpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) {
  return cuda_.Enqueue(stream, "UpdateTwin", LaunchRanges(args.segments, sum).Of(args),
                       [options = options_, args, sum] {
                         if (cuda::IsPlain(sum)) {
                           RunUpdateTwin<true>(options, args, sum);
                         } else {
                           RunUpdateTwin<false>(options, args, sum);
                         }
                       });
}

}  // namespace shardstep
