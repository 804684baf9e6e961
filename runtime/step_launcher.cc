#include "shardstep/runtime/step_launcher.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/decision_formula.h"
#include "shardstep/runtime/bucket_extents.h"

namespace shardstep {
namespace {

// Of one sum of a host, of any bucket: the shards of a rail, in fp32.
int64_t LargestSumBytes(const ShardLayout& layout, const HostMap& map) {
  int64_t largest = 0;
  for (int b = 0; b < layout.bucket_count(); ++b) {
    largest = std::max(largest, layout.shard_elements(b) * map.host_count());
  }
  return largest * SizeBytes(DType::kFp32);
}

const std::byte* At(const void* data, int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(data) + elements * SizeBytes(dtype);
}

}  // namespace

int64_t HostSumBytes(const ShardLayout& layout, const HostMap& map, const HostContributions& contributions,
                     int landing_buckets) {
  if (!contributions.sums) return 0;
  return landing_buckets * contributions.count() * LargestSumBytes(layout, map);
}

StepLauncher::StepLauncher(const StepResources& resources)
    : r_(resources),
      world_size_(resources.layout->world_size()),
      local_sums_(world_size_ > 1 && resources.options->accumulation == Accumulation::kLocal) {
  const int buckets = r_.layout->bucket_count();
  if (r_.network != nullptr) contributions_ = PlanContributions(*r_.map, *r_.options);
  if (contributions_.sums) host_sum_bytes_ = LargestSumBytes(*r_.layout, *r_.map);
  slices_.resize(buckets);
  host_slices_.resize(buckets);
  host_sums_.resize(buckets);
  last_exchange_.assign(buckets, -1);
  ring_slot_.resize(buckets);
  own_gradient_.resize(buckets);
  const std::vector<BucketExtent> extents = HostExtents(*r_.layout, *r_.map, local_sums_);
  for (int b = 0; b < buckets; ++b) {
    own_gradient_[b] = {{.data = r_.gradients.data + r_.layout->bucket_gradient_begin_byte(b),
                         .dtype = r_.layout->kind(b).gradient_dtype,
                         .rank = r_.rank}};
    own_sum_.push_back(reinterpret_cast<float*>(r_.host->gradients().data + extents[b].gradient_begin_byte));
  }
}

absl::Status StepLauncher::TakeOverGroups() {
  segments_.assign(r_.layout->bucket_count(), {});
  for (int b = 0; b < r_.layout->bucket_count(); ++b) {
    const auto add = [&](std::vector<Segment>& segments, int rank, int64_t shard) {
      for (Segment segment : r_.groups->Segments(b, rank)) {
        segment.shard_begin_element += shard * r_.layout->shard_elements(b);
        segments.push_back(segment);
      }
    };
    BucketSegments& segments = segments_[b];
    add(segments.mine, r_.rank, 0);
    if (r_.words->parameter_scans() != nullptr) segments.one_by_one = segments.mine;
    if (local_sums_) {
      for (int rank = 0; rank < world_size_; ++rank) add(segments.whole, rank, r_.layout->position(rank));
    }
    if (!contributions_.sums) continue;
    for (int h = 0; h < r_.map->host_count(); ++h) {
      // Of its own shard this rank reads the gradients themselves, unless rounding their sum is the point.
      if (h != r_.map->host || contributions_.rounded) add(segments.rail, r_.map->hosts[h][r_.map->local_rank], h);
    }
  }
  std::vector<absl::Span<const Segment>> lists;
  for (const BucketSegments& segments : segments_) {
    for (const std::vector<Segment>* list : {&segments.mine, &segments.rail, &segments.whole}) {
      if (!list->empty()) lists.push_back(*list);
    }
    for (const Segment& segment : segments.one_by_one) lists.push_back(absl::MakeConstSpan(&segment, 1));
  }
  SHARDSTEP_RETURN_IF_ERROR(r_.kernels->SetSegments(lists));
  return TakeOverSettings();
}

absl::Status StepLauncher::TakeOverSettings() { return r_.words->SetSettings(r_.groups->Settings()); }

absl::Status StepLauncher::Launch(const StepPlan& plan, const StepNode& node, const StepPosition& position,
                                  Stream& stream) {
  const int64_t exchange = position.first_exchange + (plan.gradients.local_sums ? 0 : node.micro_step);
  switch (node.op) {
    case StepOp::kAccumulate:
      return LaunchAccumulate(node, position.step, stream);
    case StepOp::kExchange:
      return LaunchExchange(node, exchange, stream);
    case StepOp::kAwaitSlices:
      return Of(node).AwaitSlices(node.bucket, exchange, stream);
    case StepOp::kSumHost:
      return LaunchSumHost(node, position, exchange, stream);
    case StepOp::kReduce:
      return LaunchReduce(plan, node, exchange, stream);
    case StepOp::kRelease:
      return Of(node).Release(node.bucket, exchange, stream);
    case StepOp::kAwaitReleased:
      return LaunchAwaitReleased(node, exchange, stream);
    case StepOp::kContribute:
      return r_.kernels->Contribute(r_.words->Contribute(static_cast<int>(position.step % 2)), stream);
    case StepOp::kAllReduceSmall:
      return Of(node).AllReduceSmall(&r_.words->on_device().reduction, stream);
    case StepOp::kJoin:
      LaunchJoin();
      return absl::OkStatus();
    case StepOp::kDecide:
      return r_.kernels->Decide(r_.words->Decide(plan.input.joins ? &facts_ : nullptr), stream);
    case StepOp::kUpdate:
      return LaunchUpdate(plan, node, position, stream);
    case StepOp::kPublish:
      return Of(node).Publish(node.bucket, position.step, stream);
    case StepOp::kAwaitPublished:
      return Of(node).AwaitPublished(node.bucket, position.step, stream);
  }
  return absl::InternalError("unknown operation");
}

// ---- Gradients -----------------------------------------------------------------------------------------------------

absl::Status StepLauncher::LaunchAccumulate(const StepNode& node, int64_t step, Stream& stream) {
  float* const sum = own_sum_[node.bucket];
  return r_.kernels->Reduce({.segments = segments_[node.bucket].whole,
                             .sum = {.slices = own_gradient_[node.bucket],
                                     .first_micro_batch = node.micro_step * world_size_,
                                     .accumulator = node.read_accumulator ? sum : nullptr},
                             .accumulator_out = sum,
                             .scan = node.scan ? ExchangeScan(step) : nullptr},
                            stream);
}

absl::Status StepLauncher::LaunchExchange(const StepNode& node, int64_t exchange, Stream& stream) {
  if (node.level == Level::kHost) {
    last_exchange_[node.bucket] = exchange;
    return r_.host->Exchange(node.bucket, exchange, {}, stream);
  }
  return r_.network->Exchange(node.bucket, exchange, Contributions(node.bucket, exchange), stream);
}

// Every sum of a host takes the gradients of its own ranks only.
absl::Status StepLauncher::LaunchSumHost(const StepNode& node, const StepPosition& position, int64_t exchange,
                                         Stream& stream) {
  ring_slot_[node.bucket] = network_exchanges_++ % r_.network->traits().landing_buckets;
  const absl::Span<const Slice> gradients = HostSlices(node.bucket, exchange);
  for (int i = 0; i < contributions_.count(); ++i) {
    const Contribution& contribution = contributions_.contributions[i];
    void* const out = HostSum(node.bucket, i);
    const bool rounds = contributions_.SumDtype(r_.layout->kind(node.bucket).gradient_dtype) == DType::kBf16;
    SHARDSTEP_RETURN_IF_ERROR(
        r_.kernels->Reduce({.segments = segments_[node.bucket].rail,
                            .sum = {.slices = gradients.subspan(contribution.first, contribution.ranks),
                                    .first_micro_batch = node.micro_step * world_size_},
                            .accumulator_out = rounds ? nullptr : static_cast<float*>(out),
                            .rounded_out = rounds ? static_cast<Bf16*>(out) : nullptr,
                            .scan = node.scan ? ExchangeScan(position.step) : nullptr},
                           stream));
  }
  return absl::OkStatus();
}

absl::Status StepLauncher::LaunchReduce(const StepPlan& plan, const StepNode& node, int64_t exchange, Stream& stream) {
  const BucketState& state = r_.state->bucket(node.bucket);
  const bool last = node.micro_step == plan.input.micro_steps - 1;
  ReduceArgs args = {.segments = segments_[node.bucket].mine,
                     .sum = {.slices = Slices(node.bucket, exchange),
                             .sum_group = plan.input.sum_group,
                             .first_micro_batch = node.micro_step * world_size_,
                             .accumulator = node.read_accumulator ? state.accumulator : nullptr,
                             .group_accumulator = node.read_group ? state.group_accumulator : nullptr,
                             .closes = last},
                     .accumulator_out = node.write_accumulator ? state.accumulator : nullptr,
                     .group_accumulator_out = node.write_group ? state.group_accumulator : nullptr,
                     .take_norm = node.take_norm,
                     .scan = node.scan ? &r_.words->on_device().scan : nullptr};
  ScanResult* const parameter_scans = r_.words->parameter_scans();
  if (!node.scan || parameter_scans == nullptr) return r_.kernels->Reduce(args, stream);
  for (const Segment& segment : segments_[node.bucket].one_by_one) {
    args.segments = absl::MakeConstSpan(&segment, 1);
    args.scan = parameter_scans + segment.parameter;
    SHARDSTEP_RETURN_IF_ERROR(r_.kernels->Reduce(args, stream));
  }
  return absl::OkStatus();
}

absl::Status StepLauncher::LaunchAwaitReleased(const StepNode& node, int64_t exchange, Stream& stream) {
  // Without a micro-step: of the bucket's exchange before this step's.
  if (node.micro_step < 0) exchange = last_exchange_[node.bucket];
  return exchange < 0 ? absl::OkStatus() : Of(node).AwaitReleased(node.bucket, exchange, stream);
}

// ---- Slices --------------------------------------------------------------------------------------------------------

// What the ranks of this host exchange, by rank: single micro-batches, or each rank's own sum of a step.
absl::Span<const Slice> StepLauncher::HostSlices(int b, int64_t exchange) {
  SlicesOfExchange& of_exchange = Latest(host_slices_, b, exchange);
  std::vector<Slice>& slices = of_exchange.slices;
  if (!of_exchange.Begin(exchange)) return slices;
  const absl::Span<const Slice> raw = r_.host->slices(b, exchange);
  slices.assign(raw.begin(), raw.end());
  for (size_t l = 0; l < slices.size(); ++l) {
    if (r_.network != nullptr) slices[l].rank = r_.map->hosts[r_.map->host][l];
    slices[l].partial = local_sums_;
  }
  return slices;
}

// What this host sends to the owners on this rank's rail.
absl::Span<const Slice> StepLauncher::Contributions(int b, int64_t exchange) {
  if (!contributions_.sums) return HostSlices(b, exchange);
  SlicesOfExchange& of_exchange = Latest(host_sums_, b, exchange);
  std::vector<Slice>& sums = of_exchange.slices;
  if (!of_exchange.Begin(exchange)) return sums;
  for (int i = 0; i < contributions_.count(); ++i) {
    const Contribution& contribution = contributions_.contributions[i];
    sums.push_back({.data = HostSum(b, i),
                    .dtype = contributions_.SumDtype(r_.layout->kind(b).gradient_dtype),
                    .rank = r_.map->hosts[r_.map->host][contribution.first],
                    .ranks = contribution.ranks,
                    .partial = true});
  }
  return sums;
}

// This rank's shard from all ranks, in their order.
absl::Span<const Slice> StepLauncher::Slices(int b, int64_t exchange) {
  if (world_size_ == 1) return own_gradient_[b];
  if (r_.network == nullptr) return HostSlices(b, exchange);
  SlicesOfExchange& of_exchange = Latest(slices_, b, exchange);
  std::vector<Slice>& slices = of_exchange.slices;
  if (!of_exchange.Begin(exchange)) return slices;
  const absl::Span<const Slice> raw = r_.network->slices(b, exchange);
  const bool reads_own_gradients = contributions_.sums && !contributions_.rounded;
  for (int h = 0; h < r_.map->host_count(); ++h) {
    if (h == r_.map->host && reads_own_gradients) {
      for (Slice slice : HostSlices(b, exchange)) {
        slice.data = At(slice.data, h * r_.layout->shard_elements(b), slice.dtype);
        slices.push_back(slice);
      }
      continue;
    }
    for (int i = 0; i < contributions_.count(); ++i) {
      const Contribution& contribution = contributions_.contributions[i];
      slices.push_back(raw[h * contributions_.count() + i]);
      slices.back().rank = r_.map->hosts[h][contribution.first];
    }
  }
  std::sort(slices.begin(), slices.end(), [](const Slice& x, const Slice& y) { return x.rank < y.rank; });
  return slices;
}

void* StepLauncher::HostSum(int b, int contribution) const {
  return r_.host_sums.data + (ring_slot_[b] * contributions_.count() + contribution) * host_sum_bytes_;
}

// ---- Decision and update -------------------------------------------------------------------------------------------

void StepLauncher::SetDecisionInput(const DecisionInput& input, int64_t step) {
  decision_input_ = input;
  StepOrder& order = r_.words->order();
  order = MakeOrder(input, *r_.options, r_.rank, world_size_);
  order.step = step;
}

// JoinDecisions lets host streams only.
void StepLauncher::LaunchJoin() {
  static_cast<HostStream&>(*r_.update).Enqueue("Join", [this]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(findings_, others_->Join(decision_input_, r_.words->on_device().reduction));
    facts_ = FactsOf(findings_.scan, !findings_.refused.ok());
    return absl::OkStatus();
  });
}

absl::StatusOr<Decision> StepLauncher::TakeDecision() const {
  const StepReport& report = r_.words->report();
  Decision decision =
      Decide(decision_input_, others_ != nullptr ? findings_ : Find(report.reduction, *r_.layout), *r_.options);
  const UpdateScalars& done = report.scalars;
  if (done.apply == decision.apply && (!done.apply || (FloatBits(done.scale) == FloatBits(decision.scale) &&
                                                       done.applied_step == decision.counters.applied_steps))) {
    return decision;
  }
  return absl::InternalError(
      absl::StrCat("step ", decision.counters.step, ": the streams ", done.apply ? "applied it" : "did not apply it",
                   " with scale ", done.scale, " as number ", done.applied_step,
                   ", which is not what its words say: ", decision.apply ? "apply it" : "skip it", " with scale ",
                   decision.scale, " as number ", decision.counters.applied_steps));
}

bool StepLauncher::updating() const {
  auto& applied = const_cast<int64_t&>(r_.words->report().applied_in_step);  // an atomic_ref takes no const
  return std::atomic_ref(applied).load(std::memory_order_acquire) > ended_step_;
}

absl::Status StepLauncher::LaunchUpdate(const StepPlan& plan, const StepNode& node, const StepPosition& position,
                                        Stream& stream) {
  const BucketState& state = r_.state->bucket(node.bucket);
  const BucketKind& kind = r_.layout->kind(node.bucket);
  const int64_t last = plan.input.micro_steps - 1;
  const int64_t exchange = position.first_exchange + plan.exchanges() - 1;
  return r_.kernels->Update(
      {.kind = kind.update,
       .weight_dtype = kind.weight_dtype,
       .segments = segments_[node.bucket].mine,
       .sum = {.slices = node.read_slices ? Slices(node.bucket, exchange) : absl::Span<const Slice>(),
               .sum_group = plan.input.sum_group,
               .first_micro_batch = last * world_size_,
               .accumulator = node.read_accumulator ? state.accumulator : nullptr,
               .group_accumulator = node.read_group ? state.group_accumulator : nullptr},
       .master = state.master,
       .remainder = state.remainder,
       .first_moment = state.first_moment,
       .second_moment = state.second_moment,
       .destinations = Outer().Destinations(node.bucket),
       .scalars = &r_.words->on_device().scalars,
       .rules = r_.words->rules()},
      stream);
}

}  // namespace shardstep
