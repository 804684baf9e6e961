#include "shardstep/tools/gpu_check/decision_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/decision_formula.h"

namespace shardstep::gpu_check {
namespace {

ScanResult SomeScan(std::mt19937_64& random) {
  ScanResult scan;
  // Squares of all magnitudes, as blocks have them.
  for (int i = 0; i < 40; ++i) {
    const double mantissa = 1.0 + static_cast<double>(random() >> 12) * 0x1p-52;
    scan.squared_norm.Add(std::ldexp(mantissa, static_cast<int>(random() % 500) - 290));
  }
  scan.max_abs_bits = static_cast<uint32_t>(random() % 0x7f800000);
  switch (random() % 8) {
    case 0:
      scan.first_nonfinite = MakePlace(static_cast<int64_t>(random() % 100), static_cast<int64_t>(random() % 100000));
      scan.max_abs_bits = 0x7f800000;
      break;
    case 1:
      scan.first_overflow = MakePlace(static_cast<int64_t>(random() % 100), static_cast<int64_t>(random() % 100000));
      break;
    default:
      break;
  }
  return scan;
}

StepOrder SomeOrder(std::mt19937_64& random) {
  StepOrder order;
  order.step = static_cast<int64_t>(random() % 1000);
  order.agreed_fields = static_cast<int32_t>(random() % 8);
  order.look_for_non_finite = random() % 4 != 0;
  order.learning_rate = std::ldexp(static_cast<double>(random() % 1000), -12);
  order.divisor = 1.0 + static_cast<double>(random() % 1000);
  order.max_norm =
      order.look_for_non_finite && random() % 2 == 0 ? std::ldexp(1.0, static_cast<int>(random() % 40) - 20) : 0;
  order.applied_steps = static_cast<int64_t>(random() % 2 == 0 ? random() % 10 : random() % 100000);
  order.rounding_seed = random();
  order.part.minima.fill(kNowhere);
  // Alone, or one of two of whom the other has not come.
  order.part.sums[SmallReduction::kArrivals] = 1;
  order.world_size = random() % 16 == 0 ? 2 : 1;
  for (int i = 0; i < order.agreed_fields; ++i) {
    const uint64_t value = random() & kAgreedHashMask;
    order.part.minima[static_cast<size_t>(kAgreedWords + 2 * i)] = value << kParticipantBits;
    const uint64_t high = random() % 64 == 0 ? value + 1 : value;
    order.part.minima[static_cast<size_t>(kAgreedWords + 2 * i + 1)] = ~(high << kParticipantBits);
  }
  if (random() % 16 == 0) order.part.minima[kObjectionWord] = random();
  return order;
}

RuleSettings SomeSettings(int64_t index) {
  RuleSettings settings;
  settings.rule = static_cast<Rule>(index % 3);
  settings.adamw = {.beta1 = 0.9, .beta2 = index % 2 == 0 ? 0.999 : 0.95, .weight_decay = 0.1};
  settings.sgd = {.momentum = 0.9, .nesterov = index % 2 == 0, .weight_decay = 0.01};
  settings.lion = {.beta1 = 0.95, .beta2 = 0.98, .weight_decay = 0.3};
  settings.begin_applied_step = index % 5;
  return settings;
}

std::string DifferentScalars(const UpdateScalars& a, const UpdateScalars& b) {
  if (a.apply != b.apply) return "apply";
  if (FloatBits(a.scale) != FloatBits(b.scale)) return "scale";
  if (a.seed != b.seed) return "seed";
  return a.applied_step != b.applied_step ? "applied_step" : "";
}

// Members are compared one by one: what lies between them is nobody's.
template <typename T>
bool SameFloats(const T& a, const T& b, std::initializer_list<float T::*> members) {
  return std::all_of(members.begin(), members.end(),
                     [&](float T::*member) { return FloatBits(a.*member) == FloatBits(b.*member); });
}

bool SameRules(const RuleScalars& a, const RuleScalars& b) {
  using A = AdamWScalars;
  using S = SgdScalars;
  using L = LionScalars;
  return SameFloats<A>(a.adamw, b.adamw,
                       {&A::beta1, &A::one_minus_beta1, &A::beta2, &A::one_minus_beta2, &A::lr_weight_decay,
                        &A::step_size, &A::rbc2, &A::epsilon}) &&
         SameFloats<S>(a.sgd, b.sgd, {&S::momentum, &S::weight_decay, &S::learning_rate}) &&
         a.sgd.nesterov == b.sgd.nesterov &&
         SameFloats<L>(
             a.lion, b.lion,
             {&L::beta1, &L::one_minus_beta1, &L::beta2, &L::one_minus_beta2, &L::lr_weight_decay, &L::learning_rate});
}

bool SameScan(const ScanResult& a, const ScanResult& b) {
  return a.squared_norm.limbs() == b.squared_norm.limbs() && a.max_abs_bits == b.max_abs_bits &&
         a.first_nonfinite == b.first_nonfinite && a.first_overflow == b.first_overflow;
}

}  // namespace

DecisionCase DecisionOf(int64_t index, uint64_t seed) {
  std::mt19937_64 random(seed * 1000003 + static_cast<uint64_t>(index));
  DecisionCase decision;
  decision.order = SomeOrder(random);
  decision.scan = SomeScan(random);
  if (random() % 2 == 0) decision.exchange_scan = SomeScan(random);
  decision.with_facts = random() % 8 == 0;
  decision.facts = FactsOf(SomeScan(random), /*refused=*/random() % 4 == 0);
  const auto count = static_cast<int64_t>(random() % 6);
  for (int64_t i = 0; i < count; ++i) decision.settings.push_back(SomeSettings(index + i));
  decision.rules.resize(static_cast<size_t>(count));
  return decision;
}

std::string Difference(const DecisionCase& a, const DecisionCase& b) {
  if (!(a.reduction == b.reduction)) return "the contribution";
  if (!SameScan(a.scan, b.scan) || !SameScan(a.exchange_scan, b.exchange_scan)) return "the scan that was reset";
  if (const std::string word = DifferentScalars(a.scalars, b.scalars); !word.empty()) return word;
  for (size_t i = 0; i < a.rules.size(); ++i) {
    if (!SameRules(a.rules[i], b.rules[i])) return absl::StrCat("the scalars of group ", i);
  }
  if (!(a.report.reduction == b.report.reduction)) return "the report's reduction";
  if (const std::string word = DifferentScalars(a.report.scalars, b.report.scalars); !word.empty()) {
    return absl::StrCat("the report's ", word);
  }
  return a.report.applied_in_step != b.report.applied_in_step ? "the report's applied_in_step" : "";
}

}  // namespace shardstep::gpu_check
