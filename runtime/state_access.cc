#include "shardstep/runtime/state_access.h"

#include <algorithm>

#include "shardstep/comm/bf16.h"
#include "shardstep/optimizer/master_weights.h"

namespace shardstep {
namespace {

const float* Moment(const BucketState& bucket, StateKind kind) {
  return kind == StateKind::kFirstMoment ? bucket.first_moment : bucket.second_moment;
}

template <typename T>
T* ShardAt(void* shard, int64_t element) {
  return static_cast<T*>(shard) + element;
}

void WriteFp32(absl::Span<void* const> shards, int64_t begin, absl::Span<const float> values) {
  for (void* shard : shards) std::copy(values.begin(), values.end(), ShardAt<float>(shard, begin));
}

void WriteRounded(absl::Span<void* const> shards, int64_t begin, absl::Span<const float> values) {
  for (void* shard : shards) std::transform(values.begin(), values.end(), ShardAt<Bf16>(shard, begin), ToBf16);
}

void WriteSplit(absl::Span<void* const> shards, uint16_t* remainder, int64_t begin, absl::Span<const float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    const SplitMaster split = Split(values[i]);
    const int64_t element = begin + static_cast<int64_t>(i);
    remainder[element] = split.remainder;
    for (void* shard : shards) *ShardAt<Bf16>(shard, element) = split.weight;
  }
}

void ReadWeights(void* shard, DType dtype, int64_t begin, absl::Span<float> values) {
  if (dtype == DType::kFp32) {
    std::copy_n(ShardAt<const float>(shard, begin), values.size(), values.begin());
  } else {
    std::transform(ShardAt<const Bf16>(shard, begin), ShardAt<const Bf16>(shard, begin) + values.size(), values.begin(),
                   ToFloat);
  }
}

void ReadSplit(void* shard, const uint16_t* remainder, int64_t begin, absl::Span<float> values) {
  const Bf16* weights = ShardAt<const Bf16>(shard, begin);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = Join({.weight = weights[i], .remainder = remainder[begin + static_cast<int64_t>(i)]});
  }
}

}  // namespace

absl::string_view Name(StateKind kind) {
  switch (kind) {
    case StateKind::kMaster:
      return "master";
    case StateKind::kFirstMoment:
      return "first_moment";
    case StateKind::kSecondMoment:
      return "second_moment";
  }
  return "?";
}

StateAccess::StateAccess(const ShardLayout* layout, const ShardState* state, Communicator* communicator)
    : layout_(layout), state_(state), communicator_(communicator) {}

bool StateAccess::Has(StateKind kind, int b) const {
  return kind == StateKind::kMaster || Moment(state_->bucket(b), kind) != nullptr;
}

bool StateAccess::RoundsMaster(int b) const {
  const BucketState& bucket = state_->bucket(b);
  return layout_->kind(b).weight_dtype != DType::kFp32 && bucket.master == nullptr && bucket.remainder == nullptr;
}

void StateAccess::Read(StateKind kind, int b, int64_t shard_begin, absl::Span<float> values) const {
  const BucketState& bucket = state_->bucket(b);
  const float* array = kind == StateKind::kMaster ? bucket.master : Moment(bucket, kind);
  if (array != nullptr) {
    std::copy_n(array + shard_begin, values.size(), values.begin());
    return;
  }
  void* shard = communicator_->Destinations(b)[0];
  if (bucket.remainder != nullptr) {
    ReadSplit(shard, bucket.remainder, shard_begin, values);
  } else {
    ReadWeights(shard, layout_->kind(b).weight_dtype, shard_begin, values);
  }
}

void StateAccess::Write(StateKind kind, int b, int64_t shard_begin, absl::Span<const float> values) const {
  const BucketState& bucket = state_->bucket(b);
  if (kind != StateKind::kMaster) {
    float* moment = kind == StateKind::kFirstMoment ? bucket.first_moment : bucket.second_moment;
    std::copy(values.begin(), values.end(), moment + shard_begin);
    return;
  }
  const absl::Span<void* const> shards = communicator_->Destinations(b);
  if (layout_->kind(b).weight_dtype == DType::kFp32) return WriteFp32(shards, shard_begin, values);
  if (bucket.remainder != nullptr) return WriteSplit(shards, bucket.remainder, shard_begin, values);
  if (bucket.master != nullptr) std::copy(values.begin(), values.end(), bucket.master + shard_begin);
  WriteRounded(shards, shard_begin, values);
}

}  // namespace shardstep
