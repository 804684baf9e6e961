#include "kernel_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace shardstep {
namespace {

ShardLayout MakeLayout(const KernelCaseOptions& options) {
  std::vector<ParameterSpec> specs;
  for (const int64_t size : options.sizes) {
    specs.push_back(
        {.name = absl::StrCat("p", specs.size()), .shape = {size}, .group = static_cast<int>(specs.size() % 2)});
  }
  return *ShardLayout::Create(specs, int64_t{1} << 40, 1);
}

float PlainFloat(std::mt19937& random) { return (static_cast<float>(random() % 20001) - 10000.0f) * (1.0f / 4096.0f); }

std::vector<float> Floats(int64_t elements, Values values, bool positive, std::mt19937& random) {
  std::vector<float> result(elements);
  for (float& value : result) {
    value = values == Values::kPlain ? PlainFloat(random) : NastyFloat(random);
    if (positive) value = FloatFromBits(FloatBits(value) & 0x7fffffffu);
  }
  return result;
}

::testing::AssertionResult SameFloats(const char* what, const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (FloatBits(a[i]) != FloatBits(b[i]) && !(a[i] != a[i] && b[i] != b[i])) {
      return ::testing::AssertionFailure() << what << "[" << i << "]: " << std::hexfloat << a[i] << " is not " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace

Bf16 NastyBf16(std::mt19937& random) {
  static constexpr std::array<uint16_t, 16> kSpecial = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x807f, 0x0080, 0x8080,
                                                        0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0xffc1, 0x7f81, 0x3f80};
  const uint32_t bits = random();
  if (bits % 8 == 0) return {kSpecial[bits / 8 % kSpecial.size()]};
  return {static_cast<uint16_t>(bits >> 16)};
}

float NastyFloat(std::mt19937& random) {
  static constexpr std::array<uint32_t, 16> kSpecial = {
      0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x7f7fffff,
      0x7f7f8000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff, 0x3f808000, 0x3f818000};
  const uint32_t bits = random();
  if (bits % 8 == 0) return FloatFromBits(kSpecial[bits / 8 % kSpecial.size()]);
  return FloatFromBits(random());
}

KernelCase::KernelCase(const KernelCaseOptions& o) : options(o), layout_(MakeLayout(o)) {
  std::mt19937 random(o.seed);
  segments = layout_.Segments(0, 0);
  const int64_t elements = layout_.shard_elements(0) + o.misalignment_elements;
  gradients.resize(o.slices, std::vector<Bf16>(elements));
  for (auto& gradient : gradients) {
    for (Bf16& value : gradient) {
      value = o.values == Values::kPlain ? ToBf16(PlainFloat(random)) : NastyBf16(random);
    }
  }
  accumulator_in = Floats(elements, o.values, /*positive=*/false, random);
  accumulator_out.assign(elements, -7.0f);
  master = Floats(elements, o.values, /*positive=*/false, random);
  first_moment = Floats(elements, o.values, /*positive=*/false, random);
  second_moment = Floats(elements, o.values, /*positive=*/true, random);
  weights.assign(o.destinations, std::vector<Bf16>(elements, Bf16{0x1234}));
  scalars.apply = true;
  scalars.scale = 0.37f;
  scalars.groups = {MakeAdamWScalars(AdamWOptions(), 1e-3, 2),
                    MakeAdamWScalars({.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-40, .weight_decay = 0.3}, 0.1, 1)};
}

ReduceArgs KernelCase::Reduce(bool take_norm, bool with_scan) {
  const int64_t shift = options.misalignment_elements;
  slices_.clear();
  for (auto& gradient : gradients) slices_.push_back({.data = gradient.data() + shift});
  ReduceArgs args = {.segments = segments, .slices = slices_, .first_micro_batch = 5, .take_norm = take_norm};
  const AccumulatorUse use = options.accumulator;
  if (use == AccumulatorUse::kIn || use == AccumulatorUse::kInAndOut || use == AccumulatorUse::kInPlace) {
    args.accumulator_in = accumulator_in.data() + shift;
  }
  if (use == AccumulatorUse::kOut || use == AccumulatorUse::kInAndOut) {
    args.accumulator_out = accumulator_out.data() + shift;
  }
  if (use == AccumulatorUse::kInPlace) args.accumulator_out = accumulator_in.data() + shift;
  args.scan = with_scan ? &scan : nullptr;
  args.layout = &layout_;
  return args;
}

UpdateArgs KernelCase::Update() {
  const int64_t shift = options.misalignment_elements;
  slices_.clear();
  for (auto& gradient : gradients) slices_.push_back({.data = gradient.data() + shift});
  destinations_.clear();
  for (auto& copy : weights) destinations_.push_back(copy.data() + shift);
  return {.segments = segments,
          .slices = slices_,
          .accumulator = options.accumulator == AccumulatorUse::kNone ? nullptr : accumulator_in.data() + shift,
          .master = master.data() + shift,
          .first_moment = first_moment.data() + shift,
          .second_moment = second_moment.data() + shift,
          .destinations = destinations_,
          .scalars = &scalars};
}

::testing::AssertionResult SameResults(const KernelCase& a, const KernelCase& b) {
  const struct {
    const char* name;
    std::vector<float> KernelCase::*array;
  } arrays[] = {{"accumulator_in", &KernelCase::accumulator_in},
                {"accumulator_out", &KernelCase::accumulator_out},
                {"master", &KernelCase::master},
                {"first_moment", &KernelCase::first_moment},
                {"second_moment", &KernelCase::second_moment}};
  for (const auto& [name, array] : arrays) {
    if (auto same = SameFloats(name, a.*array, b.*array); !same) return same;
  }
  for (size_t copy = 0; copy < a.weights.size(); ++copy) {
    for (size_t i = 0; i < a.weights[copy].size(); ++i) {
      if (a.weights[copy][i] == b.weights[copy][i]) continue;
      return ::testing::AssertionFailure() << "weights[" << i << "] of copy " << copy << ": " << std::hex
                                           << a.weights[copy][i].bits << " is not " << b.weights[copy][i].bits;
    }
  }
  ExactSum norm_a = a.scan.squared_norm;
  ExactSum norm_b = b.scan.squared_norm;
  norm_a.Normalize();
  norm_b.Normalize();
  if (!std::equal(norm_a.limbs().begin(), norm_a.limbs().end(), norm_b.limbs().begin())) {
    return ::testing::AssertionFailure() << "squared_norm: " << norm_a.Round() << " is not " << norm_b.Round();
  }
  if (a.scan.max_abs_bits != b.scan.max_abs_bits) return ::testing::AssertionFailure() << "max_abs_bits";
  if (a.scan.first_nonfinite != b.scan.first_nonfinite) return ::testing::AssertionFailure() << "first_nonfinite";
  if (a.scan.first_overflow != b.scan.first_overflow) return ::testing::AssertionFailure() << "first_overflow";
  return ::testing::AssertionSuccess();
}

}  // namespace shardstep
