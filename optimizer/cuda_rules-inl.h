#ifndef SHARDSTEP_OPTIMIZER_CUDA_RULES_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_RULES_INL_H_

#include <cmath>

#include "shardstep/optimizer/cuda_vectors-inl.h"

/// The rules as the update kernels want them. A rule has: which moments it keeps; Scalars; Of(RuleScalars);
/// Apply(element, g, scalars).

namespace shardstep::cuda {

// IEEE on the device too: -prec-sqrt=true.
SHARDSTEP_DEVICE float Sqrt(float value) { return sqrtf(value); }
SHARDSTEP_DEVICE float Sign(float value) {
  if (value > 0) return 1.0f;
  if (value < 0) return -1.0f;
  return value == 0 ? 0.0f : value;
}

#define SHARDSTEP_FORMULA SHARDSTEP_DEVICE
#include "shardstep/optimizer/update_element-inl.h"
// The formulas find it, and Sqrt and Sign.
#include "shardstep/optimizer/adamw_formula-inl.h"
#include "shardstep/optimizer/lion_formula-inl.h"
#include "shardstep/optimizer/sgd_formula-inl.h"
#undef SHARDSTEP_FORMULA

struct AdamWRule {
  static constexpr bool kFirstMoment = true;
  static constexpr bool kSecondMoment = true;
  using Scalars = AdamWScalars;
  static SHARDSTEP_DEVICE Scalars Of(const RuleScalars& scalars) { return scalars.adamw; }
  static SHARDSTEP_DEVICE UpdateElement<float> Apply(UpdateElement<float> x, float g, const Scalars& s) {
    return AdamWUpdate(x, g, s);
  }
};

template <bool kMomentum>
struct SgdRule {
  static constexpr bool kFirstMoment = kMomentum;
  static constexpr bool kSecondMoment = false;
  using Scalars = SgdScalars;
  static SHARDSTEP_DEVICE Scalars Of(const RuleScalars& scalars) { return scalars.sgd; }
  static SHARDSTEP_DEVICE UpdateElement<float> Apply(UpdateElement<float> x, float g, const Scalars& s) {
    if constexpr (kMomentum) {
      return SgdMomentumUpdate(x, g, s);
    } else {
      return SgdUpdate(x, g, s);
    }
  }
};

struct LionRule {
  static constexpr bool kFirstMoment = true;
  static constexpr bool kSecondMoment = false;
  using Scalars = LionScalars;
  static SHARDSTEP_DEVICE Scalars Of(const RuleScalars& scalars) { return scalars.lion; }
  static SHARDSTEP_DEVICE UpdateElement<float> Apply(UpdateElement<float> x, float g, const Scalars& s) {
    return LionUpdate(x, g, s);
  }
};

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_RULES_INL_H_
