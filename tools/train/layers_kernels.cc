#include "shardstep/tools/train/layers_kernels.h"

#include <bit>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "shardstep/tools/train/layers_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"

// Plain loops which the compiler vectorises for each target: Highway chooses among them at run time.
HWY_BEFORE_NAMESPACE();
namespace shardstep {
namespace HWY_NAMESPACE {
namespace {

HWY_INLINE float Widen(Bf16 x) { return ToFloat(x); }
HWY_INLINE float Widen(float x) { return x; }
HWY_INLINE double Widen(double x) { return x; }

template <typename To, typename From>
HWY_INLINE To Narrow(From x) {
  if constexpr (std::is_same_v<To, Bf16>) {
    return ToBf16(x);
  } else {
    return x;
  }
}

HWY_INLINE double Exp(double x) { return std::exp(x); }

// Within 2 units in the last place for results that are normal numbers; smaller ones are flushed to about 2^-126,
// larger ones to about 2^127. No branches, so that loops vectorise; NaN stays NaN.
HWY_INLINE float Exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  const float shifted = x * 1.44269504f + kRound;
  const float exponent = shifted - kRound;
  const float r = (x - exponent * 0.693359375f) + exponent * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t scale = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  return p * std::bit_cast<float>(scale);
}

// A sum in an order that no vector width changes: lane i mod 16, then the lanes in a tree.
constexpr int64_t kLanes = 16;
template <typename Real>
HWY_INLINE Real FoldLanes(const Real (&lanes)[kLanes]) {
  Real folded[kLanes / 2];
  for (int64_t i = 0; i < 8; ++i) folded[i] = lanes[i] + lanes[i + 8];
  for (int64_t i = 0; i < 4; ++i) folded[i] += folded[i + 4];
  return (folded[0] + folded[2]) + (folded[1] + folded[3]);
}

template <typename Real, typename Term>
HWY_INLINE Real Sum(int64_t count, const Term& term) {
  Real lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += term(i + l);
  }
  for (int64_t l = 0; i + l < count; ++l) lanes[l] += term(i + l);
  return FoldLanes(lanes);
}

template <typename Real>
HWY_INLINE Real Maximum(int64_t count, const Real* values) {
  Real lanes[kLanes];
  for (Real& lane : lanes) lane = values[0];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] = lanes[l] > values[i + l] ? lanes[l] : values[i + l];
  }
  for (int64_t l = 0; i + l < count; ++l) lanes[l] = lanes[l] > values[i + l] ? lanes[l] : values[i + l];
  Real maximum = lanes[0];
  for (const Real lane : lanes) maximum = maximum > lane ? maximum : lane;
  return maximum;
}

template <typename Route>
struct Kernels {
  using Storage = typename Route::Storage;
  using Operand = typename Route::Operand;
  using Real = typename Route::Real;

  static void Load(int64_t count, const Storage* HWY_RESTRICT in, Operand* HWY_RESTRICT out) {
    for (int64_t i = 0; i < count; ++i) out[i] = Narrow<Operand>(Widen(in[i]));
  }

  static void Store(int64_t count, const Real* HWY_RESTRICT in, Storage* HWY_RESTRICT out) {
    for (int64_t i = 0; i < count; ++i) out[i] = Narrow<Storage>(in[i]);
  }

  static void ToOperand(int64_t count, const Real* HWY_RESTRICT in, Operand* HWY_RESTRICT out) {
    for (int64_t i = 0; i < count; ++i) out[i] = Narrow<Operand>(in[i]);
  }

  static void ToOperandAndSumRows(int64_t rows, int64_t columns, const Real* HWY_RESTRICT in, Operand* HWY_RESTRICT out,
                                  Real* HWY_RESTRICT sums) {
    for (int64_t j = 0; j < columns; ++j) sums[j] = 0;
    for (int64_t i = 0; i < rows; ++i, in += columns, out += columns) {
      for (int64_t j = 0; j < columns; ++j) {
        out[j] = Narrow<Operand>(in[j]);
        sums[j] += in[j];
      }
    }
  }

  static void Add(int64_t count, const Real* HWY_RESTRICT in, Real* HWY_RESTRICT sum) {
    for (int64_t i = 0; i < count; ++i) sum[i] += in[i];
  }

  static void AddBias(int64_t rows, int64_t columns, const Real* HWY_RESTRICT in, const Storage* HWY_RESTRICT bias,
                      Operand* HWY_RESTRICT out) {
    for (int64_t i = 0; i < rows; ++i, in += columns, out += columns) {
      for (int64_t j = 0; j < columns; ++j) out[j] = Narrow<Operand>(in[j] + Widen(bias[j]));
    }
  }

  static void AddBiasAndResidual(int64_t rows, int64_t columns, const Real* HWY_RESTRICT in,
                                 const Storage* HWY_RESTRICT bias, const Real* HWY_RESTRICT residual,
                                 Real* HWY_RESTRICT out) {
    for (int64_t i = 0; i < rows; ++i, in += columns, residual += columns, out += columns) {
      for (int64_t j = 0; j < columns; ++j) out[j] = residual[j] + (in[j] + Widen(bias[j]));
    }
  }

  static void Embed(int64_t rows, int64_t columns, const uint8_t* HWY_RESTRICT tokens,
                    const Storage* HWY_RESTRICT token, const Storage* HWY_RESTRICT position, Real* HWY_RESTRICT out) {
    for (int64_t i = 0; i < rows; ++i, position += columns, out += columns) {
      const Storage* HWY_RESTRICT row = token + tokens[i] * columns;
      for (int64_t j = 0; j < columns; ++j) out[j] = Widen(row[j]) + Widen(position[j]);
    }
  }

  static void LayerNorm(int64_t rows, int64_t columns, const Real* HWY_RESTRICT in, const Storage* HWY_RESTRICT weight,
                        const Storage* HWY_RESTRICT bias, Operand* HWY_RESTRICT out, Real* HWY_RESTRICT means,
                        Real* HWY_RESTRICT inverse_deviations) {
    constexpr Real kEpsilon = static_cast<Real>(1e-5);
    for (int64_t i = 0; i < rows; ++i, in += columns, out += columns) {
      const Real mean = Sum<Real>(columns, [in](int64_t j) HWY_ATTR { return in[j]; }) / static_cast<Real>(columns);
      const Real squares =
          Sum<Real>(columns, [in, mean](int64_t j) HWY_ATTR { return (in[j] - mean) * (in[j] - mean); });
      const Real inverse = 1 / std::sqrt(squares / static_cast<Real>(columns) + kEpsilon);
      for (int64_t j = 0; j < columns; ++j) {
        out[j] = Narrow<Operand>((in[j] - mean) * inverse * Widen(weight[j]) + Widen(bias[j]));
      }
      means[i] = mean;
      inverse_deviations[i] = inverse;
    }
  }

  static void LayerNormBackward(int64_t rows, int64_t columns, const Real* HWY_RESTRICT in,
                                const Real* HWY_RESTRICT means, const Real* HWY_RESTRICT inverse_deviations,
                                const Storage* HWY_RESTRICT weight, const Real* HWY_RESTRICT out_gradient,
                                Real* HWY_RESTRICT in_gradient, Real* HWY_RESTRICT weight_gradient,
                                Real* HWY_RESTRICT bias_gradient) {
    for (int64_t j = 0; j < columns; ++j) weight_gradient[j] = bias_gradient[j] = 0;
    const Real inverse_count = 1 / static_cast<Real>(columns);
    for (int64_t i = 0; i < rows; ++i, in += columns, out_gradient += columns, in_gradient += columns) {
      const Real mean = means[i];
      const Real inverse = inverse_deviations[i];
      const Real sum = Sum<Real>(columns, [=](int64_t j) HWY_ATTR { return out_gradient[j] * Widen(weight[j]); });
      const Real projection = Sum<Real>(
          columns, [=](int64_t j) HWY_ATTR { return out_gradient[j] * Widen(weight[j]) * ((in[j] - mean) * inverse); });
      const Real mean_gradient = sum * inverse_count;
      const Real mean_projection = projection * inverse_count;
      for (int64_t j = 0; j < columns; ++j) {
        const Real normalized = (in[j] - mean) * inverse;
        weight_gradient[j] += out_gradient[j] * normalized;
        bias_gradient[j] += out_gradient[j];
        in_gradient[j] += (out_gradient[j] * Widen(weight[j]) - mean_gradient - normalized * mean_projection) * inverse;
      }
    }
  }

  static void Gelu(int64_t rows, int64_t columns, const Real* HWY_RESTRICT in, const Storage* HWY_RESTRICT bias,
                   Operand* HWY_RESTRICT out, Operand* HWY_RESTRICT slope) {
    constexpr Real kTwoRootTwoOverPi = static_cast<Real>(1.5957691216057308);
    constexpr Real kCubic = static_cast<Real>(0.044715);
    for (int64_t i = 0; i < rows; ++i, in += columns, out += columns, slope += columns) {
      for (int64_t j = 0; j < columns; ++j) {
        const Real x = in[j] + Widen(bias[j]);
        const Real square = x * x;
        const Real exponent = -kTwoRootTwoOverPi * x * (1 + kCubic * square);
        const Real sigmoid = 1 / (1 + Exp(exponent));
        const Real exponent_slope = kTwoRootTwoOverPi * (1 + 3 * kCubic * square);
        out[j] = Narrow<Operand>(x * sigmoid);
        slope[j] = Narrow<Operand>(sigmoid + x * sigmoid * (1 - sigmoid) * exponent_slope);
      }
    }
  }

  static void GeluBackward(int64_t rows, int64_t columns, const Real* HWY_RESTRICT gradient,
                           const Operand* HWY_RESTRICT slope, Operand* HWY_RESTRICT out, Real* HWY_RESTRICT sums) {
    for (int64_t j = 0; j < columns; ++j) sums[j] = 0;
    for (int64_t i = 0; i < rows; ++i, gradient += columns, slope += columns, out += columns) {
      for (int64_t j = 0; j < columns; ++j) {
        const Real product = gradient[j] * Widen(slope[j]);
        out[j] = Narrow<Operand>(product);
        sums[j] += product;
      }
    }
  }

  static void CausalSoftmax(int64_t size, Real scale, Real* HWY_RESTRICT scores, Operand* HWY_RESTRICT out) {
    for (int64_t i = 0; i < size; ++i, scores += size, out += size) {
      const int64_t visible = i + 1;
      const Real maximum = Maximum(visible, scores);
      for (int64_t j = 0; j < visible; ++j) scores[j] = Exp((scores[j] - maximum) * scale);
      const Real inverse = 1 / Sum<Real>(visible, [scores](int64_t j) HWY_ATTR { return scores[j]; });
      for (int64_t j = 0; j < visible; ++j) out[j] = Narrow<Operand>(scores[j] * inverse);
      for (int64_t j = visible; j < size; ++j) out[j] = Operand{};
    }
  }

  static void CausalSoftmaxBackward(int64_t size, Real scale, const Operand* HWY_RESTRICT probabilities,
                                    const Real* HWY_RESTRICT probability_gradient, Operand* HWY_RESTRICT out) {
    for (int64_t i = 0; i < size; ++i, probabilities += size, probability_gradient += size, out += size) {
      const int64_t visible = i + 1;
      const Real mean =
          Sum<Real>(visible, [=](int64_t j) HWY_ATTR { return Widen(probabilities[j]) * probability_gradient[j]; });
      for (int64_t j = 0; j < visible; ++j) {
        out[j] = Narrow<Operand>(Widen(probabilities[j]) * (probability_gradient[j] - mean) * scale);
      }
      for (int64_t j = visible; j < size; ++j) out[j] = Operand{};
    }
  }

  static void CrossEntropy(int64_t rows, int64_t columns, const uint8_t* HWY_RESTRICT targets, Real gradient_scale,
                           Real* HWY_RESTRICT logits, double* HWY_RESTRICT losses,
                           Operand* HWY_RESTRICT logit_gradient) {
    for (int64_t i = 0; i < rows; ++i, logits += columns) {
      const Real maximum = Maximum(columns, logits);
      const Real target_logit = logits[targets[i]];
      for (int64_t j = 0; j < columns; ++j) logits[j] = Exp(logits[j] - maximum);
      const Real sum = Sum<Real>(columns, [logits](int64_t j) HWY_ATTR { return logits[j]; });
      losses[i] = std::log(static_cast<double>(sum)) - static_cast<double>(target_logit - maximum);
      if (logit_gradient == nullptr) continue;
      Operand* HWY_RESTRICT gradient = logit_gradient + i * columns;
      const Real factor = gradient_scale / sum;
      const Real target_exp = logits[targets[i]];
      for (int64_t j = 0; j < columns; ++j) gradient[j] = Narrow<Operand>(logits[j] * factor);
      gradient[targets[i]] = Narrow<Operand>(target_exp * factor - gradient_scale);
    }
  }

  static LayerKernels<Route> Table() {
    return {.load = Load,
            .store = Store,
            .to_operand = ToOperand,
            .to_operand_and_sum_rows = ToOperandAndSumRows,
            .add = Add,
            .add_bias = AddBias,
            .add_bias_and_residual = AddBiasAndResidual,
            .embed = Embed,
            .layer_norm = LayerNorm,
            .layer_norm_backward = LayerNormBackward,
            .gelu = Gelu,
            .gelu_backward = GeluBackward,
            .causal_softmax = CausalSoftmax,
            .causal_softmax_backward = CausalSoftmaxBackward,
            .cross_entropy = CrossEntropy};
  }
};

}  // namespace

LayerKernels<Bf16Route> Bf16Kernels() { return Kernels<Bf16Route>::Table(); }
LayerKernels<Fp32Route> Fp32Kernels() { return Kernels<Fp32Route>::Table(); }
LayerKernels<DoubleRoute> DoubleKernels() { return Kernels<DoubleRoute>::Table(); }

}  // namespace HWY_NAMESPACE
}  // namespace shardstep
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardstep {

HWY_EXPORT(Bf16Kernels);
HWY_EXPORT(Fp32Kernels);
HWY_EXPORT(DoubleKernels);

template <>
LayerKernels<Bf16Route> GetLayerKernels<Bf16Route>() {
  return HWY_DYNAMIC_DISPATCH(Bf16Kernels)();
}
template <>
LayerKernels<Fp32Route> GetLayerKernels<Fp32Route>() {
  return HWY_DYNAMIC_DISPATCH(Fp32Kernels)();
}
template <>
LayerKernels<DoubleRoute> GetLayerKernels<DoubleRoute>() {
  return HWY_DYNAMIC_DISPATCH(DoubleKernels)();
}

}  // namespace shardstep
#endif
