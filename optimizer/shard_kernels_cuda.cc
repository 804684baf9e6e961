#include "shardstep/optimizer/shard_kernels_cuda.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/optimizer/kernel_arguments.h"
#include "shardstep/optimizer/sum_schedule.h"

namespace shardstep {
namespace {

constexpr int64_t kBlock = ShardLayout::kBlockElements;

absl::StatusOr<CudaSumSchedule> DeviceSchedule(absl::string_view launch, const SumArgs& sum) {
  if (sum.slices.size() > size_t{CudaSumSchedule::kMaxAdditions}) {
    return absl::InvalidArgumentError(absl::StrCat(launch, ": ", sum.slices.size(), " slices; kernels of CUDA add up ",
                                                   CudaSumSchedule::kMaxAdditions, " at most"));
  }
  const SumSchedule schedule = MakeSumSchedule(sum);
  CudaSumSchedule result;
  result.accumulator = schedule.accumulator;
  result.group_accumulator = schedule.group_accumulator;
  result.before_micro_batch = schedule.before_micro_batch;
  result.additions_count = static_cast<int32_t>(schedule.additions.size());
  result.begins_with_end = schedule.begins_with_end;
  result.plain = schedule.plain;
  for (size_t i = 0; i < schedule.additions.size(); ++i) {
    const Addition& addition = schedule.additions[i];
    result.bf16 = result.bf16 && addition.dtype == DType::kBf16;
    result.additions[i] = {.data = addition.data,
                           .micro_batch = addition.micro_batch,
                           .last_micro_batch = addition.last_micro_batch,
                           .fp32 = addition.dtype == DType::kFp32,
                           .to_group = addition.to_group,
                           .ends_group = addition.ends_group,
                           .partial = addition.partial};
  }
  return result;
}

class CudaShardKernels : public ShardKernels {
 public:
  CudaShardKernels(CudaKernels& kernels, Memory& memory, std::string target)
      : kernels_(kernels), memory_(memory), target_(std::move(target)) {}

  absl::Status Reduce(const ReduceArgs& args, Stream& stream) override {
    return Reduce("Reduce", args, stream, &CudaKernels::Reduce);
  }
  absl::Status Update(const UpdateArgs& args, Stream& stream) override {
    return Update("Update", args, stream, &CudaKernels::Update);
  }
  absl::Status ReduceTwin(const ReduceArgs& args, Stream& stream) {
    return Reduce("ReduceTwin", args, stream, &CudaKernels::ReduceTwin);
  }
  absl::Status UpdateTwin(const UpdateArgs& args, Stream& stream) {
    if (!(args.kind == UpdateKind()) || args.weight_dtype != DType::kBf16) {
      return absl::InvalidArgumentError("UpdateTwin: only of AdamW with an fp32 master behind bf16 weights");
    }
    return Update("UpdateTwin", args, stream, &CudaKernels::UpdateTwin);
  }

  absl::Status Zero(const ZeroArgs& args, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(args));
    SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const cuda_stream, AsCudaStream(stream, "Zero"));
    if (args.gradient.size_bytes == 0) return absl::OkStatus();
    return cuda_stream->Enqueue("Zero", [&](CudaStreamHandle handle) {
      return cuda_stream->device().api->MemsetAsync(args.gradient.data, 0, args.gradient.size_bytes, handle);
    });
  }

  absl::Status Copy(const CopyArgs& args, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(args));
    SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const cuda_stream, AsCudaStream(stream, "Copy"));
    if (args.size_bytes == 0) return absl::OkStatus();
    return cuda_stream->Enqueue("Copy", [&](CudaStreamHandle handle) {
      return cuda_stream->device().api->MemcpyAsync(args.to, args.from, args.size_bytes, handle);
    });
  }

  absl::Status Digest(const DigestArgs& args, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(args));
    SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const cuda_stream, AsCudaStream(stream, "Digest"));
    const CudaDigest digest = {.form = args.form,
                               .values = args.values,
                               .remainder = args.remainder,
                               .parameter = args.parameter,
                               .first_block = args.begin_element / kBlock,
                               .elements = args.elements,
                               .sum = args.sum};
    return cuda_stream->Enqueue("Digest", [&](CudaStreamHandle handle) { return kernels_.Digest(digest, handle); });
  }

  absl::Status Contribute(const ContributeWords& words, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(words));
    SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const cuda_stream, AsCudaStream(stream, "Contribute"));
    return cuda_stream->Enqueue("Contribute",
                                [&](CudaStreamHandle handle) { return kernels_.Contribute(words, handle); });
  }

  absl::Status Decide(const DecideWords& words, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(words));
    SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const cuda_stream, AsCudaStream(stream, "Decide"));
    return cuda_stream->Enqueue("Decide", [&](CudaStreamHandle handle) { return kernels_.Decide(words, handle); });
  }

  absl::Status SetSegments(absl::Span<const absl::Span<const Segment>> lists) override {
    lists_.clear();
    std::vector<CudaSegment> table;
    std::vector<std::pair<const Segment*, size_t>> begins;  // in the table
    for (const absl::Span<const Segment> list : lists) {
      if (list.empty()) continue;
      begins.emplace_back(list.data(), table.size());
      lists_[list.data()] = Append(list, &table);
    }
    const auto size_bytes = static_cast<int64_t>(table.size() * sizeof(CudaSegment));
    if (size_bytes == 0) return absl::OkStatus();
    if (size_bytes > table_.size_bytes()) {
      table_ = Buffer();
      auto allocated = memory_.Allocate(size_bytes, "segments of kernels", PageBacking::kOnCreation);
      if (!allocated.ok()) lists_.clear();
      SHARDSTEP_RETURN_IF_ERROR(allocated.status());
      table_ = *std::move(allocated);
    }
    for (const auto& [first, begin] : begins) lists_[first].segments.table = table_.as<CudaSegment>() + begin;
    return memory_.Write(table.data(), table_.view().data, size_bytes);
  }

  absl::string_view target() const override { return target_; }

 private:
  struct List {
    CudaSegments segments;
    int max_scalars = 0;
  };

  static List Append(absl::Span<const Segment> list, std::vector<CudaSegment>* table) {
    List result;
    for (const Segment& segment : list) {
      table->push_back({.first_block = result.segments.blocks,
                        .shard_begin_element = segment.shard_begin_element,
                        .elements = segment.elements,
                        .global_begin_element = segment.global_begin_element,
                        .norm_weight = segment.norm_weight,
                        .scalars = segment.scalars});
      result.segments.blocks += (segment.elements + kBlock - 1) / kBlock;
      result.max_scalars = std::max(result.max_scalars, segment.scalars);
    }
    result.segments.count = static_cast<int32_t>(list.size());
    return result;
  }

  absl::StatusOr<List> FindList(absl::string_view launch, absl::Span<const Segment> segments) const {
    if (segments.empty()) return List();
    const auto found = lists_.find(segments.data());
    if (found == lists_.end() || static_cast<size_t>(found->second.segments.count) != segments.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat(launch, ": SetSegments was not told of this list of ", segments.size(), " segments"));
    }
    return found->second;
  }

  absl::Status Reduce(absl::string_view name, const ReduceArgs& args, Stream& stream,
                      int (CudaKernels::*launch)(const CudaReduce&, const CudaSumSchedule&, CudaStreamHandle)) {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(args));
    SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const cuda_stream, AsCudaStream(stream, name));
    SHARDSTEP_ASSIGN_OR_RETURN(const List list, FindList(name, args.segments));
    SHARDSTEP_ASSIGN_OR_RETURN(const CudaSumSchedule sum, DeviceSchedule(name, args.sum));
    const CudaReduce reduce = {.segments = list.segments,
                               .accumulator_out = args.accumulator_out,
                               .group_accumulator_out = args.group_accumulator_out,
                               .rounded_out = args.rounded_out,
                               .take_norm = args.take_norm,
                               .scan = args.scan};
    return cuda_stream->Enqueue(name, [&](CudaStreamHandle handle) { return (kernels_.*launch)(reduce, sum, handle); });
  }

  absl::Status Update(absl::string_view name, const UpdateArgs& args, Stream& stream,
                      int (CudaKernels::*launch)(const CudaUpdate&, const CudaSumSchedule&, CudaStreamHandle)) {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(args));
    if (args.destinations.size() != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": ", args.destinations.size(), " destinations; kernels of CUDA have one"));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(CudaStream* const cuda_stream, AsCudaStream(stream, name));
    SHARDSTEP_ASSIGN_OR_RETURN(const List list, FindList(name, args.segments));
    if (!args.segments.empty() && static_cast<size_t>(list.max_scalars) >= args.rules.size()) {
      return absl::InternalError(absl::StrCat(name, ": a parameter has scalars number ", list.max_scalars,
                                              ", but there are ", args.rules.size()));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const CudaSumSchedule sum, DeviceSchedule(name, args.sum));
    const CudaUpdate update = {.kind = args.kind,
                               .fp32_weights = args.weight_dtype == DType::kFp32,
                               .segments = list.segments,
                               .master = args.master,
                               .remainder = args.remainder,
                               .first_moment = args.first_moment,
                               .second_moment = args.second_moment,
                               .weights = args.destinations[0],
                               .scalars = args.scalars,
                               .rules = args.rules.data()};
    return cuda_stream->Enqueue(name, [&](CudaStreamHandle handle) { return (kernels_.*launch)(update, sum, handle); });
  }

  CudaKernels& kernels_;
  Memory& memory_;
  const std::string target_;
  Buffer table_;  ///< CudaSegments of all lists, in the device's memory
  std::map<const Segment*, List> lists_;
};

absl::StatusOr<CudaShardKernels*> OfCuda(ShardKernels& kernels, absl::string_view launch) {
  auto* const cuda = dynamic_cast<CudaShardKernels*>(&kernels);
  if (cuda == nullptr) return absl::InvalidArgumentError(absl::StrCat(launch, ": only of kernels of CUDA"));
  return cuda;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShardKernels>> CreateCudaShardKernels(CudaKernels& kernels, const CudaDeviceRef& device,
                                                                     Memory& memory) {
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device.api, device.api->SetDevice(device.device), "cudaSetDevice"));
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(*device.api, kernels.Load(), "loading the kernels"));
  return std::make_unique<CudaShardKernels>(kernels, memory, kernels.Target());
}

absl::Status LaunchReduceTwin(ShardKernels& kernels, const ReduceArgs& args, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(CudaShardKernels* const cuda, OfCuda(kernels, "ReduceTwin"));
  return cuda->ReduceTwin(args, stream);
}

absl::Status LaunchUpdateTwin(ShardKernels& kernels, const UpdateArgs& args, Stream& stream) {
  SHARDSTEP_ASSIGN_OR_RETURN(CudaShardKernels* const cuda, OfCuda(kernels, "UpdateTwin"));
  return cuda->UpdateTwin(args, stream);
}

}  // namespace shardstep
