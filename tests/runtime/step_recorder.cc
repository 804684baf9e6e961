#include "step_recorder.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

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

std::string LabelOf(const char* operation, int bucket, int64_t count, int rank) {
  return absl::StrCat(operation, " ", bucket, " ", count, " of rank ", rank);
}

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
      absl::StrCat("Reduce from parameter ", bucket_hint, " micro-batch ", args.first_micro_batch), Accesses(args));
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

// ---- RecorderCommunicator ------------------------------------------------------------------------------------------

RecorderCommunicator::RecorderCommunicator(Recording* recording, RecorderWorld* world, int rank,
                                           std::vector<BucketExtent> buckets)
    : recording_(recording), world_(world), rank_(rank), buckets_(std::move(buckets)) {
  int64_t largest = 0;
  for (const BucketExtent& bucket : buckets_) {
    Bf16* arena = world_->weights[rank_ % static_cast<int>(world_->weights.size())].data();
    destinations_.push_back(arena + bucket.begin_element + rank_ * bucket.shard_elements);
    largest = std::max(largest, bucket.shard_elements * world_->world_size);
  }
  slices_.resize(buckets_.size());
  landing_.assign(world_->traits.landing_buckets, std::vector<Bf16>(largest));
}

std::string RecorderCommunicator::Key(const char* operation, int bucket, int64_t count, int64_t per_step) const {
  return absl::StrCat(operation, " bucket ", bucket, " number ", count % per_step);
}

std::vector<MemoryAccess> RecorderCommunicator::Bucket(std::vector<Bf16>& arena, int bucket, bool write) const {
  const BucketExtent& extent = buckets_[bucket];
  return {{.begin = arena.data() + extent.begin_element,
           .size_bytes = extent.shard_elements * world_->world_size * static_cast<int64_t>(sizeof(Bf16)),
           .write = write}};
}

BufferView RecorderCommunicator::gradients() {
  std::vector<Bf16>& arena = world_->gradients[rank_];
  return {reinterpret_cast<std::byte*>(arena.data()), static_cast<int64_t>(arena.size() * sizeof(Bf16))};
}

BufferView RecorderCommunicator::weights() {
  std::vector<Bf16>& arena = world_->weights[rank_ % static_cast<int>(world_->weights.size())];
  return {reinterpret_cast<std::byte*>(arena.data()), static_cast<int64_t>(arena.size() * sizeof(Bf16))};
}

absl::Status RecorderCommunicator::Exchange(int bucket, int64_t micro_step, Stream& stream) {
  ++operations_["Exchange"];
  std::vector<MemoryAccess> accesses;
  if (!world_->traits.slices_persist) {
    accesses = Bucket(world_->gradients[rank_], bucket, false);
    std::vector<Bf16>& slot = landing_[exchanges_++ % world_->traits.landing_buckets];
    const int64_t shard = buckets_[bucket].shard_elements;
    accesses.push_back({slot.data(), shard * world_->world_size * static_cast<int64_t>(sizeof(Bf16)), true});
    slices_[bucket].clear();
    for (int r = 0; r < world_->world_size; ++r) slices_[bucket].push_back({slot.data() + r * shard, r});
  }
  const int item = AsRecorder(stream).Append(Key("Exchange", bucket, micro_step, world_->micro_steps), accesses);
  recording_->Label(item, LabelOf("Exchange", bucket, micro_step, rank_));
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::AwaitSlices(int bucket, int64_t micro_step, Stream& stream) {
  ++operations_["AwaitSlices"];
  const std::string key = Key("AwaitSlices", bucket, micro_step, world_->micro_steps);
  const int item = AsRecorder(stream).Append(key, {});
  for (int r = 0; r < world_->world_size; ++r) {
    recording_->AddEdgeToLabel(LabelOf("Exchange", bucket, micro_step, r), item, key);
  }
  return absl::OkStatus();
}

absl::Span<const Slice> RecorderCommunicator::slices(int bucket, int64_t) {
  if (world_->traits.slices_persist || world_->world_size == 1) {
    const BucketExtent& extent = buckets_[bucket];
    slices_[bucket].clear();
    for (int r = 0; r < world_->world_size; ++r) {
      slices_[bucket].push_back(
          {world_->gradients[r].data() + extent.begin_element + rank_ * extent.shard_elements, r});
    }
  }
  return slices_[bucket];
}

absl::Status RecorderCommunicator::Release(int bucket, int64_t micro_step, Stream& stream) {
  ++operations_["Release"];
  const int item = AsRecorder(stream).Append(Key("Release", bucket, micro_step, world_->micro_steps), {});
  recording_->Label(item, LabelOf("Release", bucket, micro_step, rank_));
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::AwaitReleased(int bucket, int64_t micro_step, Stream& stream) {
  ++operations_["AwaitReleased"];
  const std::string key = Key("AwaitReleased", bucket, micro_step, world_->micro_steps);
  const int item = AsRecorder(stream).Append(key, {});
  for (int r = 0; r < world_->world_size; ++r) {
    // Over a network the gradients are free once they are sent; in shared memory once the peers have read them.
    if (!world_->traits.slices_persist && r == rank_) {
      recording_->AddEdgeToLabel(LabelOf("Exchange", bucket, micro_step, r), item, key);
    } else if (world_->traits.slices_persist && r != rank_) {
      recording_->AddEdgeToLabel(LabelOf("Release", bucket, micro_step, r), item, key);
    }
  }
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::AllReduceSmall(SmallReduction*, Stream& stream) {
  ++operations_["AllReduceSmall"];
  // Its edges are a gate; a marker before it is what the other ranks wait for.
  const int marker = AsRecorder(stream).Append("arrival at AllReduceSmall", {});
  recording_->Label(marker, LabelOf("AllReduceSmall", -1, reductions_, rank_));
  const int item = AsRecorder(stream).Append("AllReduceSmall", {});
  for (int r = 0; r < world_->world_size && world_->traits.slices_persist; ++r) {
    if (r != rank_) recording_->AddEdgeToLabel(LabelOf("AllReduceSmall", -1, reductions_, r), item, "AllReduceSmall");
  }
  ++reductions_;
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::Publish(int bucket, int64_t step, Stream& stream) {
  ++operations_["Publish"];
  std::vector<MemoryAccess> accesses;
  if (!world_->traits.slices_persist) accesses = Bucket(world_->weights[rank_], bucket, true);
  const int item = AsRecorder(stream).Append(Key("Publish", bucket, step, 1), accesses);
  recording_->Label(item, LabelOf("Publish", bucket, step, rank_));
  return absl::OkStatus();
}

absl::Status RecorderCommunicator::AwaitPublished(int bucket, int64_t step, Stream& stream) {
  ++operations_["AwaitPublished"];
  const std::string key = Key("AwaitPublished", bucket, step, 1);
  const int item = AsRecorder(stream).Append(key, {});
  for (int r = 0; r < world_->world_size && world_->traits.slices_persist; ++r) {
    if (r != rank_) recording_->AddEdgeToLabel(LabelOf("Publish", bucket, step, r), item, key);
  }
  return absl::OkStatus();
}

}  // namespace shardstep
