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

void UpdateAdamW(Parameter& p, const std::vector<float>& gradients, double lr, int64_t t) {
  const Group& o = p.group;
  const float b1 = static_cast<float>(o.beta1);
  const float b2 = static_cast<float>(o.beta2);
  const float one_minus_b1 = static_cast<float>(1 - o.beta1);
  const float one_minus_b2 = static_cast<float>(1 - o.beta2);
  const float lr_wd = static_cast<float>(lr * o.weight_decay);
  const float step_size = static_cast<float>(lr / (1 - Power(o.beta1, t)));
  const float rbc2 = static_cast<float>(1 / std::sqrt(1 - Power(o.beta2, t)));
  const float eps = static_cast<float>(o.epsilon);
  for (size_t i = 0; i < gradients.size(); ++i) {
    const float g = gradients[i];
    float& m = p.first_moment[i];
    float& v = p.second_moment[i];
    float& w = p.master[i];
    m = b1 * m + one_minus_b1 * g;
    v = b2 * v + one_minus_b2 * (g * g);
    w = w - lr_wd * w;
    w = w - step_size * (m / (std::sqrt(v) * rbc2 + eps));
  }
}

void UpdateSgd(Parameter& p, const std::vector<float>& gradients, double lr) {
  const float momentum = static_cast<float>(p.group.momentum);
  const float weight_decay = static_cast<float>(p.group.weight_decay);
  const float learning_rate = static_cast<float>(lr);
  for (size_t i = 0; i < gradients.size(); ++i) {
    float& w = p.master[i];
    float d = gradients[i] + weight_decay * w;
    if (p.group.momentum != 0) {
      float& m = p.first_moment[i];
      m = momentum * m + d;
      d = p.group.nesterov ? d + momentum * m : m;
    }
    w = w - learning_rate * d;
  }
}

void UpdateLion(Parameter& p, const std::vector<float>& gradients, double lr) {
  const Group& o = p.group;
  const float b1 = static_cast<float>(o.beta1);
  const float b2 = static_cast<float>(o.beta2);
  const float one_minus_b1 = static_cast<float>(1 - o.beta1);
  const float one_minus_b2 = static_cast<float>(1 - o.beta2);
  const float lr_wd = static_cast<float>(lr * o.weight_decay);
  const float learning_rate = static_cast<float>(lr);
  for (size_t i = 0; i < gradients.size(); ++i) {
    const float g = gradients[i];
    float& m = p.first_moment[i];
    float& w = p.master[i];
    const float c = b1 * m + one_minus_b1 * g;
    w = w - lr_wd * w;
    if (c > 0) w = w - learning_rate;
    if (c < 0) w = w + learning_rate;
    m = b2 * m + one_minus_b2 * g;
  }
}

// 16 random bits of a global element: Philox-4x32-10.
uint16_t Random(uint64_t seed, uint64_t applied_step, uint64_t element) {
  const uint64_t draw = element / 8;
  uint32_t c[4] = {static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32), static_cast<uint32_t>(applied_step),
                   static_cast<uint32_t>(applied_step >> 32)};
  uint32_t k0 = static_cast<uint32_t>(seed);
  uint32_t k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t x = 0xD2511F53ull * c[0];
    const uint64_t y = 0xCD9E8D57ull * c[2];
    const uint32_t c1 = c[1];
    const uint32_t c3 = c[3];
    c[0] = static_cast<uint32_t>(y >> 32) ^ c1 ^ k0;
    c[1] = static_cast<uint32_t>(y);
    c[2] = static_cast<uint32_t>(x >> 32) ^ c3 ^ k1;
    c[3] = static_cast<uint32_t>(x);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const uint32_t word = c[element % 8 / 2];
  return static_cast<uint16_t>(element % 2 == 0 ? word : word >> 16);
}

// What is left of the updated master weights.
void Keep(Parameter& p, uint64_t seed, int64_t applied_step, uint64_t first_element) {
  for (size_t i = 0; i < p.master.size(); ++i) {
    float& w = p.master[i];
    switch (p.group.kept) {
      case Kept::kFp32:
        p.weights[i] = ToBf16(w);
        break;
      case Kept::kSplit:
        p.weights[i] = std::isnan(w) ? 0x7fc0 : static_cast<uint16_t>((Bits(w) + 0x8000u) >> 16);
        break;
      case Kept::kNearest:
        p.weights[i] = ToBf16(w);
        w = FromBf16(p.weights[i]);
        break;
      case Kept::kStochastic:
        p.weights[i] = std::isnan(w)
                           ? 0x7fc0
                           : static_cast<uint16_t>((Bits(w) + Random(seed, applied_step, first_element + i)) >> 16);
        w = FromBf16(p.weights[i]);
        break;
    }
  }
}

void Update(Parameter& p, const std::vector<float>& gradients, double learning_rate, int64_t t) {
  const double lr = learning_rate * p.group.learning_rate_factor;
  switch (p.group.rule) {
    case Rule::kAdamW:
      return UpdateAdamW(p, gradients, lr, t);
    case Rule::kSgd:
      return UpdateSgd(p, gradients, lr);
    case Rule::kLion:
      return UpdateLion(p, gradients, lr);
  }
}

// Groups of consecutive micro-batches first, then these.
std::vector<float> Sum(const std::vector<const MicroBatch*>& micro_batches, size_t p, size_t elements,
                       int64_t sum_group, bool round_groups) {
  std::vector<float> sum(elements, 0.0f);
  const size_t group = static_cast<size_t>(sum_group);
  for (size_t begin = 0; begin < micro_batches.size(); begin += group) {
    const size_t end = std::min(begin + group, micro_batches.size());
    for (size_t i = 0; i < elements; ++i) {
      if (group == 1) {
        sum[i] = sum[i] + FromBf16((*micro_batches[begin])[p][i]);
        continue;
      }
      float part = 0.0f;
      for (size_t j = begin; j < end; ++j) part = part + FromBf16((*micro_batches[j])[p][i]);
      sum[i] = sum[i] + (round_groups ? FromBf16(ToBf16(part)) : part);
    }
  }
  return sum;
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
  const size_t elements = p.master.size();
  if (group.rule != Rule::kSgd || group.momentum != 0) p.first_moment.assign(elements, 0.0f);
  if (group.rule == Rule::kAdamW) p.second_moment.assign(elements, 0.0f);
  p.weights.assign(elements, 0);
  // The first weights are rounded to nearest, whatever the group does later.
  const Kept kept = group.kept;
  if (kept == Kept::kStochastic) p.group.kept = Kept::kNearest;
  Keep(p, 0, 0, 0);
  p.group.kept = kept;
  parameters_.push_back(std::move(p));
}

StepResult Model::Step(const std::vector<const MicroBatch*>& micro_batches, const StepArguments& arguments) {
  std::vector<std::vector<float>> sums;
  BigSum squares;
  bool finite = true;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    std::vector<float> sum =
        Sum(micro_batches, p, parameters_[p].master.size(), arguments.sum_group, arguments.round_groups);
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
  uint64_t first_element = 0;
  for (size_t p = 0; p < parameters_.size(); ++p) {
    for (float& s : sums[p]) s = s * scale;
    Update(parameters_[p], sums[p], arguments.learning_rate, applied_steps_);
    Keep(parameters_[p], arguments.rounding_seed, applied_steps_, first_element);
    first_element += sums[p].size();
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
