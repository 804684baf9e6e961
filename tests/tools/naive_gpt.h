#ifndef SHARDSTEP_TESTS_TOOLS_NAIVE_GPT_H_
#define SHARDSTEP_TESTS_TOOLS_NAIVE_GPT_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "shardstep/tools/train/model_config.h"

namespace shardstep {

using Vector = std::vector<double>;

inline Vector NaiveLinear(const Vector& x, const Vector& weight, const Vector& bias) {
  Vector y = bias;
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < y.size(); ++j) y[j] += x[i] * weight[i * y.size() + j];
  }
  return y;
}

inline Vector NaiveNorm(const Vector& x, const Vector& weight, const Vector& bias) {
  double mean = 0;
  double variance = 0;
  for (const double v : x) mean += v / static_cast<double>(x.size());
  for (const double v : x) variance += (v - mean) * (v - mean) / static_cast<double>(x.size());
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = (x[i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias[i];
  return y;
}

/// A GPT as the paper has it, byte by byte and without matrices: the logits after each byte of `text`. It shares
/// nothing with the model but the order of parameters.
inline std::vector<Vector> NaiveLogits(const ModelConfig& config, const std::vector<Vector>& weights,
                                       const std::vector<uint8_t>& text) {
  const int64_t width = config.width;
  const int64_t head_width = width / config.heads;
  std::vector<Vector> x(text.size(), Vector(width));
  for (size_t t = 0; t < text.size(); ++t) {
    for (int64_t i = 0; i < width; ++i) x[t][i] = weights[0][text[t] * width + i] + weights[1][t * width + i];
  }
  size_t p = 2;
  for (int64_t layer = 0; layer < config.layers; ++layer, p += 12) {
    std::vector<Vector> qkv;
    for (const Vector& row : x) {
      qkv.push_back(NaiveLinear(NaiveNorm(row, weights[p], weights[p + 1]), weights[p + 2], weights[p + 3]));
    }
    for (size_t t = 0; t < text.size(); ++t) {
      Vector mixed(width);
      for (int64_t head = 0; head < config.heads; ++head) {
        const int64_t first = head * head_width;
        Vector attention(t + 1);
        double total = 0;
        for (size_t s = 0; s <= t; ++s) {
          double score = 0;
          for (int64_t i = first; i < first + head_width; ++i) score += qkv[t][i] * qkv[s][width + i];
          attention[s] = std::exp(score / std::sqrt(static_cast<double>(head_width)));
          total += attention[s];
        }
        for (size_t s = 0; s <= t; ++s) {
          for (int64_t i = first; i < first + head_width; ++i) {
            mixed[i] += attention[s] / total * qkv[s][2 * width + i];
          }
        }
      }
      const Vector projected = NaiveLinear(mixed, weights[p + 4], weights[p + 5]);
      for (int64_t i = 0; i < width; ++i) x[t][i] += projected[i];
      Vector hidden = NaiveLinear(NaiveNorm(x[t], weights[p + 6], weights[p + 7]), weights[p + 8], weights[p + 9]);
      for (double& v : hidden) v = 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
      const Vector out = NaiveLinear(hidden, weights[p + 10], weights[p + 11]);
      for (int64_t i = 0; i < width; ++i) x[t][i] += out[i];
    }
  }
  std::vector<Vector> logits;
  for (const Vector& row : x) {
    logits.push_back(NaiveLinear(NaiveNorm(row, weights[p], weights[p + 1]), weights[p + 2], Vector(kVocabulary)));
  }
  return logits;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_TOOLS_NAIVE_GPT_H_
