#include "shardstep/tools/bench/cuda_passes.h"

#include <cstddef>
#include <utility>

#include "shardstep/optimizer/shard_kernels_cuda.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {

absl::StatusOr<std::unique_ptr<CudaPasses>> CudaPasses::Create(const StepCase& step, std::vector<ShardBuffers> buckets,
                                                               const GroupOptions& group, ComputeDevice& device,
                                                               Stream& stream) {
  std::unique_ptr<CudaPasses> passes(new CudaPasses(step, std::move(buckets), stream));
  SHARDSTEP_RETURN_IF_ERROR(passes->Prepare(group, device));
  return passes;
}

absl::Status CudaPasses::Prepare(const GroupOptions& group, ComputeDevice& device) {
  std::vector<absl::Span<const Segment>> lists;
  for (const ShardBuffers& bucket : buckets_) {
    if (KeepsSum(step_) && bucket.accumulator == nullptr) {
      return absl::InternalError("the step keeps no sum where its cheapest form does");
    }
    lists.emplace_back(bucket.segments);
  }
  SHARDSTEP_ASSIGN_OR_RETURN(kernels_, device.CreateKernels(/*threads=*/1));
  SHARDSTEP_RETURN_IF_ERROR(kernels_->SetSegments(lists));
  SHARDSTEP_ASSIGN_OR_RETURN(
      words_, device.memory().Allocate(sizeof(Words), "words of the benchmark", PageBacking::kOnCreation));
  const Words words = {.scan = {},
                       .scalars = {.apply = true,
                                   .scale = 1.0f / static_cast<float>(step_.ranks * step_.micro_steps),
                                   .seed = 1,
                                   .applied_step = 1},
                       .rule = MakeRuleScalars(group, kBenchLearningRate, /*applied_step=*/1)};
  return device.memory().Write(&words, words_.view().data, sizeof(words));
}

bool CudaPasses::has_update_twin() const { return step_.update == UpdateKind(); }

absl::Status CudaPasses::Gradients(Kind kind) {
  for (int64_t pass = 0; pass < GradientPasses(step_); ++pass) SHARDSTEP_RETURN_IF_ERROR(GradientPass(kind, pass));
  return absl::OkStatus();
}

absl::Status CudaPasses::Norm(Kind kind) { return GradientPass(kind, GradientPasses(step_) - 1); }

absl::Status CudaPasses::GradientPass(Kind kind, int64_t pass) {
  for (const ShardBuffers& bucket : buckets_) {
    const std::vector<Slice> slices = Slices(bucket);
    const ReduceArgs args = ReduceOf(bucket, slices, pass);
    SHARDSTEP_RETURN_IF_ERROR(kind == Kind::kTwin ? LaunchReduceTwin(*kernels_, args, stream_)
                                                  : kernels_->Reduce(args, stream_));
  }
  return absl::OkStatus();
}

absl::Status CudaPasses::Update(Kind kind) {
  for (const ShardBuffers& bucket : buckets_) {
    const std::vector<Slice> slices = Slices(bucket);
    const UpdateArgs args = UpdateOf(bucket, slices);
    SHARDSTEP_RETURN_IF_ERROR(kind == Kind::kTwin ? LaunchUpdateTwin(*kernels_, args, stream_)
                                                  : kernels_->Update(args, stream_));
  }
  return absl::OkStatus();
}

std::vector<Slice> CudaPasses::Slices(const ShardBuffers& bucket) const {
  std::vector<Slice> slices;
  for (const Slice& gradient : bucket.gradients) {
    for (int i = 0; i < bucket.shards_per_slice; ++i) {
      Slice slice = gradient;
      slice.data = static_cast<const std::byte*>(gradient.data) + i * bucket.shard_elements * SizeBytes(gradient.dtype);
      slice.rank = static_cast<int>(slices.size());
      slices.push_back(slice);
      if (step_.wire_sums) {
        slices[0].ranks = step_.ranks;
        slices[0].partial = true;
        return slices;
      }
    }
  }
  return slices;
}

ReduceArgs CudaPasses::ReduceOf(const ShardBuffers& bucket, const std::vector<Slice>& slices, int64_t pass) const {
  const bool last = pass + 1 == step_.micro_steps;
  ReduceArgs args = {.segments = bucket.segments,
                     .sum = {.slices = slices, .first_micro_batch = pass * step_.ranks, .closes = last}};
  if (KeepsSum(step_)) {
    args.sum.accumulator = pass == 0 ? nullptr : bucket.accumulator;
    args.accumulator_out = bucket.accumulator;
  }
  if (has_norm()) {
    args.scan = &words_.as<Words>()->scan;
    args.take_norm = last;
  }
  return args;
}

UpdateArgs CudaPasses::UpdateOf(const ShardBuffers& bucket, const std::vector<Slice>& slices) const {
  UpdateArgs args = {.kind = step_.update,
                     .segments = bucket.segments,
                     .master = bucket.master,
                     .remainder = bucket.remainder,
                     .first_moment = bucket.first_moment,
                     .second_moment = bucket.second_moment,
                     .destinations = bucket.destinations,
                     .scalars = &words_.as<Words>()->scalars,
                     .rules = absl::MakeConstSpan(&words_.as<Words>()->rule, 1)};
  args.sum.first_micro_batch = (step_.micro_steps - 1) * step_.ranks;
  if (ReadsSlicesInUpdate(step_)) args.sum.slices = slices;
  if (KeepsSum(step_)) args.sum.accumulator = bucket.accumulator;
  return args;
}

int64_t CudaPasses::elements() const {
  int64_t elements = 0;
  for (const ShardBuffers& bucket : buckets_) {
    for (const Segment& segment : bucket.segments) elements += segment.elements;
  }
  return elements;
}

int64_t CudaPasses::slice_bytes() const {
  return buckets_.empty() ? 0 : static_cast<int64_t>(Slices(buckets_[0]).size()) * SizeBytes(DType::kBf16);
}

int64_t CudaPasses::GradientPassBytes(int64_t pass) const {
  if (pass < 0) return 0;
  const int64_t sum_bytes = KeepsSum(step_) ? (pass == 0 ? 1 : 2) * SizeBytes(DType::kFp32) : 0;
  return elements() * (slice_bytes() + sum_bytes);
}

int64_t CudaPasses::gradient_bytes() const {
  int64_t bytes = 0;
  for (int64_t pass = 0; pass < GradientPasses(step_); ++pass) bytes += GradientPassBytes(pass);
  return bytes;
}

int64_t CudaPasses::update_bytes() const {
  int64_t bytes = 0;
  for (const ShardBuffers& bucket : buckets_) {
    int64_t per_element = static_cast<int64_t>(bucket.destinations.size()) * SizeBytes(DType::kBf16);
    if (ReadsSlicesInUpdate(step_)) per_element += slice_bytes();
    if (KeepsSum(step_)) per_element += SizeBytes(DType::kFp32);
    for (const float* state : {bucket.master, bucket.first_moment, bucket.second_moment}) {
      if (state != nullptr) per_element += 2 * SizeBytes(DType::kFp32);
    }
    // Half of a split master are the weights, which are read then too.
    if (bucket.remainder != nullptr) per_element += 3 * SizeBytes(DType::kBf16);
    for (const Segment& segment : bucket.segments) bytes += segment.elements * per_element;
  }
  return bytes;
}

}  // namespace shardstep
