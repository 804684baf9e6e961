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
const T* At(const void* shard, int64_t element) {
  return static_cast<const T*>(shard) + element;
}
template <typename T>
T* At(void* shard, int64_t element) {
  return static_cast<T*>(shard) + element;
}

template <typename Values>
int64_t BytesOf(const Values& values) {
  return static_cast<int64_t>(values.size() * sizeof(values[0]));
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

StateAccess::StateAccess(const ShardLayout* layout, const ShardState* state, Communicator* communicator, Memory* memory)
    : layout_(layout), state_(state), communicator_(communicator), memory_(memory) {}

bool StateAccess::Has(StateKind kind, int b) const {
  return kind == StateKind::kMaster || Moment(state_->bucket(b), kind) != nullptr;
}

bool StateAccess::RoundsMaster(int b) const {
  const BucketState& bucket = state_->bucket(b);
  return layout_->kind(b).weight_dtype != DType::kFp32 && bucket.master == nullptr && bucket.remainder == nullptr;
}

StatePlace StateAccess::Place(StateKind kind, int b, int64_t shard_begin) const {
  const BucketState& bucket = state_->bucket(b);
  const float* array = kind == StateKind::kMaster ? bucket.master : Moment(bucket, kind);
  if (array != nullptr) return {.form = DigestForm::kFp32, .values = array + shard_begin};
  const DType dtype = layout_->kind(b).weight_dtype;
  return {.form = dtype == DType::kFp32 ? DigestForm::kFp32 : DigestForm::kWidened,
          .values = static_cast<const std::byte*>(communicator_->Destinations(b)[0]) + shard_begin * SizeBytes(dtype),
          .remainder = bucket.remainder == nullptr ? nullptr : bucket.remainder + shard_begin};
}

void StateAccess::Read(StateKind kind, int b, int64_t shard_begin, absl::Span<float> values) const {
  const StatePlace place = Place(kind, b, shard_begin);
  if (place.form == DigestForm::kFp32) return ReadWeights(place.values, DType::kFp32, values);
  if (place.remainder == nullptr) return ReadWeights(place.values, DType::kBf16, values);
  const std::vector<Bf16> weights = Load<Bf16>(place.values, values.size());
  const std::vector<uint16_t> remainders = Load<uint16_t>(place.remainder, values.size());
  for (size_t i = 0; i < values.size(); ++i) values[i] = Join({.weight = weights[i], .remainder = remainders[i]});
}

void StateAccess::Write(StateKind kind, int b, int64_t shard_begin, absl::Span<const float> values) const {
  const BucketState& bucket = state_->bucket(b);
  if (kind != StateKind::kMaster) {
    float* moment = kind == StateKind::kFirstMoment ? bucket.first_moment : bucket.second_moment;
    return Store(values.data(), moment + shard_begin, BytesOf(values));
  }
  if (layout_->kind(b).weight_dtype == DType::kFp32) return WriteWeights(b, shard_begin, values);
  std::vector<Bf16> weights(values.size());
  if (bucket.remainder != nullptr) {
    std::vector<uint16_t> remainders(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const SplitMaster split = Split(values[i]);
      weights[i] = split.weight;
      remainders[i] = split.remainder;
    }
    Store(remainders.data(), bucket.remainder + shard_begin, BytesOf(remainders));
  } else {
    if (bucket.master != nullptr) Store(values.data(), bucket.master + shard_begin, BytesOf(values));
    std::transform(values.begin(), values.end(), weights.begin(), ToBf16);
  }
  WriteWeights(b, shard_begin, absl::MakeConstSpan(weights));
}

void StateAccess::ReadWeights(const void* weights, DType dtype, absl::Span<float> values) const {
  if (dtype == DType::kFp32) return Copy(weights, values.data(), BytesOf(values));
  const std::vector<Bf16> rounded = Load<Bf16>(weights, values.size());
  std::transform(rounded.begin(), rounded.end(), values.begin(), ToFloat);
}

template <typename T>
void StateAccess::WriteWeights(int b, int64_t shard_begin, absl::Span<const T> weights) const {
  for (void* shard : communicator_->Destinations(b)) {
    Store(weights.data(), At<T>(shard, shard_begin), BytesOf(weights));
  }
}

template <typename T>
std::vector<T> StateAccess::Load(const void* from, size_t elements) const {
  std::vector<T> values(elements);
  Copy(from, values.data(), static_cast<int64_t>(elements * sizeof(T)));
  return values;
}

void StateAccess::Copy(const void* from, void* to, int64_t size_bytes) const {
  if (status_.ok()) status_ = memory_->Read(from, to, size_bytes);
  if (!status_.ok()) std::fill_n(static_cast<std::byte*>(to), size_bytes, std::byte{0});
}

void StateAccess::Store(const void* from, void* to, int64_t size_bytes) const {
  if (status_.ok()) status_ = memory_->Write(from, to, size_bytes);
}

}  // namespace shardstep
