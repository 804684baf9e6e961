#include "reference_step.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace shardstep_reference {
namespace {

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// A non-negative integer multiple of 2^-298, bit by bit.
class BigSum {
 public:
  void Add(double value) {
    if (value == 0) return;
    int exponent;
    const double fraction = std::frexp(value, &exponent);
    uint64_t mantissa = static_cast<uint64_t>(std::ldexp(fraction, 53));
    int position = exponent - 53 + 298;
    for (; position < 0; ++position) mantissa >>= 1;
    for (; mantissa != 0; mantissa >>= 1, ++position) {
      if (mantissa & 1) AddBit(position);
    }
  }
  // To nearest, ties to even.
  double Round() const {
    int top = kBits - 1;
    while (top >= 0 && !bits_[top]) --top;
    if (top < 0) return 0;
    const int lowest = std::max(0, top - 52);
    uint64_t mantissa = 0;
    for (int i = top; i >= lowest; --i) mantissa = mantissa << 1 | bits_[i];
    if (lowest > 0 && bits_[lowest - 1]) {
      const bool above_half = std::any_of(bits_.begin(), bits_.begin() + lowest - 1, [](bool bit) { return bit; });
      if (above_half || (mantissa & 1)) ++mantissa;
    }
    return std::ldexp(static_cast<double>(mantissa), lowest - 298);
  }

 private:
  static constexpr int kBits = 640;
  void AddBit(int position) {
    while (bits_[position]) bits_[position++] = false;
    bits_[position] = true;
  }
  std::vector<bool> bits_ = std::vector<bool>(kBits);
};

double BlockSum(const float* values, int64_t count) {
  double lanes[32] = {};
  for (int64_t i = 0; i < count; ++i) {
    const double value = values[i];
    lanes[i % 32] = lanes[i % 32] + value * value;
  }
  for (int width = 16; width >= 1; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] = lanes[l] + lanes[l + width];
  }
  return lanes[0];
}

double Power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = result * base;
    base = base * base;
  }
  return result;
}

void Update(Parameter& p, const std::vector<float>& sums, float scale, double learning_rate, int64_t t) {
  const Group& o = p.group;
  const double lr = learning_rate * o.learning_rate_factor;
  const float b1 = static_cast<float>(o.beta1);
  const float b2 = static_cast<float>(o.beta2);
  const float one_minus_b1 = static_cast<float>(1 - o.beta1);
  const float one_minus_b2 = static_cast<float>(1 - o.beta2);
  const float lr_wd = static_cast<float>(lr * o.weight_decay);
  const float step_size = static_cast<float>(lr / (1 - Power(o.beta1, t)));
  const float rbc2 = static_cast<float>(1 / std::sqrt(1 - Power(o.beta2, t)));
  const float eps = static_cast<float>(o.epsilon);
  for (size_t i = 0; i < sums.size(); ++i) {
    const float g = sums[i] * scale;
    float& m = p.first_moment[i];
    float& v = p.second_moment[i];
    float& w = p.master[i];
    m = b1 * m + one_minus_b1 * g;
    v = b2 * v + one_minus_b2 * (g * g);
    w = w - lr_wd * w;
    w = w - step_size * (m / (std::sqrt(v) * rbc2 + eps));
    p.weights[i] = ToBf16(w);
  }
}

template <typename T>
std::string HashAll(const std::vector<Parameter>& parameters, const std::vector<T> Parameter::*array) {
  uint64_t low = 0;
  uint64_t high = 0;
  for (size_t p = 0; p < parameters.size(); ++p) {
    std::vector<T> values = parameters[p].*array;
    if constexpr (sizeof(T) == 4) {
      for (T& value : values) {
        if (std::isnan(value)) value = FromBits(0x7fc00000);
      }
    }
    for (size_t begin = 0; begin < values.size(); begin += 1024) {
      const size_t count = std::min<size_t>(1024, values.size() - begin);
      std::vector<char> bytes(16 + count * sizeof(T));
      const int64_t key[2] = {static_cast<int64_t>(p), static_cast<int64_t>(begin / 1024)};
      std::memcpy(bytes.data(), key, 16);
      std::memcpy(bytes.data() + 16, values.data() + begin, count * sizeof(T));
      const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
      low += hash.low64;
      high += hash.high64 + (low < hash.low64 ? 1 : 0);
    }
  }
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(high),
                static_cast<unsigned long long>(low));
  return text;
}

}  // namespace

float FromBf16(uint16_t bits) { return FromBits(static_cast<uint32_t>(bits) << 16); }

uint16_t ToBf16(float value) {
  if (std::isnan(value)) return 0x7fc0;
  const uint32_t bits = Bits(value);
  const uint32_t low = bits & 0xffff;
  uint32_t high = bits >> 16;
  if (low > 0x8000 || (low == 0x8000 && (high & 1))) ++high;
  return static_cast<uint16_t>(high);
}

void Model::Add(const Group& group, std::vector<float> master) {
  Parameter p{.group = group, .master = std::move(master), .first_moment = {}, .second_moment = {}, .weights = {}};
  p.first_moment.assign(p.master.size(), 0.0f);
  p.second_moment.assign(p.master.size(), 0.0f);
  for (const float w : p.master) p.weights.push_back(ToBf16(w));
  parameters_.push_back(std::move(p));
}

StepResult Model::Step(const std::vector<std::vector<std::vector<uint16_t>>>& gradients,
                       const StepArguments& arguments) {
  std::vector<std::vector<float>> sums;
  BigSum squares;
  bool finite = true;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    std::vector<float> sum(parameters_[p].master.size(), 0.0f);
    for (const auto& micro_batch : gradients) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] = sum[i] + FromBf16(micro_batch[p][i]);
    }
    for (const float s : sum) finite = finite && std::isfinite(s);
    for (size_t begin = 0; finite && begin < sum.size(); begin += 1024) {
      squares.Add(BlockSum(sum.data() + begin, std::min<int64_t>(1024, static_cast<int64_t>(sum.size() - begin))));
    }
    sums.push_back(std::move(sum));
  }
  if (!finite) return {};
  StepResult result;
  result.applied = true;
  result.norm = std::sqrt(squares.Round()) / arguments.divisor;
  if (arguments.max_norm) result.clip = std::min(1.0, *arguments.max_norm / (result.norm + 1e-6));
  const float scale = static_cast<float>(result.clip / arguments.divisor);
  ++applied_steps_;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    Update(parameters_[p], sums[p], scale, arguments.learning_rate, applied_steps_);
  }
  return result;
}

Digests Model::Digest() const {
  return {.weights = HashAll<uint16_t>(parameters_, &Parameter::weights),
          .master = HashAll<float>(parameters_, &Parameter::master),
          .first_moment = HashAll<float>(parameters_, &Parameter::first_moment),
          .second_moment = HashAll<float>(parameters_, &Parameter::second_moment)};
}

}  // namespace shardstep_reference
