#ifndef SHARDSTEP_TOOLS_PRECISION_ONE_UPDATE_H_
#define SHARDSTEP_TOOLS_PRECISION_ONE_UPDATE_H_

#include "shardstep/comm/bf16.h"

namespace shardstep {

/// An SGD update `weight - learning_rate * gradient` as it is written down: decimals that no binary format holds.
struct UpdateInputs {
  double weight = 1.23456;
  double gradient = 1e-3;
  double learning_rate = 0.1;
};

/// One update of a bf16 weight. Every field holds its value exactly, provided that the weight is in [2^-6, 2) and the
/// update in [2^-20, 1): then `exact` is a multiple of 2^-51 below 2, which a double holds.
struct OneUpdate {
  Bf16 weight;             ///< nearest to the written weight
  Bf16 below, above;       ///< its neighbours
  double half_ulp;         ///< half the distance to `above`: what an update must exceed to move the weight
  Bf16 gradient;           ///< nearest to the written gradient
  float learning_rate;     ///< nearest to the written learning rate
  double update;           ///< learning_rate * gradient, unrounded
  double exact;            ///< weight - update, unrounded
  Bf16 in_bf16;            ///< the update done in fp32, its result rounded to bf16 once: the kindest way to use bf16
  float in_fp32;           ///< the same, kept in fp32
  float written_weight;    ///< the written weight as fp32 holds it, never rounded to bf16
  float written_in_fp32;   ///< that, updated in fp32
  double written_in_ulps;  ///< the last one in units of bf16's spacing there: a bf16 value only if this is an integer
  Bf16 written_as_bf16;    ///< the nearest bf16 value to it
};
OneUpdate ComputeOneUpdate(const UpdateInputs& inputs);

/// `weight - learning_rate * gradient` in fp32, two roundings.
inline float UpdateInFp32(float weight, Bf16 gradient, float learning_rate) {
  return weight - learning_rate * ToFloat(gradient);
}

/// The distance from a positive, finite `value` to the next larger one.
double Bf16Spacing(Bf16 value);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_ONE_UPDATE_H_
