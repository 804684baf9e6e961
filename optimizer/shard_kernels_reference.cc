// The kernels as docs/numerics.md states them, one element after the other. Not fast; never tuned.
#include <algorithm>
#include <array>
#include <cmath>

#include "shardstep/optimizer/float_environment.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {
namespace {

inline float Sqrt(float value) { return std::sqrt(value); }
#include "shardstep/optimizer/adamw_formula-inl.h"

constexpr int64_t kBlock = ShardLayout::kBlockElements;
constexpr int kLanes = 32;

float AddSlices(float sum, absl::Span<const Slice> slices, int64_t index) {
  for (const Slice& slice : slices) sum = sum + ToFloat(slice.data[index]);
  return sum;
}

void LookAtElement(const ReduceArgs& args, float start, int64_t index, int64_t global_element, ScanResult* scan) {
  for (size_t j = 0; j < args.slices.size(); ++j) {
    const GradientPlace place = MakePlace(args.first_micro_batch + static_cast<int64_t>(j), global_element);
    const float before = AddSlices(start, args.slices.first(j), index);
    const float after = AddSlices(start, args.slices.first(j + 1), index);
    if (!IsFinite(args.slices[j].data[index])) {
      scan->first_nonfinite = std::min(scan->first_nonfinite, place);
    } else if (std::isfinite(before) && !std::isfinite(after)) {
      scan->first_overflow = std::min(scan->first_overflow, place);
    }
  }
}

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

void AddBlock(absl::Span<const float> sums, ScanResult* scan) {
  bool finite = true;
  for (const float sum : sums) {
    scan->max_abs_bits = std::max(scan->max_abs_bits, std::min(FloatBits(sum) & 0x7fffffffu, 0x7f800000u));
    finite = finite && std::isfinite(sum);
  }
  if (finite) scan->squared_norm.Add(BlockSumOfSquares(sums));
}

void ReduceBlock(const ReduceArgs& args, const Segment& segment, int64_t begin, int64_t elements) {
  std::array<float, kBlock> sums;
  for (int64_t i = 0; i < elements; ++i) {
    const int64_t index = segment.shard_begin_element + begin + i;
    const float start = args.accumulator_in == nullptr ? 0.0f : args.accumulator_in[index];
    sums[i] = AddSlices(start, args.slices, index);
    if (args.scan == nullptr) continue;
    LookAtElement(args, start, index,
                  args.layout->global_begin_element(segment.parameter) + segment.begin_element + begin + i, args.scan);
  }
  if (args.scan != nullptr && args.take_norm) AddBlock(absl::MakeConstSpan(sums.data(), elements), args.scan);
  if (args.accumulator_out != nullptr) {
    std::copy_n(sums.begin(), elements, args.accumulator_out + segment.shard_begin_element + begin);
  }
}

[[gnu::noinline]] void ReduceSegments(const ReduceArgs& args) {
  for (const Segment& segment : args.segments) {
    for (int64_t begin = 0; begin < segment.elements; begin += kBlock) {
      ReduceBlock(args, segment, begin, std::min(kBlock, segment.elements - begin));
    }
  }
}

void UpdateElement(const UpdateArgs& args, const AdamWScalars& scalars, int64_t index) {
  const float start = args.accumulator == nullptr ? 0.0f : args.accumulator[index];
  const float gradient = AddSlices(start, args.slices, index) * args.scalars->scale;
  const auto updated = AdamWUpdate(
      AdamWElement<float>{args.master[index], args.first_moment[index], args.second_moment[index]}, gradient, scalars);
  args.master[index] = updated.master;
  args.first_moment[index] = updated.first_moment;
  args.second_moment[index] = updated.second_moment;
  for (Bf16* destination : args.destinations) destination[index] = ToBf16(updated.master);
}

[[gnu::noinline]] void UpdateSegments(const UpdateArgs& args) {
  for (const Segment& segment : args.segments) {
    for (int64_t i = 0; i < segment.elements; ++i) {
      UpdateElement(args, args.scalars->groups[segment.group], segment.shard_begin_element + i);
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
