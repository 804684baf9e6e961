#include "shardstep/tools/precision/one_update.h"

namespace shardstep {
namespace {

// Magnitudes of one sign are ordered as their bits are.
Bf16 Neighbour(Bf16 value, int steps) { return Bf16{static_cast<uint16_t>(value.bits + steps)}; }

}  // namespace

double Bf16Spacing(Bf16 value) { return static_cast<double>(ToFloat(Neighbour(value, 1))) - ToFloat(value); }

OneUpdate ComputeOneUpdate(const UpdateInputs& inputs) {
  OneUpdate result{};
  result.written_weight = static_cast<float>(inputs.weight);
  result.weight = ToBf16(result.written_weight);
  result.below = Neighbour(result.weight, -1);
  result.above = Neighbour(result.weight, 1);
  result.half_ulp = Bf16Spacing(result.weight) / 2;
  result.gradient = ToBf16(static_cast<float>(inputs.gradient));
  result.learning_rate = static_cast<float>(inputs.learning_rate);

  // 24 significant bits times 8: a double holds the product.
  result.update = static_cast<double>(result.learning_rate) * ToFloat(result.gradient);
  result.exact = ToFloat(result.weight) - result.update;

  result.in_fp32 = UpdateInFp32(ToFloat(result.weight), result.gradient, result.learning_rate);
  result.in_bf16 = ToBf16(result.in_fp32);

  result.written_in_fp32 = UpdateInFp32(result.written_weight, result.gradient, result.learning_rate);
  result.written_as_bf16 = ToBf16(result.written_in_fp32);
  result.written_in_ulps = result.written_in_fp32 / Bf16Spacing(result.written_as_bf16);
  return result;
}

}  // namespace shardstep
