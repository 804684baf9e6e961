#include "kernel_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "shardstep/comm/host_stream.h"

namespace shardstep {
namespace {

constexpr int64_t kBlock = ShardLayout::kBlockElements;

float PlainFloat(std::mt19937& random) { return (static_cast<float>(random() % 20001) - 10000.0f) * (1.0f / 4096.0f); }

float OneFloat(Values values, std::mt19937& random) {
  return values == Values::kPlain ? PlainFloat(random) : NastyFloat(random);
}
Bf16 OneBf16(Values values, std::mt19937& random) {
  return values == Values::kPlain ? ToBf16(PlainFloat(random)) : NastyBf16(random);
}

std::vector<float> Floats(int64_t elements, Values values, std::mt19937& random) {
  std::vector<float> result(elements);
  for (float& value : result) value = OneFloat(values, random);
  return result;
}

TypedArray Array(int64_t elements, DType dtype, Values values, std::mt19937& random) {
  TypedArray result;
  if (dtype == DType::kFp32) {
    result.fp32 = Floats(elements, values, random);
  } else {
    result.bf16.resize(elements);
    for (Bf16& value : result.bf16) value = OneBf16(values, random);
  }
  return result;
}

std::vector<Segment> Segments(const KernelCaseOptions& options) {
  static constexpr double kNormWeights[] = {1.0, 0.3, 0.0, 1e-200};
  std::vector<Segment> segments;
  int64_t shard_begin = 0;
  int64_t global_begin = options.global_begin_element;
  for (size_t p = 0; p < options.sizes.size(); ++p) {
    const int64_t elements = options.sizes[p];
    if (elements == 0) continue;
    segments.push_back({.parameter = static_cast<int>(p),
                        .scalars = static_cast<int>(p % 2),
                        .norm_weight = kNormWeights[p % 4],
                        .global_begin_element = global_begin,
                        .elements = elements,
                        .shard_begin_element = shard_begin});
    shard_begin += (elements + kBlock - 1) / kBlock * kBlock;
    global_begin += elements;
  }
  return segments;
}

bool ReadsAccumulator(const KernelCaseOptions& o) {
  return o.accumulator != AccumulatorUse::kNone && o.accumulator != AccumulatorUse::kOut;
}

// Whether there is a sum so far of a group that goes on.
bool ReadsGroup(const KernelCaseOptions& o) {
  return ReadsAccumulator(o) && o.sum_group > 1 && o.first_micro_batch % o.sum_group != 0;
}

// Whether a group of micro-batches has begun and not ended once the slices are in.
bool OpenAtEnd(const KernelCaseOptions& o) {
  if (o.sum_group == 1 || o.closes) return false;
  if (o.slices.empty()) return ReadsGroup(o);
  const Slice& last = o.slices.back();
  return last.ranks == 1 && (o.first_micro_batch + last.rank + 1) % o.sum_group != 0;
}

std::vector<RuleScalars> SomeScalars(const KernelCaseOptions& o) {
  if (o.kind.rule == Rule::kSgd) {
    const double momentum = o.kind.momentum ? 0.9 : 0;
    return {MakeRuleScalars({.rule = SgdOptions{.momentum = momentum, .nesterov = o.nesterov}}, 1e-2, 2),
            MakeRuleScalars({.rule = SgdOptions{.momentum = momentum / 3, .weight_decay = 0.3}}, 0.1, 1)};
  }
  if (o.kind.rule == Rule::kLion) {
    return {MakeRuleScalars({.rule = LionOptions{}}, 1e-3, 2),
            MakeRuleScalars({.rule = LionOptions{.beta1 = 0.95, .beta2 = 0.8, .weight_decay = 0.3}}, 0.1, 1)};
  }
  return {MakeRuleScalars({.rule = AdamWOptions{}}, 1e-3, 2),
          MakeRuleScalars({.rule = AdamWOptions{.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-40, .weight_decay = 0.3}},
                          0.1, 1)};
}

::testing::AssertionResult SameFloats(const std::string& what, const std::vector<float>& a, const std::vector<float>& b,
                                      bool any_nan = true) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << what << " has another size";
  for (size_t i = 0; i < a.size(); ++i) {
    if (FloatBits(a[i]) != FloatBits(b[i]) && !(any_nan && a[i] != a[i] && b[i] != b[i])) {
      return ::testing::AssertionFailure() << what << "[" << i << "]: " << std::hexfloat << a[i] << " is not " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

template <typename T>
::testing::AssertionResult SameBits(const std::string& what, const std::vector<T>& a, const std::vector<T>& b) {
  if (a == b) return ::testing::AssertionSuccess();
  const auto [in_a, in_b] = std::mismatch(a.begin(), a.end(), b.begin());
  uint16_t bits_a;
  uint16_t bits_b;
  std::memcpy(&bits_a, &*in_a, 2);
  std::memcpy(&bits_b, &*in_b, 2);
  return ::testing::AssertionFailure() << what << "[" << in_a - a.begin() << "]: " << std::hex << bits_a << " is not "
                                       << bits_b;
}

::testing::AssertionResult SameScan(const ScanResult& a, const ScanResult& b) {
  ExactSum norm_a = a.squared_norm;
  ExactSum norm_b = b.squared_norm;
  norm_a.Normalize();
  norm_b.Normalize();
  if (!std::equal(norm_a.limbs().begin(), norm_a.limbs().end(), norm_b.limbs().begin())) {
    return ::testing::AssertionFailure() << "squared_norm: " << norm_a.Round() << " is not " << norm_b.Round();
  }
  if (a.max_abs_bits != b.max_abs_bits) return ::testing::AssertionFailure() << "max_abs_bits";
  if (a.first_nonfinite != b.first_nonfinite) return ::testing::AssertionFailure() << "first_nonfinite";
  if (a.first_overflow != b.first_overflow) return ::testing::AssertionFailure() << "first_overflow";
  return ::testing::AssertionSuccess();
}

}  // namespace

std::vector<Slice> Slices(int count, DType dtype) {
  std::vector<Slice> slices;
  for (int rank = 0; rank < count; ++rank) slices.push_back({.dtype = dtype, .rank = rank});
  return slices;
}

std::vector<NamedUpdate> AllUpdates() {
  std::vector<NamedUpdate> updates;
  for (const auto& [rule, momentum] : {std::pair(Rule::kAdamW, true), std::pair(Rule::kSgd, false),
                                       std::pair(Rule::kSgd, true), std::pair(Rule::kLion, true)}) {
    const std::string name = absl::StrCat(Name(rule), rule == Rule::kSgd && momentum ? "_momentum" : "");
    const auto add = [&, rule = rule, momentum = momentum](const char* weights, Master master, Rounding rounding,
                                                           DType dtype) {
      updates.push_back({.name = absl::StrCat(name, "_", weights),
                         .kind = {.rule = rule, .master = master, .rounding = rounding, .momentum = momentum},
                         .weight_dtype = dtype});
    };
    add("master", Master::kFp32, Rounding::kNearest, DType::kBf16);
    add("split", Master::kSplit, Rounding::kNearest, DType::kBf16);
    add("nearest", Master::kNone, Rounding::kNearest, DType::kBf16);
    add("stochastic", Master::kNone, Rounding::kStochastic, DType::kBf16);
    add("fp32", Master::kFp32, Rounding::kNearest, DType::kFp32);
  }
  return updates;
}

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

KernelCase::KernelCase(const KernelCaseOptions& o) : options(o), segments(Segments(o)) {
  std::mt19937 random(o.seed);
  int64_t elements = o.misalignment_elements;
  for (const int64_t size : o.sizes) elements += (size + kBlock - 1) / kBlock * kBlock;
  for (const Slice& slice : o.slices) gradients.push_back(Array(elements, slice.dtype, o.values, random));
  accumulator_in = Floats(elements, o.values, random);
  accumulator_out.assign(elements, -7.0f);
  group_accumulator_in = Floats(elements, o.values, random);
  group_accumulator_out.assign(elements, -8.0f);
  rounded_out.assign(elements, Bf16{0x4321});
  master = Floats(elements, o.values, random);
  first_moment = Floats(elements, o.values, random);
  second_moment = Floats(elements, o.values, random);
  for (float& value : second_moment) value = FloatFromBits(FloatBits(value) & 0x7fffffffu);
  remainder.resize(elements);
  for (uint16_t& value : remainder) value = static_cast<uint16_t>(random());
  for (int d = 0; d < o.destinations; ++d) weights.push_back(Array(elements, o.weight_dtype, o.values, random));
  scalars = {.apply = true, .scale = 0.37f, .seed = 0x0123456789abcdef, .applied_step = (int64_t{1} << 33) + 5};
  rules = SomeScalars(o);
}

SumArgs KernelCase::Sum() {
  const int64_t shift = options.misalignment_elements;
  slices_ = options.slices;
  for (size_t i = 0; i < slices_.size(); ++i) {
    slices_[i].data = static_cast<std::byte*>(gradients[i].data()) + shift * SizeBytes(slices_[i].dtype);
  }
  return {.slices = slices_,
          .sum_group = options.sum_group,
          .first_micro_batch = options.first_micro_batch,
          .accumulator = ReadsAccumulator(options) ? accumulator_in.data() + shift : nullptr,
          .group_accumulator = ReadsGroup(options) ? group_accumulator_in.data() + shift : nullptr,
          .closes = options.closes};
}

ReduceArgs KernelCase::Reduce(bool take_norm, bool with_scan) {
  const int64_t shift = options.misalignment_elements;
  ReduceArgs args = {.segments = segments,
                     .sum = Sum(),
                     .rounded_out = options.rounds ? rounded_out.data() + shift : nullptr,
                     .take_norm = take_norm,
                     .scan = with_scan ? &scan : nullptr};
  const AccumulatorUse use = options.accumulator;
  const bool in_place = use == AccumulatorUse::kInPlace;
  if (in_place || use == AccumulatorUse::kOut || use == AccumulatorUse::kInAndOut) {
    args.accumulator_out = (in_place ? accumulator_in : accumulator_out).data() + shift;
  }
  if (OpenAtEnd(options)) {
    args.group_accumulator_out = (in_place ? group_accumulator_in : group_accumulator_out).data() + shift;
  }
  return args;
}

UpdateArgs KernelCase::Update() {
  const int64_t shift = options.misalignment_elements;
  const bool bf16 = options.weight_dtype == DType::kBf16;
  destinations_.clear();
  for (TypedArray& copy : weights) {
    destinations_.push_back(static_cast<std::byte*>(copy.data()) + shift * SizeBytes(options.weight_dtype));
  }
  SumArgs sum = Sum();
  sum.closes = true;
  return {.kind = options.kind,
          .weight_dtype = options.weight_dtype,
          .segments = segments,
          .sum = sum,
          .master = bf16 && options.kind.master == Master::kFp32 ? master.data() + shift : nullptr,
          .remainder = bf16 && options.kind.master == Master::kSplit ? remainder.data() + shift : nullptr,
          .first_moment = options.kind.has_first_moment() ? first_moment.data() + shift : nullptr,
          .second_moment = options.kind.has_second_moment() ? second_moment.data() + shift : nullptr,
          .destinations = destinations_,
          .scalars = &scalars,
          .rules = rules};
}

::testing::AssertionResult SameResults(const KernelCase& a, const KernelCase& b) {
  const struct {
    const char* name;
    std::vector<float> KernelCase::*array;
  } arrays[] = {{"accumulator_in", &KernelCase::accumulator_in},
                {"accumulator_out", &KernelCase::accumulator_out},
                {"group_accumulator_in", &KernelCase::group_accumulator_in},
                {"group_accumulator_out", &KernelCase::group_accumulator_out},
                {"master", &KernelCase::master},
                {"first_moment", &KernelCase::first_moment},
                {"second_moment", &KernelCase::second_moment}};
  for (const auto& [name, array] : arrays) {
    if (auto same = SameFloats(name, a.*array, b.*array); !same) return same;
  }
  if (auto same = SameBits("rounded_out", a.rounded_out, b.rounded_out); !same) return same;
  if (auto same = SameBits("remainder", a.remainder, b.remainder); !same) return same;
  for (size_t copy = 0; copy < a.weights.size(); ++copy) {
    const std::string name = absl::StrCat("weights of copy ", copy);
    if (auto same = SameBits(name, a.weights[copy].bf16, b.weights[copy].bf16); !same) return same;
    if (auto same = SameFloats(name, a.weights[copy].fp32, b.weights[copy].fp32, /*any_nan=*/false); !same) return same;
  }
  return SameScan(a.scan, b.scan);
}

std::vector<std::string> RunnableTargets() {
  std::vector<std::string> names;
  for (const CpuTarget& target : CpuTargets()) {
    if (target.supported) names.push_back(target.name);
  }
  return names;
}

std::unique_ptr<ShardKernels> KernelsOf(const std::string& target, int threads) {
  auto kernels = CreateCpuShardKernels(threads, target);
  EXPECT_TRUE(kernels.ok()) << kernels.status();
  EXPECT_EQ((*kernels)->target(), target);
  return *std::move(kernels);
}

::testing::AssertionResult JudgedByReference(ShardKernels& kernels, const KernelCase& start) {
  KernelCase expected = start;
  KernelCase actual = start;
  InlineStream stream;
  ReduceReference(expected.Reduce());
  const absl::Status reduced = kernels.Reduce(actual.Reduce(), stream);
  if (!reduced.ok()) return ::testing::AssertionFailure() << reduced;
  if (auto same = SameResults(actual, expected); !same) return same << " after Reduce";
  UpdateReference(expected.Update());
  const absl::Status updated = kernels.Update(actual.Update(), stream);
  if (!updated.ok()) return ::testing::AssertionFailure() << updated;
  EXPECT_TRUE(stream.status().ok()) << stream.status();
  return SameResults(actual, expected);
}

}  // namespace shardstep
