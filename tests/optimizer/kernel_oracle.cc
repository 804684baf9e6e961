#include "kernel_oracle.h"

#include <cmath>
#include <map>

namespace shardstep {
namespace {

bool IsNan(uint32_t bits) { return (bits & 0x7fffffff) > 0x7f800000; }

// A bf16's magnitude as a number; what would come after the largest one is 2^128.
double Magnitude(uint32_t upper_half) {
  return (upper_half & 0x7fff) == 0x7f80 ? std::ldexp(1.0, 128) : std::fabs(FloatFromBits(upper_half << 16));
}

// How much of the way from the bf16 below `value`, in magnitude, to the next one it has come, and that bf16.
struct Way {
  uint32_t below = 0;
  double part = 0;
};
Way WayOf(float value) {
  const uint32_t below = FloatBits(value) >> 16;
  const double low = Magnitude(below);
  return {.below = below, .part = (std::fabs(static_cast<double>(value)) - low) / (Magnitude(below + 1) - low)};
}

float ValueOf(const Slice& slice, int64_t i) {
  if (slice.dtype == DType::kFp32) return static_cast<const float*>(slice.data)[i];
  return FloatFromBits(static_cast<uint32_t>(static_cast<const Bf16*>(slice.data)[i].bits) << 16);
}

// What is added to s as one: a group of micro-batches, or a slice that is one.
struct Group {
  float p = 0;
  int64_t last_micro_batch = 0;
  bool complete = false;
};

struct Sums {
  float s = 0;
  float open_p = 0;
  GradientPlace first_nonfinite = kNowhere;
  GradientPlace first_overflow = kNowhere;
};

class Summing {
 public:
  Summing(const SumArgs& args, int64_t i, int64_t element) : args_(args), element_(element) {
    FormGroups(i);
    sums_.s = args.accumulator == nullptr ? 0.0f : args.accumulator[i];
    for (const auto& [number, group] : groups_) {
      const bool newest = number == groups_.rbegin()->first;
      if (group.complete || args.closes || !newest) {
        sums_.s = Plus(sums_.s, group.p, group.last_micro_batch);
      } else {
        sums_.open_p = group.p;
      }
    }
  }
  const Sums& sums() const { return sums_; }

 private:
  // Every slice on its own counts as group number micro-batch.
  void FormGroups(int64_t i) {
    const int64_t g = args_.sum_group;
    if (args_.group_accumulator != nullptr) {
      groups_[args_.first_micro_batch / g] = {.p = args_.group_accumulator[i],
                                              .last_micro_batch = args_.first_micro_batch - 1};
    }
    for (const Slice& slice : args_.slices) {
      const int64_t first = args_.first_micro_batch + slice.rank;
      const float value = ValueOf(slice, i);
      if (!std::isfinite(value) && !slice.partial) Lower(&sums_.first_nonfinite, first);
      if (g == 1 || slice.ranks > 1) {
        // A number between those of other groups: whole groups begin where a group does.
        groups_[first / g] = {.p = value, .last_micro_batch = first + slice.ranks - 1, .complete = true};
      } else {
        Group& group = groups_[first / g];
        group.p = Plus(group.p, value, first);
        group.last_micro_batch = first;
        group.complete = first % g == g - 1;
      }
    }
  }
  float Plus(float a, float b, int64_t micro_batch) {
    const float sum = a + b;
    if (std::isfinite(a) && std::isfinite(b) && !std::isfinite(sum)) Lower(&sums_.first_overflow, micro_batch);
    return sum;
  }
  void Lower(GradientPlace* place, int64_t micro_batch) const {
    *place =
        std::min(*place, static_cast<uint64_t>(micro_batch) * (uint64_t{1} << 40) + static_cast<uint64_t>(element_));
  }

  const SumArgs& args_;
  const int64_t element_;
  std::map<int64_t, Group> groups_;
  Sums sums_;
};

void AddBlock(const std::vector<float>& sums, double norm_weight, ScanResult* scan) {
  bool finite = true;
  double lanes[32] = {};
  for (size_t i = 0; i < sums.size(); ++i) {
    finite = finite && std::isfinite(sums[i]);
    lanes[i % 32] += static_cast<double>(sums[i]) * static_cast<double>(sums[i]);
    const float magnitude = std::isfinite(sums[i]) ? std::fabs(sums[i]) : INFINITY;
    scan->max_abs_bits = std::max(scan->max_abs_bits, FloatBits(magnitude));
  }
  for (int width = 16; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  if (finite && norm_weight > 0) scan->squared_norm.Add(norm_weight * lanes[0]);
}

// One line, one rounding.
void Rule1(const UpdateKind& kind, const RuleScalars& scalars, float g, float* w, float* m, float* v) {
  if (kind.rule == Rule::kSgd) {
    const SgdScalars& s = scalars.sgd;
    const float decay = s.weight_decay * *w;
    float d = g + decay;
    if (kind.momentum) {
      const float kept = s.momentum * *m;
      *m = kept + d;
      const float ahead = s.momentum * *m;
      const float looked_ahead = d + ahead;
      d = s.nesterov ? looked_ahead : *m;
    }
    const float change = s.learning_rate * d;
    *w = *w - change;
  } else if (kind.rule == Rule::kLion) {
    const LionScalars& s = scalars.lion;
    const float kept1 = s.beta1 * *m;
    const float added1 = s.one_minus_beta1 * g;
    const float c = kept1 + added1;
    const float decay = s.lr_weight_decay * *w;
    *w = *w - decay;
    if (std::isnan(c)) {
      *w = c;
    } else if (c != 0) {
      *w = *w - std::copysign(s.learning_rate, c);
    }
    const float kept2 = s.beta2 * *m;
    const float added2 = s.one_minus_beta2 * g;
    *m = kept2 + added2;
  } else {
    const AdamWScalars& s = scalars.adamw;
    const float kept1 = s.beta1 * *m;
    const float added1 = s.one_minus_beta1 * g;
    *m = kept1 + added1;
    const float square = g * g;
    const float kept2 = s.beta2 * *v;
    const float added2 = s.one_minus_beta2 * square;
    *v = kept2 + added2;
    const float decay = s.lr_weight_decay * *w;
    *w = *w - decay;
    const float root = std::sqrt(*v);
    const float corrected = root * s.rbc2;
    const float denominator = corrected + s.epsilon;
    const float quotient = *m / denominator;
    const float change = s.step_size * quotient;
    *w = *w - change;
  }
}

// The one w of all that have these weights and this remainder; 0x7fc00000 for a NaN.
float OracleJoin(uint16_t weights, uint16_t remainder) {
  for (const uint32_t upper : {uint32_t{weights}, (weights - 1u) & 0xffff}) {
    const uint32_t bits = upper << 16 | remainder;
    if (!IsNan(bits) && OracleNearestAway(FloatFromBits(bits)) == weights) return FloatFromBits(bits);
  }
  return NAN;
}

float ReadMaster(const UpdateArgs& args, int64_t i) {
  if (args.weight_dtype == DType::kFp32) return static_cast<const float*>(args.destinations[0])[i];
  if (args.master != nullptr) return args.master[i];
  const uint16_t weight = static_cast<const Bf16*>(args.destinations[0])[i].bits;
  if (args.remainder != nullptr) return OracleJoin(weight, args.remainder[i]);
  return FloatFromBits(uint32_t{weight} << 16);
}

void WriteMaster(const UpdateArgs& args, int64_t i, int64_t element, float w) {
  uint16_t weight = OracleNearestEven(w);
  if (args.kind.master == Master::kSplit) weight = OracleNearestAway(w);
  if (args.kind.master == Master::kNone && args.kind.rounding == Rounding::kStochastic) {
    weight = OracleAtRandom(w, OracleRandom(args.scalars->seed, static_cast<uint64_t>(args.scalars->applied_step),
                                            static_cast<uint64_t>(element)));
  }
  if (args.master != nullptr) args.master[i] = w;
  if (args.remainder != nullptr) args.remainder[i] = std::isnan(w) ? 0 : static_cast<uint16_t>(FloatBits(w) & 0xffff);
  for (void* destination : args.destinations) {
    if (args.weight_dtype == DType::kFp32) {
      static_cast<float*>(destination)[i] = std::isnan(w) ? FloatFromBits(0x7fc00000) : w;
    } else {
      static_cast<Bf16*>(destination)[i].bits = weight;
    }
  }
}

}  // namespace

uint16_t OracleNearestEven(float value) {
  if (std::isnan(value)) return 0x7fc0;
  if (std::isinf(value)) return static_cast<uint16_t>(FloatBits(value) >> 16);
  const Way way = WayOf(value);
  const bool up = way.part > 0.5 || (way.part == 0.5 && way.below % 2 == 1);
  return static_cast<uint16_t>(way.below + (up ? 1 : 0));
}

uint16_t OracleNearestAway(float value) {
  if (std::isnan(value)) return 0x7fc0;
  if (std::isinf(value)) return static_cast<uint16_t>(FloatBits(value) >> 16);
  const Way way = WayOf(value);
  return static_cast<uint16_t>(way.below + (way.part >= 0.5 ? 1 : 0));
}

uint16_t OracleAtRandom(float value, uint32_t random) {
  if (std::isnan(value)) return 0x7fc0;
  if (std::isinf(value)) return static_cast<uint16_t>(FloatBits(value) >> 16);
  const Way way = WayOf(value);
  return static_cast<uint16_t>(way.below + (way.part * 65536 + random >= 65536 ? 1 : 0));
}

uint32_t OracleRandom(uint64_t seed, uint64_t applied_step, uint64_t global_element) {
  const uint64_t word = uint64_t{1} << 32;
  const uint64_t draw = global_element / 8;
  uint64_t c[4] = {draw % word, draw / word, applied_step % word, applied_step / word};
  uint64_t k[2] = {seed % word, seed / word};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53 * c[0];
    const uint64_t p1 = 0xCD9E8D57 * c[2];
    const uint64_t next[4] = {p1 / word ^ c[1] ^ k[0], p1 % word, p0 / word ^ c[3] ^ k[1], p0 % word};
    std::copy(next, next + 4, c);
    k[0] = (k[0] + 0x9E3779B9) % word;
    k[1] = (k[1] + 0xBB67AE85) % word;
  }
  const uint64_t piece = global_element % 8;
  return static_cast<uint32_t>(c[piece / 2] >> (piece % 2 * 16) & 0xffff);
}

void OracleReduce(KernelCase* work) {
  const ReduceArgs args = work->Reduce();
  for (const Segment& segment : args.segments) {
    std::vector<float> block;
    for (int64_t e = 0; e < segment.elements; ++e) {
      const int64_t i = segment.shard_begin_element + e;
      const Sums sums = Summing(args.sum, i, segment.global_begin_element + e).sums();
      args.scan->first_nonfinite = std::min(args.scan->first_nonfinite, sums.first_nonfinite);
      args.scan->first_overflow = std::min(args.scan->first_overflow, sums.first_overflow);
      if (args.accumulator_out != nullptr) args.accumulator_out[i] = sums.s;
      if (args.group_accumulator_out != nullptr) args.group_accumulator_out[i] = sums.open_p;
      if (args.rounded_out != nullptr) args.rounded_out[i].bits = OracleNearestEven(sums.s);
      block.push_back(sums.s);
      if (e % 1024 == 1023 || e == segment.elements - 1) {
        AddBlock(block, segment.norm_weight, args.scan);
        block.clear();
      }
    }
  }
}

void OracleUpdate(KernelCase* work) {
  const UpdateArgs args = work->Update();
  for (const Segment& segment : args.segments) {
    for (int64_t e = 0; e < segment.elements; ++e) {
      const int64_t i = segment.shard_begin_element + e;
      const int64_t element = segment.global_begin_element + e;
      const float g = Summing(args.sum, i, element).sums().s * args.scalars->scale;
      float w = ReadMaster(args, i);
      float none = 0;
      Rule1(args.kind, args.rules[segment.scalars], g, &w, args.first_moment == nullptr ? &none : args.first_moment + i,
            args.second_moment == nullptr ? &none : args.second_moment + i);
      WriteMaster(args, i, element, w);
    }
  }
}

}  // namespace shardstep
