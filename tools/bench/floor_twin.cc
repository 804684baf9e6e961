#include "shardstep/tools/bench/floor_twin.h"

#include <utility>

namespace shardstep {
namespace {

std::vector<const uint16_t*> Slices(const ShardBuffers& bucket) {
  std::vector<const uint16_t*> slices;
  for (const Slice& gradient : bucket.gradients) {
    for (int i = 0; i < bucket.shards_per_slice; ++i) {
      slices.push_back(static_cast<const uint16_t*>(gradient.data) + i * bucket.shard_elements);
    }
  }
  return slices;
}

// Pass number `pass` of those before the decision.
MemoryStreams GradientStreams(const StepCase& step, const ShardBuffers& bucket, int64_t pass) {
  MemoryStreams streams{.read2 = Slices(bucket)};
  if (!KeepsSum(step)) return streams;
  if (pass == 0) {
    streams.write4 = {bucket.accumulator};
  } else {
    streams.keep4 = {bucket.accumulator};
  }
  return streams;
}

MemoryStreams UpdateStreams(const StepCase& step, const ShardBuffers& bucket) {
  MemoryStreams streams;
  if (KeepsSum(step)) streams.read4 = {bucket.accumulator};
  if (ReadsSlicesInUpdate(step)) streams.read2 = Slices(bucket);
  for (float* state : {bucket.master, bucket.first_moment, bucket.second_moment}) {
    if (state != nullptr) streams.keep4.push_back(state);
  }
  for (size_t i = 0; i < bucket.destinations.size(); ++i) {
    auto* weights = static_cast<uint16_t*>(bucket.destinations[i]);
    (i == 0 && bucket.master == nullptr ? streams.keep2 : streams.write2).push_back(weights);
  }
  if (bucket.remainder != nullptr) streams.keep2.push_back(bucket.remainder);
  return streams;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FloorTwin>> FloorTwin::Create(const StepCase& step,
                                                             absl::Span<const ShardBuffers> buckets, int threads) {
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<WorkerPool> pool, WorkerPool::Create(threads - 1));
  std::unique_ptr<FloorTwin> twin(new FloorTwin(std::move(pool)));
  twin->gradient_passes_.resize(static_cast<size_t>(GradientPasses(step)));
  for (const ShardBuffers& bucket : buckets) {
    std::vector<ElementRange> ranges;
    for (const Segment& segment : bucket.segments) ranges.push_back({segment.shard_begin_element, segment.elements});
    if (KeepsSum(step) && bucket.accumulator == nullptr) {
      return absl::InternalError("the step keeps no sum where its cheapest form does");
    }
    for (size_t pass = 0; pass < twin->gradient_passes_.size(); ++pass) {
      twin->gradient_passes_[pass].push_back({ranges, GradientStreams(step, bucket, static_cast<int64_t>(pass))});
    }
    twin->update_pass_.push_back({ranges, UpdateStreams(step, bucket)});
  }
  return twin;
}

void FloorTwin::Gradients() {
  for (const Pass& pass : gradient_passes_) Run(pass);
}

void FloorTwin::Update() { Run(update_pass_); }

void FloorTwin::Run(const Pass& pass) {
  for (const Bucket& bucket : pass) {
    Move(bucket.streams, bucket.ranges, *pool_);
  }
}

namespace {

template <typename Pass>
int64_t BytesOf(const Pass& pass) {
  int64_t bytes = 0;
  for (const auto& bucket : pass) {
    for (const ElementRange& range : bucket.ranges) bytes += range.elements * bucket.streams.bytes_per_element();
  }
  return bytes;
}

}  // namespace

int64_t FloorTwin::gradient_bytes() const {
  int64_t bytes = 0;
  for (const Pass& pass : gradient_passes_) bytes += BytesOf(pass);
  return bytes;
}

int64_t FloorTwin::update_bytes() const { return BytesOf(update_pass_); }

}  // namespace shardstep
