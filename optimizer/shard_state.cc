#include "shardstep/optimizer/shard_state.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

template <typename T>
absl::Status Ensure(Memory& memory, bool wanted, int64_t elements, absl::string_view what, int b, T** array,
                    std::vector<Buffer>* buffers) {
  if (!wanted || *array != nullptr) return absl::OkStatus();
  SHARDSTEP_ASSIGN_OR_RETURN(
      Buffer buffer, memory.Allocate(elements * static_cast<int64_t>(sizeof(T)), absl::StrCat(what, " of bucket ", b),
                                     PageBacking::kOnFirstUse));
  *array = buffer.as<T>();
  buffers->push_back(std::move(buffer));
  return absl::OkStatus();
}

}  // namespace

ShardState::Bytes ShardState::BytesOf(const ShardLayout& layout, int b, const Sums& sums) {
  const BucketKind& kind = layout.kind(b);
  const int64_t elements = layout.shard_elements(b);
  const int sum_count = (sums.accumulator ? 1 : 0) + (sums.group_accumulator ? 1 : 0);
  return {.master_bytes = elements * MasterBytes(kind.update, kind.weight_dtype),
          .moment_bytes = elements * MomentBytes(kind.update),
          .sum_bytes = elements * sum_count * static_cast<int64_t>(sizeof(float))};
}

ShardState::Bytes ShardState::BytesOf(const ShardLayout& layout, const Sums& sums) {
  Bytes all;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    if (!layout.kind(b).frozen) all += BytesOf(layout, b, sums);
  }
  return all;
}

ShardState::Bytes ShardState::bytes(const ShardLayout& layout) const {
  Bytes all;
  for (size_t b = 0; b < buckets_.size(); ++b) {
    if (buckets_[b].active) all += BytesOf(layout, static_cast<int>(b), sums_);
  }
  return all;
}

absl::StatusOr<ShardState> ShardState::Create(const ShardLayout& layout, const Sums& sums, Memory& memory) {
  // Pages that come on first use end in SIGKILL when there are none, so all of them are asked for at once.
  SHARDSTEP_RETURN_IF_ERROR(memory.CheckAvailable(BytesOf(layout, sums).total_bytes(), "optimizer state"));
  ShardState state;
  state.memory_ = &memory;
  state.sums_ = sums;
  state.buckets_.resize(layout.bucket_count());
  for (int b = 0; b < layout.bucket_count(); ++b) {
    Bucket& bucket = state.buckets_[b];
    bucket.active = !layout.kind(b).frozen;
    if (bucket.active) SHARDSTEP_RETURN_IF_ERROR(state.Fill(layout, b, sums, &bucket));
  }
  return state;
}

absl::Status ShardState::EnsureSums(const ShardLayout& layout, const Sums& sums) {
  const Sums wanted = {.accumulator = sums_.accumulator || sums.accumulator,
                       .group_accumulator = sums_.group_accumulator || sums.group_accumulator};
  int64_t more_bytes = 0;
  for (int b = 0; b < static_cast<int>(buckets_.size()); ++b) {
    if (!buckets_[b].active) continue;
    more_bytes += BytesOf(layout, b, wanted).sum_bytes - BytesOf(layout, b, sums_).sum_bytes;
  }
  SHARDSTEP_RETURN_IF_ERROR(memory_->CheckAvailable(more_bytes, "gradient accumulators"));
  std::vector<Bucket> more(buckets_.size());
  for (int b = 0; b < static_cast<int>(buckets_.size()); ++b) {
    if (!buckets_[b].active) continue;
    more[b].pointers = buckets_[b].pointers;
    SHARDSTEP_RETURN_IF_ERROR(Fill(layout, b, wanted, &more[b]));
  }
  sums_ = wanted;
  for (size_t b = 0; b < buckets_.size(); ++b) {
    buckets_[b].pointers = more[b].pointers;
    for (Buffer& buffer : more[b].buffers) buckets_[b].buffers.push_back(std::move(buffer));
  }
  return absl::OkStatus();
}

absl::Status ShardState::Thaw(const ShardLayout& layout, int b) {
  if (buckets_[b].active) return absl::OkStatus();
  SHARDSTEP_RETURN_IF_ERROR(
      memory_->CheckAvailable(BytesOf(layout, b, sums_).total_bytes(), absl::StrCat("optimizer state of bucket ", b)));
  Bucket bucket;
  SHARDSTEP_RETURN_IF_ERROR(Fill(layout, b, sums_, &bucket));
  bucket.active = true;
  buckets_[b] = std::move(bucket);
  return absl::OkStatus();
}

void ShardState::Freeze(int b) { buckets_[b] = Bucket(); }

absl::Status ShardState::Fill(const ShardLayout& layout, int b, const Sums& sums, Bucket* bucket) const {
  const BucketKind& kind = layout.kind(b);
  const bool bf16 = kind.weight_dtype == DType::kBf16;  // fp32 weights are their own master
  const int64_t elements = layout.shard_elements(b);
  const auto ensure = [&](bool wanted, absl::string_view what, auto** array) {
    return Ensure(*memory_, wanted, elements, what, b, array, &bucket->buffers);
  };
  BucketState& state = bucket->pointers;
  SHARDSTEP_RETURN_IF_ERROR(ensure(bf16 && kind.update.master == Master::kFp32, "master weights", &state.master));
  SHARDSTEP_RETURN_IF_ERROR(ensure(bf16 && kind.update.master == Master::kSplit, "remainders", &state.remainder));
  SHARDSTEP_RETURN_IF_ERROR(ensure(kind.update.has_first_moment(), "first moments", &state.first_moment));
  SHARDSTEP_RETURN_IF_ERROR(ensure(kind.update.has_second_moment(), "second moments", &state.second_moment));
  SHARDSTEP_RETURN_IF_ERROR(ensure(sums.accumulator, "gradient accumulator", &state.accumulator));
  SHARDSTEP_RETURN_IF_ERROR(ensure(sums.group_accumulator, "group accumulator", &state.group_accumulator));
  return absl::OkStatus();
}

}  // namespace shardstep
