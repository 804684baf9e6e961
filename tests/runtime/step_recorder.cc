#include "step_recorder.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace shardstep {
namespace {

constexpr size_t kProblemsToReport = 5;

bool Conflict(const MemoryAccess& a, const MemoryAccess& b) {
  const auto* a_begin = static_cast<const char*>(a.begin);
  const auto* b_begin = static_cast<const char*>(b.begin);
  return (a.write || b.write) && a_begin < b_begin + b.size_bytes && b_begin < a_begin + a.size_bytes;
}

bool Conflict(const std::vector<MemoryAccess>& a, const std::vector<MemoryAccess>& b) {
  return std::any_of(a.begin(), a.end(), [&](const MemoryAccess& x) {
    return std::any_of(b.begin(), b.end(), [&](const MemoryAccess& y) { return Conflict(x, y); });
  });
}

RecorderStream& AsRecorder(Stream& stream) { return static_cast<RecorderStream&>(stream); }

}  // namespace

// ---- Recording -----------------------------------------------------------------------------------------------------

int Recording::Append(int stream, const std::string& name, std::vector<MemoryAccess> accesses) {
  const int id = static_cast<int>(items_.size());
  items_.push_back({.stream = stream, .name = name, .accesses = std::move(accesses), .after = {}});
  const auto last = last_of_stream_.find(stream);
  if (last != last_of_stream_.end()) items_[id].after.push_back(last->second);
  last_of_stream_[stream] = id;
  return id;
}

void Recording::AddEdge(int earlier, int waiter, const std::string& key) {
  keys_.insert(key);
  if (deleted_.count(key) == 0) items_[waiter].after.push_back(earlier);
}

void Recording::AddEdgeToLabel(const std::string& label, int waiter, const std::string& key) {
  keys_.insert(key);
  if (deleted_.count(key) == 0) label_edges_.push_back({label, waiter});
}

int Recording::AppendTransfer(int after, const std::string& name, std::vector<MemoryAccess> accesses) {
  const int item = Append(--transfers_, name, std::move(accesses));
  items_[item].after.push_back(after);
  return item;
}

std::vector<std::vector<bool>> Recording::Reachability(std::vector<std::string>* problems) const {
  const size_t n = items_.size();
  std::vector<std::vector<int>> after(n);
  for (size_t i = 0; i < n; ++i) after[i] = items_[i].after;
  for (const LabelEdge& edge : label_edges_) {
    const auto found = labels_.find(edge.label);
    if (found == labels_.end()) {
      problems->push_back(absl::StrCat(items_[edge.waiter].name, " waits forever for ", edge.label));
    } else {
      after[edge.waiter].push_back(found->second);
    }
  }
  // Depth first: an item's ancestors are its direct ones and theirs.
  std::vector<std::vector<bool>> ancestors(n);
  std::vector<int> state(n, 0);
  for (size_t root = 0; root < n; ++root) {
    std::vector<int> stack = {static_cast<int>(root)};
    while (!stack.empty()) {
      const int item = stack.back();
      if (state[item] == 2) {
        stack.pop_back();
        continue;
      }
      if (state[item] == 0) {
        state[item] = 1;
        for (const int earlier : after[item]) {
          if (state[earlier] == 1) problems->push_back(absl::StrCat("deadlock at ", items_[item].name));
          if (state[earlier] == 0) stack.push_back(earlier);
        }
        continue;
      }
      ancestors[item].assign(n, false);
      for (const int earlier : after[item]) {
        ancestors[item][earlier] = true;
        for (size_t i = 0; i < ancestors[earlier].size(); ++i) {
          if (ancestors[earlier][i]) ancestors[item][i] = true;
        }
      }
      state[item] = 2;
      stack.pop_back();
    }
  }
  return ancestors;
}

std::vector<std::string> Recording::Problems() const {
  std::vector<std::string> problems;
  const std::vector<std::vector<bool>> ancestors = Reachability(&problems);
  for (size_t j = 0; j < items_.size() && problems.size() < kProblemsToReport; ++j) {
    if (items_[j].accesses.empty()) continue;
    for (size_t i = 0; i < j && problems.size() < kProblemsToReport; ++i) {
      if (items_[i].accesses.empty() || ancestors[j][i] || ancestors[i][j]) continue;
      if (Conflict(items_[i].accesses, items_[j].accesses)) {
        problems.push_back(absl::StrCat(items_[i].name, " races with ", items_[j].name));
      }
    }
  }
  return problems;
}

int Recording::access_count() const {
  return static_cast<int>(
      std::count_if(items_.begin(), items_.end(), [](const Item& item) { return !item.accesses.empty(); }));
}

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

absl::Status RecorderCommunicator::AllReduceSmall(SmallReduction*, Stream& stream) {
  ++operations_["AllReduceSmall"];
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
