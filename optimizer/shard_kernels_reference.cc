// The kernels as docs/numerics.md states them, one element after the other. Not fast; never tuned.
#include <algorithm>
#include <array>
#include <cmath>

#include "shardstep/optimizer/float_environment.h"
#include "shardstep/optimizer/master_weights.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {
namespace {

inline float Sqrt(float value) { return std::sqrt(value); }
inline float Sign(float value) {
  if (value > 0) return 1.0f;
  if (value < 0) return -1.0f;
  return value == 0 ? 0.0f : value;
}
#include "shardstep/optimizer/update_element-inl.h"
// The formulas find it, and Sqrt and Sign.
#include "shardstep/optimizer/adamw_formula-inl.h"
#include "shardstep/optimizer/lion_formula-inl.h"
#include "shardstep/optimizer/sgd_formula-inl.h"

constexpr int64_t kBlock = ShardLayout::kBlockElements;
constexpr int kLanes = 32;

float ValueOf(const Slice& slice, int64_t index) {
  if (slice.dtype == DType::kFp32) return static_cast<const float*>(slice.data)[index];
  return ToFloat(static_cast<const Bf16*>(slice.data)[index]);
}

// The sum of one element; what is not finite goes to `scan`, unless that is nullptr.
class ElementSum {
 public:
  ElementSum(const SumArgs& args, int64_t index, int64_t global_element, ScanResult* scan)
      : args_(args), global_element_(global_element), scan_(scan) {
    if (args.accumulator != nullptr) s_ = args.accumulator[index];
    if (args.group_accumulator != nullptr) {
      p_ = args.group_accumulator[index];
      open_group_ = args.first_micro_batch / args.sum_group;
      last_of_group_ = args.first_micro_batch - 1;
    }
    for (const Slice& slice : args.slices) AddSlice(slice, ValueOf(slice, index));
    if (args.closes) EndGroup();
  }
  float s() const { return s_; }
  float p() const { return p_; }

 private:
  static constexpr int64_t kNone = -1;

  void AddSlice(const Slice& slice, float value) {
    const int64_t micro_batch = args_.first_micro_batch + slice.rank;
    if (scan_ != nullptr && !slice.partial && !std::isfinite(value)) {
      scan_->first_nonfinite = std::min(scan_->first_nonfinite, MakePlace(micro_batch, global_element_));
    }
    const int64_t group = micro_batch / args_.sum_group;
    const bool whole_group = args_.sum_group == 1 || slice.ranks > 1;
    if (whole_group || group != open_group_) EndGroup();
    if (whole_group) {
      s_ = Add(s_, value, micro_batch + slice.ranks - 1);
      return;
    }
    p_ = Add(p_, value, micro_batch);
    open_group_ = group;
    last_of_group_ = micro_batch;
    if ((micro_batch + 1) % args_.sum_group == 0) EndGroup();
  }

  void EndGroup() {
    if (open_group_ == kNone) return;
    s_ = Add(s_, p_, last_of_group_);
    p_ = 0.0f;
    open_group_ = kNone;
  }

  float Add(float sum, float value, int64_t micro_batch) const {
    const float result = sum + value;
    if (scan_ != nullptr && std::isfinite(sum) && std::isfinite(value) && !std::isfinite(result)) {
      scan_->first_overflow = std::min(scan_->first_overflow, MakePlace(micro_batch, global_element_));
    }
    return result;
  }

  const SumArgs& args_;
  const int64_t global_element_;
  ScanResult* const scan_;
  float s_ = 0.0f;
  float p_ = 0.0f;
  int64_t open_group_ = kNone;
  int64_t last_of_group_ = 0;
};

double BlockSumOfSquares(absl::Span<const float> sums) {
  std::array<double, kLanes> lanes{};
  for (size_t i = 0; i < sums.size(); ++i) {
    const double wide = sums[i];
    lanes[i % kLanes] = lanes[i % kLanes] + wide * wide;
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] = lanes[l] + lanes[l + half];
  }
  return lanes[0];
}

void AddBlock(absl::Span<const float> sums, double norm_weight, ScanResult* scan) {
  bool finite = true;
  for (const float sum : sums) {
    scan->max_abs_bits = std::max(scan->max_abs_bits, std::min(FloatBits(sum) & 0x7fffffffu, 0x7f800000u));
    finite = finite && std::isfinite(sum);
  }
  if (finite) scan->squared_norm.Add(BlockSumOfSquares(sums) * norm_weight);
}

void ReduceBlock(const ReduceArgs& args, const Segment& segment, int64_t begin, int64_t elements) {
  std::array<float, kBlock> sums;
  for (int64_t i = 0; i < elements; ++i) {
    const int64_t index = segment.shard_begin_element + begin + i;
    const ElementSum sum(args.sum, index, segment.global_begin_element + begin + i, args.scan);
    sums[i] = sum.s();
    if (args.accumulator_out != nullptr) args.accumulator_out[index] = sum.s();
    if (args.group_accumulator_out != nullptr) args.group_accumulator_out[index] = sum.p();
    if (args.rounded_out != nullptr) args.rounded_out[index] = ToBf16(sum.s());
  }
  if (args.scan != nullptr && args.take_norm) {
    AddBlock(absl::MakeConstSpan(sums.data(), elements), segment.norm_weight, args.scan);
  }
}

[[gnu::noinline]] void ReduceSegments(const ReduceArgs& args) {
  for (const Segment& segment : args.segments) {
    for (int64_t begin = 0; begin < segment.elements; begin += kBlock) {
      ReduceBlock(args, segment, begin, std::min(kBlock, segment.elements - begin));
    }
  }
}

float LoadMaster(const UpdateArgs& args, int64_t index) {
  if (args.weight_dtype == DType::kFp32) return static_cast<const float*>(args.destinations[0])[index];
  if (args.kind.master == Master::kFp32) return args.master[index];
  const Bf16 weight = static_cast<const Bf16*>(args.destinations[0])[index];
  if (args.kind.master == Master::kNone) return ToFloat(weight);
  return Join({.weight = weight, .remainder = args.remainder[index]});
}

void StoreBf16(const UpdateArgs& args, int64_t index, Bf16 weight) {
  for (void* destination : args.destinations) static_cast<Bf16*>(destination)[index] = weight;
}

void StoreMaster(const UpdateArgs& args, int64_t index, int64_t global_element, float master) {
  if (args.weight_dtype == DType::kFp32) {
    const float weight = std::isnan(master) ? FloatFromBits(0x7fc00000) : master;
    for (void* destination : args.destinations) static_cast<float*>(destination)[index] = weight;
  } else if (args.kind.master == Master::kFp32) {
    args.master[index] = master;
    StoreBf16(args, index, ToBf16(master));
  } else if (args.kind.master == Master::kSplit) {
    const SplitMaster split = Split(master);
    args.remainder[index] = split.remainder;
    StoreBf16(args, index, split.weight);
  } else if (args.kind.rounding == Rounding::kNearest) {
    StoreBf16(args, index, ToBf16(master));
  } else {
    const uint16_t random = RandomBits16(args.scalars->seed, args.scalars->applied_step, global_element);
    StoreBf16(args, index, RoundStochastically(master, random));
  }
}

UpdateElement<float> Update(const UpdateKind& kind, UpdateElement<float> x, float g, const RuleScalars& scalars) {
  switch (kind.rule) {
    case Rule::kAdamW:
      return AdamWUpdate(x, g, scalars.adamw);
    case Rule::kSgd:
      return kind.momentum ? SgdMomentumUpdate(x, g, scalars.sgd) : SgdUpdate(x, g, scalars.sgd);
    case Rule::kLion:
      return LionUpdate(x, g, scalars.lion);
  }
  return x;
}

void UpdateOne(const UpdateArgs& args, const RuleScalars& scalars, int64_t index, int64_t global_element) {
  const float g = ElementSum(args.sum, index, global_element, nullptr).s() * args.scalars->scale;
  UpdateElement<float> x = {.master = LoadMaster(args, index), .first_moment = 0, .second_moment = 0};
  if (args.kind.has_first_moment()) x.first_moment = args.first_moment[index];
  if (args.kind.has_second_moment()) x.second_moment = args.second_moment[index];
  x = Update(args.kind, x, g, scalars);
  if (args.kind.has_first_moment()) args.first_moment[index] = x.first_moment;
  if (args.kind.has_second_moment()) args.second_moment[index] = x.second_moment;
  StoreMaster(args, index, global_element, x.master);
}

[[gnu::noinline]] void UpdateSegments(const UpdateArgs& args) {
  for (const Segment& segment : args.segments) {
    for (int64_t i = 0; i < segment.elements; ++i) {
      UpdateOne(args, args.rules[segment.scalars], segment.shard_begin_element + i, segment.global_begin_element + i);
    }
  }
}

}  // namespace

void ReduceReference(const ReduceArgs& args) {
  const FloatEnvironment ieee;
  ReduceSegments(args);
}

void UpdateReference(const UpdateArgs& args) {
  if (!args.scalars->apply) return;
  const FloatEnvironment ieee;
  UpdateSegments(args);
}

}  // namespace shardstep
