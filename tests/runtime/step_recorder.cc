#include "step_recorder.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "shardstep/optimizer/decision_formula.h"

namespace shardstep {
namespace {

RecorderStream& AsRecorder(Stream& stream) { return static_cast<RecorderStream&>(stream); }

}  // namespace

// ---- RecorderStream ------------------------------------------------------------------------------------------------

int RecorderStream::Append(const std::string& name, std::vector<MemoryAccess> accesses) {
  last_ = recording_->Append(id_, absl::StrCat(name, " on ", name_, " ", id_), std::move(accesses));
  for (const Event& event : pending_) {
    if (event.ticket < 0) continue;
    const auto& source = static_cast<const RecorderStream&>(*event.stream);
    recording_->AddEdge(static_cast<int>(event.ticket), last_, absl::StrCat(name, " <- ", source.name_));
  }
  pending_.clear();
  return last_;
}

void RecorderStream::Enqueue(absl::string_view name, Work work) {
  Append(std::string(name), {});
  status_.Update(work());
}

void RecorderStream::Wait(const Event& event) {
  // An in-order stream need not wait for itself.
  if (event.stream != nullptr && event.stream != this) pending_.push_back(event);
}

// ---- RecorderKernels -----------------------------------------------------------------------------------------------

absl::Status RecorderKernels::Reduce(const ReduceArgs& args, Stream& stream) {
  const int64_t bucket_hint = args.segments.empty() ? -1 : args.segments.front().parameter;
  AsRecorder(stream).Append(
      absl::StrCat("Reduce from parameter ", bucket_hint, " micro-batch ", args.sum.first_micro_batch), Accesses(args));
  return absl::OkStatus();
}

absl::Status RecorderKernels::Update(const UpdateArgs& args, Stream& stream) {
  const int64_t bucket_hint = args.segments.empty() ? -1 : args.segments.front().parameter;
  AsRecorder(stream).Append(absl::StrCat("Update from parameter ", bucket_hint), Accesses(args));
  return absl::OkStatus();
}

absl::Status RecorderKernels::Zero(const ZeroArgs& args, Stream& stream) {
  AsRecorder(stream).Append("Zero", Accesses(args));
  return absl::OkStatus();
}

absl::Status RecorderKernels::Copy(const CopyArgs& args, Stream& stream) {
  AsRecorder(stream).Append("Copy", Accesses(args));
  return absl::OkStatus();
}

absl::Status RecorderKernels::Digest(const DigestArgs& args, Stream& stream) {
  AsRecorder(stream).Append("Digest", Accesses(args));
  return absl::OkStatus();
}

// The verdict must be the real one.
absl::Status RecorderKernels::Contribute(const ContributeWords& words, Stream& stream) {
  AsRecorder(stream).Append("Contribute", Accesses(words));
  ContributeScans(words);
  return absl::OkStatus();
}

absl::Status RecorderKernels::Decide(const DecideWords& words, Stream& stream) {
  AsRecorder(stream).Append("Decide", Accesses(words));
  DecideStep(words);
  return absl::OkStatus();
}

// ---- RecorderCommunicator ------------------------------------------------------------------------------------------

void RecorderGroup::MakeArenas(int64_t gradient_bytes, int64_t weight_bytes, bool private_weights) {
  gradients.assign(world_size, Arena(gradient_bytes));
  own_weights.assign(private_weights ? world_size : 1, Arena(weight_bytes));
  for (int r = 0; r < world_size; ++r) {
    Arena& arena = own_weights[private_weights ? r : 0];
    weights.push_back({arena.data(), weight_bytes});
  }
}

RecorderCommunicator::RecorderCommunicator(Recording* recording, RecorderGroup* group, int rank,
                                           std::vector<BucketExtent> buckets, int contributions)
    : recording_(recording),
      group_(group),
      rank_(rank),
      buckets_(std::move(buckets)),
      contributions_(contributions),
      destinations_(buckets_.size()),
      slices_(buckets_.size()) {
  int64_t largest_elements = 0;
  for (size_t b = 0; b < buckets_.size(); ++b) {
    const BucketExtent& extent = buckets_[b];
    largest_elements = std::max(largest_elements, extent.shard_elements);
    const int64_t begin = extent.weight_begin_byte + rank_ * extent.shard_elements * SizeBytes(extent.weight_dtype);
    std::set<std::byte*> copies;
    // A network's owner writes its own copy only; the others are sent.
    for (int i = 0; i < group_->world_size; ++i) {
      std::byte* const copy = group_->weights[(rank_ + i) % group_->world_size].data + begin;
      if ((persists() || i == 0) && copies.insert(copy).second) destinations_[b].push_back(copy);
    }
  }
  const int64_t slices = group_->world_size * std::max(1, contributions_);
  landing_.assign(group_->traits.landing_buckets,
                  std::vector<std::byte>(slices * largest_elements * SizeBytes(DType::kFp32)));
}

std::string RecorderCommunicator::Key(const char* operation, int bucket, int64_t count, int64_t per_step) const {
  const std::string level = group_->name.substr(0, group_->name.find(' '));
  return absl::StrCat(level, " ", operation, " bucket ", bucket, " number ", count % per_step);
}

std::string RecorderCommunicator::Label(const char* operation, int bucket, int64_t count, int rank) const {
  return absl::StrCat(operation, " ", bucket, " ", count, " of rank ", rank, " of ", group_->name);
}

void RecorderCommunicator::AwaitAll(const char* operation, int bucket, int64_t count, int item,
                                    const std::string& key) {
  for (int r = 0; r < group_->world_size; ++r) {
    recording_->AddEdgeToLabel(Label(operation, bucket, count, r), item, key);
  }
}

MemoryAccess RecorderCommunicator::Shards(const void* data, int bucket, DType dtype, int first, int shards,
                                          bool write) const {
  const int64_t shard_bytes = buckets_[bucket].shard_elements * SizeBytes(dtype);
  return {static_cast<const std::byte*>(data) + first * shard_bytes, shards * shard_bytes, write};
}

BufferView RecorderCommunicator::gradients() {
  if (contributions_ > 0) return {};
  RecorderGroup::Arena& arena = group_->gradients[rank_];
  return {arena.data(), static_cast<int64_t>(arena.size())};
}

absl::Status RecorderCommunicator::Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                                            Stream& stream) {
  ++operations_["Exchange"];
  EXPECT_EQ(static_cast<int>(contributions.size()), contributions_);
  const int item = AsRecorder(stream).Append(Key("Exchange", bucket, micro_step, group_->exchanges_per_step), {});
  recording_->Label(item, Label("Exchange", bucket, micro_step, rank_));
  if (persists()) return absl::OkStatus();
  if (contributions_ > 0) {
    StartTransfers(item, bucket, micro_step, contributions);
  } else {
    const BucketExtent& extent = buckets_[bucket];
    const Slice own{.data = gradients().data + extent.gradient_begin_byte, .dtype = extent.gradient_dtype};
    StartTransfers(item, bucket, micro_step, {&own, 1});
  }
  return absl::OkStatus();
}

// What is sent is read, and what comes lands, while the streams go on.
void RecorderCommunicator::StartTransfers(int exchange_item, int bucket, int64_t micro_step,
                                          absl::Span<const Slice> sent) {
  std::vector<std::byte>& slot = landing_[exchanges_++ % group_->traits.landing_buckets];
  std::vector<Slice>& slices = slices_[bucket];
  slices.clear();
  std::vector<MemoryAccess> reads, writes;
  std::byte* next = slot.data();
  for (int r = 0; r < group_->world_size; ++r) {
    for (const Slice& slice : sent) {
      Slice landed = slice;
      landed.rank = r;
      if (r == rank_) {
        landed.data = Shards(slice.data, bucket, slice.dtype, rank_, 1, false).begin;
      } else {
        landed.data = next;
        writes.push_back(Shards(next, bucket, slice.dtype, 0, 1, true));
        next += writes.back().size_bytes;
        reads.push_back(Shards(slice.data, bucket, slice.dtype, r, 1, false));
      }
      slices.push_back(landed);
    }
  }
  const int send = recording_->AppendTransfer(exchange_item, "send of " + Label("Exchange", bucket, micro_step, rank_),
                                              std::move(reads));
  recording_->Label(send, Label("Sent", bucket, micro_step, rank_));
  const int receive = recording_->AppendTransfer(
      exchange_item, "landing of " + Label("Exchange", bucket, micro_step, rank_), std::move(writes));
  recording_->Label(receive, Label("Landed", bucket, micro_step, rank_));
  for (int r = 0; r < group_->world_size; ++r) {
    recording_->AddNaturalEdgeToLabel(Label("Exchange", bucket, micro_step, r), receive);
    recording_->AddNaturalEdgeToLabel(Label("Exchange", bucket, micro_step, r), send);
  }
}

absl::Status RecorderCommunicator::AwaitSlices(int bucket, int64_t micro_step, Stream& stream) {
  ++operations_["AwaitSlices"];
  const std::string key = Key("AwaitSlices", bucket, micro_step, group_->exchanges_per_step);
  const int item = AsRecorder(stream).Append(key, {});
  if (persists()) {
    AwaitAll("Exchange", bucket, micro_step, item, key);
  } else {
    recording_->AddEdgeToLabel(Label("Landed", bucket, micro_step, rank_), item, key);
  }
  return absl::OkStatus();
}

absl::Span<const Slice> RecorderCommunicator::slices(int bucket, int64_t) {
  if (!persists()) return slices_[bucket];
  const BucketExtent& extent = buckets_[bucket];
  std::vector<Slice>& slices = slices_[bucket];
  slices.clear();
  for (int r = 0; r < group_->world_size; ++r) {
    const std::byte* const begin = group_->gradients[r].data() + extent.gradient_begin_byte;
    slices.push_back({.data = Shards(begin, bucket, extent.gradient_dtype, rank_, 1, false).begin,
                      .dtype = extent.gradient_dtype,
                      .rank = r});
  }
  return slices;
}

absl::Status RecorderCommunicator::Release(int bucket, int64_t micro_step, Stream& stream) {
  ++operations_["Release"];
  const int item = AsRecorder(stream).Append(Key("Release", bucket, micro_step, group_->exchanges_per_step), {});
  recording_->Label(item, Label("Release", bucket, micro_step, rank_));
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::AwaitReleased(int bucket, int64_t micro_step, Stream& stream) {
  ++operations_["AwaitReleased"];
  const std::string key = Key("AwaitReleased", bucket, micro_step, group_->exchanges_per_step);
  const int item = AsRecorder(stream).Append(key, {});
  if (persists()) {
    AwaitAll("Release", bucket, micro_step, item, key);
  } else {
    recording_->AddEdgeToLabel(Label("Sent", bucket, micro_step, rank_), item, key);
    recording_->AddEdgeToLabel(Label("Release", bucket, micro_step, rank_), item, key);
  }
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::AllReduceSmall(SmallReduction* reduction, Stream& stream) {
  ++operations_["AllReduceSmall"];
  // Ranks are recorded one by one: as if all had said what this one says.
  reduction->sums[SmallReduction::kArrivals] *= world_size();
  // Its edges are a gate; a marker before it is what the other ranks wait for.
  const int marker = AsRecorder(stream).Append("arrival at AllReduceSmall", {});
  recording_->Label(marker, Label("AllReduceSmall", -1, reductions_, rank_));
  const std::string key = Key("AllReduceSmall", -1, 0, 1);
  const int item = AsRecorder(stream).Append(key, {});
  // Over a network weights come by transfers of this rank's own, which its own stream orders: no gate is needed.
  if (persists()) AwaitAll("AllReduceSmall", -1, reductions_, item, key);
  ++reductions_;
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::Publish(int bucket, int64_t step, Stream& stream) {
  ++operations_["Publish"];
  const int item = AsRecorder(stream).Append(Key("Publish", bucket, step, 1), {});
  recording_->Label(item, Label("Publish", bucket, step, rank_));
  if (persists()) return absl::OkStatus();
  const BucketExtent& extent = buckets_[bucket];
  const std::byte* const begin = weights().data + extent.weight_begin_byte;
  const int send = recording_->AppendTransfer(item, "send of " + Label("Publish", bucket, step, rank_),
                                              {Shards(begin, bucket, extent.weight_dtype, rank_, 1, false)});
  recording_->Label(send, Label("WeightsSent", bucket, step, rank_));
  const int receive = recording_->AppendTransfer(
      item, "landing of " + Label("Publish", bucket, step, rank_),
      {Shards(begin, bucket, extent.weight_dtype, 0, rank_, true),
       Shards(begin, bucket, extent.weight_dtype, rank_ + 1, group_->world_size - rank_ - 1, true)});
  recording_->Label(receive, Label("WeightsLanded", bucket, step, rank_));
  for (int r = 0; r < group_->world_size; ++r) {
    recording_->AddNaturalEdgeToLabel(Label("Publish", bucket, step, r), receive);
    recording_->AddNaturalEdgeToLabel(Label("Publish", bucket, step, r), send);
  }
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::AwaitPublished(int bucket, int64_t step, Stream& stream) {
  ++operations_["AwaitPublished"];
  const std::string key = Key("AwaitPublished", bucket, step, 1);
  const int item = AsRecorder(stream).Append(key, {});
  if (persists()) {
    AwaitAll("Publish", bucket, step, item, key);
  } else {
    recording_->AddEdgeToLabel(Label("WeightsSent", bucket, step, rank_), item, key);
    recording_->AddEdgeToLabel(Label("WeightsLanded", bucket, step, rank_), item, key);
  }
  return absl::OkStatus();
}

}  // namespace shardstep
