#include "shardstep/tools/bench/flat_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/master_weights.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {
namespace {

constexpr int64_t kBlock = ShardLayout::kBlockElements;

int64_t ShardElements(int64_t elements, int ranks) {
  const int64_t step = kBlock * ranks;
  return std::max<int64_t>(1, (elements + step - 1) / step) * kBlock;
}

absl::Status CheckOptions(const BenchOptions& options) {
  if (options.optimizer.micro_steps != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("micro_steps = ", options.optimizer.micro_steps, ": baselines have one micro-step"));
  }
  if (options.optimizer.groups.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(options.optimizer.groups.size(), " groups: baselines have one"));
  }
  for (const ParameterSpec& parameter : options.parameters) {
    SHARDSTEP_RETURN_IF_ERROR(ElementCount(parameter).status());
    if (parameter.weight_dtype != DType::kBf16 || parameter.gradient_dtype != DType::kBf16) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameter \"", parameter.name, "\": baselines have weights and gradients in bf16 only"));
    }
  }
  return absl::OkStatus();
}

Segment WholeSegment(int64_t begin_element, int64_t elements) {
  return {.global_begin_element = begin_element, .begin_element = begin_element, .elements = elements};
}

// nullptr when there is none.
template <typename T>
T* At(const Buffer& buffer, int64_t element) {
  return buffer.size_bytes() == 0 ? nullptr : buffer.as<T>() + element;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FlatModel>> FlatModel::Create(const BenchOptions& options, int rank, int ranks,
                                                             int threads, int64_t largest_piece_elements) {
  SHARDSTEP_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<FlatModel> model(new FlatModel);
  model->rank_ = rank;
  model->ranks_ = ranks;
  model->group_ = options.optimizer.groups[0];
  model->elements_ = ElementCount(options.parameters);
  model->CutPieces(largest_piece_elements);
  SHARDSTEP_RETURN_IF_ERROR(model->Allocate());
  SHARDSTEP_ASSIGN_OR_RETURN(model->kernels_, CreateCpuShardKernels(threads));
  model->scalars_.seed = options.optimizer.rounding_seed;
  model->Fill(options);
  return model;
}

int64_t FlatModel::LargestShard(int64_t largest_piece_elements, int ranks) {
  return std::max<int64_t>(1, largest_piece_elements / (kBlock * ranks)) * kBlock;
}

int64_t FlatModel::FlatElements(const BenchOptions& options, int ranks) {
  return ranks * ShardElements(ElementCount(options.parameters), ranks);
}

int64_t FlatModel::EstimateBytes(const BenchOptions& options, int ranks) {
  const int64_t elements = FlatElements(options, ranks);
  const UpdateKind kind = options.optimizer.groups[0].kind();
  return 2 * elements * static_cast<int64_t>(sizeof(Bf16)) +
         elements / ranks * (MasterBytes(kind, DType::kBf16) + MomentBytes(kind));
}

void FlatModel::CutPieces(int64_t largest_piece_elements) {
  state_elements_ = ShardElements(elements_, ranks_);
  const int64_t largest_shard = LargestShard(largest_piece_elements, ranks_);
  for (int64_t begin = 0; begin < state_elements_; begin += largest_shard) {
    pieces_.push_back({.begin_element = ranks_ * begin,
                       .shard_elements = std::min(largest_shard, state_elements_ - begin),
                       .state_begin_element = begin});
  }
}

absl::Status FlatModel::Allocate() {
  const UpdateKind kind = group_.kind();
  const auto allocate = [](bool wanted, int64_t size_bytes, absl::string_view what, Buffer* buffer) {
    if (!wanted) return absl::OkStatus();
    SHARDSTEP_ASSIGN_OR_RETURN(*buffer, Buffer::Allocate(size_bytes, what));
    return absl::OkStatus();
  };
  const int64_t arena_bytes = flat_elements() * static_cast<int64_t>(sizeof(Bf16));
  const int64_t fp32_bytes = state_elements_ * static_cast<int64_t>(sizeof(float));
  SHARDSTEP_RETURN_IF_ERROR(allocate(true, arena_bytes, "a baseline's gradients", &gradients_));
  SHARDSTEP_RETURN_IF_ERROR(allocate(true, arena_bytes, "a baseline's weights", &weights_));
  SHARDSTEP_RETURN_IF_ERROR(
      allocate(kind.master == Master::kFp32, fp32_bytes, "a baseline's master weights", &master_));
  SHARDSTEP_RETURN_IF_ERROR(
      allocate(kind.master == Master::kSplit, fp32_bytes / 2, "a baseline's master remainders", &remainder_));
  SHARDSTEP_RETURN_IF_ERROR(
      allocate(kind.has_first_moment(), fp32_bytes, "a baseline's first moments", &first_moment_));
  return allocate(kind.has_second_moment(), fp32_bytes, "a baseline's second moments", &second_moment_);
}

void FlatModel::Fill(const BenchOptions& options) {
  auto piece = pieces_.begin();
  int64_t flat = 0;
  for (int p = 0; p < static_cast<int>(options.parameters.size()); ++p) {
    const int64_t count = ElementCount(options.parameters[p]).value();
    for (int64_t i = 0; i < count; ++i, ++flat) {
      gradients_.as<Bf16>()[flat] = BenchGradient(rank_, p, i);
      const float master = BenchMaster(p, i);
      weights()[flat] = group_.master == Master::kSplit ? Split(master).weight : ToBf16(master);
      while (flat >= piece->begin_element + ranks_ * piece->shard_elements) ++piece;
      const FlatRun own = OwnShard(*piece);
      if (flat >= own.begin_element && flat < own.begin_element + own.elements) {
        SetOwn(own.state_begin_element + flat - own.begin_element, master);
      }
    }
  }
}

void FlatModel::SetOwn(int64_t state_element, float master) {
  if (group_.master == Master::kFp32) master_.as<float>()[state_element] = master;
  if (group_.master == Master::kSplit) remainder_.as<uint16_t>()[state_element] = Split(master).remainder;
}

FlatRun FlatModel::OwnShard(const FlatPiece& piece) const {
  return {.begin_element = piece.begin_element + rank_ * piece.shard_elements,
          .state_begin_element = piece.state_begin_element,
          .elements = piece.shard_elements};
}

void FlatModel::BeginStep() {
  ++scalars_.applied_step;
  scalars_.apply = true;
  scalars_.scale = static_cast<float>(1.0 / ranks_);
  rules_ = {MakeRuleScalars(group_, kBenchLearningRate, scalars_.applied_step)};
}

void FlatModel::Clip(double max_norm, double squared_norm) {
  const double norm = std::sqrt(squared_norm) / ranks_;
  scalars_.scale = static_cast<float>(std::min(1.0, max_norm / (norm + 1e-6)) / ranks_);
}

absl::Span<const Segment> FlatModel::LogicalSegments(const FlatRun& run, Segment* segment) const {
  *segment = WholeSegment(run.begin_element, std::min(run.elements, elements_ - run.begin_element));
  return absl::MakeConstSpan(segment, segment->elements > 0 ? 1 : 0);
}

absl::Status FlatModel::Update(const FlatRun& run, const SumArgs& sum) {
  Segment segment;
  void* const destination = weights() + run.begin_element;
  SHARDSTEP_RETURN_IF_ERROR(kernels_->Update({.kind = group_.kind(),
                                              .segments = LogicalSegments(run, &segment),
                                              .sum = sum,
                                              .master = At<float>(master_, run.state_begin_element),
                                              .remainder = At<uint16_t>(remainder_, run.state_begin_element),
                                              .first_moment = At<float>(first_moment_, run.state_begin_element),
                                              .second_moment = At<float>(second_moment_, run.state_begin_element),
                                              .destinations = absl::MakeConstSpan(&destination, 1),
                                              .scalars = &scalars_,
                                              .rules = rules_},
                                             stream_));
  return stream_.status();
}

absl::Status FlatModel::Scan(const FlatRun& run, const SumArgs& sum, float* sums, ScanResult* scan) {
  Segment segment;
  SHARDSTEP_RETURN_IF_ERROR(kernels_->Reduce({.segments = LogicalSegments(run, &segment),
                                              .sum = sum,
                                              .accumulator_out = sums,
                                              .take_norm = true,
                                              .scan = scan},
                                             stream_));
  return stream_.status();
}

absl::Status FlatModel::Widen(const Bf16* from, int64_t elements, float* to) {
  const Segment segment = WholeSegment(0, elements);
  const Slice slice = {.data = from};
  SHARDSTEP_RETURN_IF_ERROR(kernels_->Reduce({.segments = absl::MakeConstSpan(&segment, 1),
                                              .sum = {.slices = absl::MakeConstSpan(&slice, 1)},
                                              .accumulator_out = to},
                                             stream_));
  return stream_.status();
}

}  // namespace shardstep
