#include "shardstep/tools/gpu_check/kernel_case.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace shardstep::gpu_check {
namespace {

constexpr int64_t kBlock = ShardLayout::kBlockElements;
constexpr int64_t kAlignment = 256;
constexpr std::byte kGap{0xa5};
constexpr uint32_t kNan = 0x7fc00000;

// SplitMix64 (Steele et al., OOPSLA 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t operator()() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t x = (state_ ^ (state_ >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

 private:
  uint64_t state_;
};

bool IsNan(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }

// 32 bits of a value; the upper 16 are a bf16 of the same kind.
uint32_t ValueBits(Values values, Random& random) {
  static constexpr uint32_t kSpecial[] = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x807fffff,
                                          0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff, 0x7f7f8000, 0x3f808000,
                                          0x3f818000, 0x00010000, 0x807f0000, 0x34000000};
  static constexpr uint32_t kNotFinite[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc10000,
                                            0x7f810000, 0x7f800001, 0xffffffff, 0x7fffffff};
  const uint64_t draw = random();
  const auto bits = static_cast<uint32_t>(draw >> 32);
  const auto choice = static_cast<uint32_t>(draw);
  if (values == Values::kPlain) {
    const auto integer = static_cast<int32_t>(bits % 20001) - 10000;
    return FloatBits(static_cast<float>(integer) * (1.0f / 4096.0f));
  }
  if (choice % 8 == 0) return kSpecial[choice / 8 % 16];
  if (values == Values::kAny) return choice % 8 == 1 ? kNotFinite[choice / 8 % 8] : bits;
  return (bits & 0x7f800000) == 0x7f800000 ? bits & 0x80ffffff : bits;
}

std::vector<Segment> SegmentsOf(const CaseSpec& spec) {
  static constexpr double kNormWeights[] = {1.0, 0.3, 0.0, 1e-200};
  std::vector<Segment> segments;
  int64_t shard_begin = 0;
  int64_t global_begin = spec.global_begin_element;
  for (size_t p = 0; p < spec.sizes.size(); ++p) {
    segments.push_back({.parameter = static_cast<int>(p),
                        .scalars = static_cast<int>(p % 2),
                        .norm_weight = kNormWeights[p % 4],
                        .global_begin_element = global_begin,
                        .elements = spec.sizes[p],
                        .shard_begin_element = shard_begin});
    shard_begin += (spec.sizes[p] + kBlock - 1) / kBlock * kBlock;
    global_begin += spec.sizes[p];
  }
  return segments;
}

std::vector<RuleScalars> RulesOf(const CaseSpec& spec) {
  switch (spec.kind.rule) {
    case Rule::kSgd: {
      const double momentum = spec.kind.momentum ? 0.9 : 0;
      return {MakeRuleScalars({.rule = SgdOptions{.momentum = momentum, .nesterov = spec.nesterov}}, 1e-2, 2),
              MakeRuleScalars({.rule = SgdOptions{.momentum = momentum / 3, .weight_decay = 0.3}}, 0.1, 1)};
    }
    case Rule::kLion:
      return {MakeRuleScalars({.rule = LionOptions{}}, 1e-3, 2),
              MakeRuleScalars({.rule = LionOptions{.beta1 = 0.95, .beta2 = 0.8, .weight_decay = 0.3}}, 0.1, 1)};
    case Rule::kAdamW:
      break;
  }
  const AdamWOptions tiny_epsilon = {.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-40, .weight_decay = 0.3};
  return {MakeRuleScalars({.rule = AdamWOptions{}}, 1e-3, 2), MakeRuleScalars({.rule = tiny_epsilon}, 0.1, 1)};
}

int64_t ElementBytes(ArrayKind kind) {
  switch (kind) {
    case ArrayKind::kBits16:
      return 2;
    case ArrayKind::kFp32:
    case ArrayKind::kWeightsFp32:
      return 4;
    case ArrayKind::kScan:
      return sizeof(ScanResult);
    case ArrayKind::kScalars:
      break;
  }
  return 1;
}

std::string ScanText(const ScanResult& scan) {
  return absl::StrFormat("squared norm %a, largest %08x, first not finite %x, first overflow %x",
                         scan.squared_norm.Round(), scan.max_abs_bits, scan.first_nonfinite, scan.first_overflow);
}

std::string ElementText(const CaseArray& array, const std::byte* element) {
  switch (array.kind) {
    case ArrayKind::kBits16: {
      uint16_t bits;
      std::memcpy(&bits, element, sizeof(bits));
      return absl::StrFormat("%04x", bits);
    }
    case ArrayKind::kFp32:
    case ArrayKind::kWeightsFp32: {
      uint32_t bits;
      std::memcpy(&bits, element, sizeof(bits));
      return absl::StrFormat("%08x", bits);
    }
    case ArrayKind::kScan: {
      ScanResult scan;
      std::memcpy(static_cast<void*>(&scan), element, sizeof(scan));
      return ScanText(scan);
    }
    case ArrayKind::kScalars:
      break;
  }
  return absl::StrFormat("%02x", std::to_integer<int>(*element));
}

// What lies between members stays as it is, here and below: a case is the same bytes wherever it is made.
void PutScan(const ScanResult& scan, std::byte* to) {
  auto* const words = reinterpret_cast<ScanResult*>(to);
  words->squared_norm = scan.squared_norm;
  words->max_abs_bits = scan.max_abs_bits;
  words->first_nonfinite = scan.first_nonfinite;
  words->first_overflow = scan.first_overflow;
}

void PutScalars(std::byte* to) {
  auto* const scalars = reinterpret_cast<UpdateScalars*>(to);
  scalars->apply = true;
  scalars->scale = 0.37f;
  scalars->seed = 0x0123456789abcdef;
  scalars->applied_step = (int64_t{1} << 33) + 5;
}

void PutRule(const RuleScalars& rule, RuleScalars* to) {
  static_assert(sizeof(AdamWScalars) == 8 * sizeof(float) && sizeof(LionScalars) == 6 * sizeof(float));
  to->adamw = rule.adamw;
  to->lion = rule.lion;
  to->sgd.momentum = rule.sgd.momentum;
  to->sgd.weight_decay = rule.sgd.weight_decay;
  to->sgd.learning_rate = rule.sgd.learning_rate;
  to->sgd.nesterov = rule.sgd.nesterov;
}

}  // namespace

KernelCase::KernelCase(const CaseSpec& spec) : spec_(spec), segments_(SegmentsOf(spec)) {
  for (const Segment& segment : segments_) {
    elements_ += segment.elements;
    shard_elements_ = segment.shard_begin_element + (segment.elements + kBlock - 1) / kBlock * kBlock;
  }
  AppendArrays();
  FillArrays();
  FillScalars();
}

int64_t KernelCase::Append(const char* name, ArrayKind kind, int64_t elements) {
  const auto end = static_cast<int64_t>(bytes_.size());
  const bool may_be_misaligned = kind != ArrayKind::kScan && kind != ArrayKind::kScalars;
  const int64_t shift = may_be_misaligned ? spec_.misalignment_elements * ElementBytes(kind) : 0;
  const int64_t begin = (end + kAlignment - 1) / kAlignment * kAlignment + shift;
  // A gap behind each array shows what is written beyond it.
  bytes_.resize(static_cast<size_t>(begin + elements * ElementBytes(kind) + 64), kGap);
  arrays_.push_back({.name = name, .kind = kind, .begin_byte = begin, .elements = elements});
  return begin;
}

void KernelCase::AppendArrays() {
  const auto append = [this](const char* name, ArrayKind kind) { return Append(name, kind, shard_elements_); };
  for (const Slice& slice : spec_.slices) {
    gradients_.push_back(append("gradient", slice.dtype == DType::kFp32 ? ArrayKind::kFp32 : ArrayKind::kBits16));
  }
  const bool bf16 = spec_.weight_dtype == DType::kBf16;
  accumulator_ = append("accumulator", ArrayKind::kFp32);
  accumulator_out_ = append("accumulator_out", ArrayKind::kFp32);
  group_accumulator_ = append("group_accumulator", ArrayKind::kFp32);
  group_accumulator_out_ = append("group_accumulator_out", ArrayKind::kFp32);
  rounded_ = append("rounded_out", ArrayKind::kBits16);
  master_ = append("master", ArrayKind::kFp32);
  remainder_ = append("remainder", ArrayKind::kBits16);
  first_moment_ = append("first_moment", ArrayKind::kFp32);
  second_moment_ = append("second_moment", ArrayKind::kFp32);
  weights_ = append("weights", bf16 ? ArrayKind::kBits16 : ArrayKind::kWeightsFp32);
  scan_ = Append("scan", ArrayKind::kScan, 1);
  scalars_ = Append("scalars", ArrayKind::kScalars, sizeof(UpdateScalars));
  rules_ = Append("rules", ArrayKind::kScalars, 2 * sizeof(RuleScalars));
}

void KernelCase::FillArrays() {
  Random random(spec_.seed);
  for (const CaseArray& array : arrays_) {
    std::byte* to = bytes_.data() + array.begin_byte;
    // A bf16 is the upper half of a value.
    const int64_t size = ElementBytes(array.kind);
    if (array.kind == ArrayKind::kScan || array.kind == ArrayKind::kScalars) continue;
    const uint32_t sign = array.begin_byte == second_moment_ ? 0x7fffffff : 0xffffffff;
    for (int64_t i = 0; i < array.elements; ++i, to += size) {
      const uint32_t bits = ValueBits(spec_.values, random) & sign;
      const auto upper = static_cast<uint16_t>(bits >> 16);
      std::memcpy(to, size == 2 ? static_cast<const void*>(&upper) : &bits, static_cast<size_t>(size));
    }
  }
}

void KernelCase::FillScalars() {
  PutScalars(bytes_.data() + scalars_);
  const std::vector<RuleScalars> rules = RulesOf(spec_);
  for (size_t i = 0; i < rules.size(); ++i) PutRule(rules[i], At<RuleScalars>(bytes_.data(), rules_) + i);
  PutScan(ScanResult(), bytes_.data() + scan_);
}

bool KernelCase::ReadsAccumulator() const {
  return spec_.accumulators == Accumulators::kInAndOut || spec_.accumulators == Accumulators::kInPlace;
}

bool KernelCase::ReadsGroup() const {
  return ReadsAccumulator() && spec_.sum_group > 1 && spec_.first_micro_batch % spec_.sum_group != 0;
}

// Whether a group of micro-batches has begun and not ended once the slices are in.
bool KernelCase::OpenAtEnd() const {
  if (spec_.sum_group == 1 || spec_.closes) return false;
  if (spec_.slices.empty()) return ReadsGroup();
  const Slice& last = spec_.slices.back();
  return last.ranks == 1 && (spec_.first_micro_batch + last.rank + 1) % spec_.sum_group != 0;
}

SumArgs KernelCase::Sum(std::byte* base) {
  slices_ = spec_.slices;
  for (size_t i = 0; i < slices_.size(); ++i) slices_[i].data = base + gradients_[i];
  return {.slices = slices_,
          .sum_group = spec_.sum_group,
          .first_micro_batch = spec_.first_micro_batch,
          .accumulator = ReadsAccumulator() ? At<float>(base, accumulator_) : nullptr,
          .group_accumulator = ReadsGroup() ? At<float>(base, group_accumulator_) : nullptr,
          .closes = spec_.closes};
}

ReduceArgs KernelCase::Reduce(std::byte* base) {
  const bool in_place = spec_.accumulators == Accumulators::kInPlace;
  ReduceArgs args = {.segments = segments_, .sum = Sum(base), .take_norm = true, .scan = At<ScanResult>(base, scan_)};
  if (spec_.rounds) args.rounded_out = At<Bf16>(base, rounded_);
  if (spec_.accumulators != Accumulators::kNone) {
    args.accumulator_out = At<float>(base, in_place ? accumulator_ : accumulator_out_);
  }
  if (OpenAtEnd()) {
    args.group_accumulator_out = At<float>(base, in_place ? group_accumulator_ : group_accumulator_out_);
  }
  return args;
}

UpdateArgs KernelCase::Update(std::byte* base) {
  const bool bf16 = spec_.weight_dtype == DType::kBf16;
  destination_ = base + weights_;
  SumArgs sum = Sum(base);
  sum.closes = true;
  return {.kind = spec_.kind,
          .weight_dtype = spec_.weight_dtype,
          .segments = segments_,
          .sum = sum,
          .master = bf16 && spec_.kind.master == Master::kFp32 ? At<float>(base, master_) : nullptr,
          .remainder = bf16 && spec_.kind.master == Master::kSplit ? At<uint16_t>(base, remainder_) : nullptr,
          .first_moment = spec_.kind.has_first_moment() ? At<float>(base, first_moment_) : nullptr,
          .second_moment = spec_.kind.has_second_moment() ? At<float>(base, second_moment_) : nullptr,
          .destinations = absl::MakeConstSpan(&destination_, 1),
          .scalars = At<UpdateScalars>(base, scalars_),
          .rules = absl::MakeConstSpan(At<RuleScalars>(base, rules_), 2)};
}

std::string KernelCase::Difference(const std::vector<std::byte>& a, const std::vector<std::byte>& b) const {
  if (a == b) return "";
  const std::vector<std::byte> canonical_a = Canonical(a);
  const std::vector<std::byte> canonical_b = Canonical(b);
  if (canonical_a == canonical_b) return "";
  if (a.size() != b.size()) return absl::StrCat(a.size(), " bytes are not ", b.size());
  const auto at =
      std::mismatch(canonical_a.begin(), canonical_a.end(), canonical_b.begin()).first - canonical_a.begin();
  for (const CaseArray& array : arrays_) {
    const int64_t size = ElementBytes(array.kind);
    const int64_t element = (at - array.begin_byte) / size;
    if (at < array.begin_byte || element >= array.elements) continue;
    const int64_t begin = array.begin_byte + element * size;
    return absl::StrCat(array.name, "[", element, "]: ", ElementText(array, canonical_a.data() + begin), " is not ",
                        ElementText(array, canonical_b.data() + begin));
  }
  return absl::StrCat("byte ", at, ", which belongs to no array, was written");
}

std::vector<std::byte> KernelCase::Canonical(std::vector<std::byte> bytes) const {
  for (const CaseArray& array : arrays_) {
    std::byte* const begin = bytes.data() + array.begin_byte;
    if (array.kind == ArrayKind::kFp32) {
      for (int64_t i = 0; i < array.elements; ++i) {
        uint32_t bits;
        std::memcpy(&bits, begin + i * 4, sizeof(bits));
        if (IsNan(bits)) std::memcpy(begin + i * 4, &kNan, sizeof(kNan));
      }
    } else if (array.kind == ArrayKind::kScan) {
      ScanResult scan;
      std::memcpy(static_cast<void*>(&scan), begin, sizeof(scan));
      scan.squared_norm.Normalize();
      std::memset(begin, 0, sizeof(scan));
      PutScan(scan, begin);
    }
  }
  return bytes;
}

}  // namespace shardstep::gpu_check
