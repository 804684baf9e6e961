#include "shardstep/tools/precision/gradient_sums.h"

#include <cmath>

#include "shardstep/optimizer/philox.h"

namespace shardstep {
namespace {

Bf16 AddInBf16(Bf16 sum, Bf16 gradient) { return ToBf16(ToFloat(sum) + ToFloat(gradient)); }

// Sums of one element.
struct Sums {
  double exact = 0;
  float fp32 = 0;
  Bf16 bf16;
};

/// Errors and sums over elements.
class ErrorNorms {
 public:
  void Add(const Sums& sums) {
    ++elements_;
    exact_sum_ += sums.exact;
    bf16_sum_ += ToFloat(sums.bf16);
    exact_ += sums.exact * sums.exact;
    bf16_ += Square(ToFloat(sums.bf16) - sums.exact);
    fp32_ += Square(sums.fp32 - sums.exact);
    fp32_then_bf16_ += Square(ToFloat(ToBf16(sums.fp32)) - sums.exact);
  }
  SumErrors Relative(int64_t count) const {
    return {.count = count,
            .bf16 = std::sqrt(bf16_ / exact_),
            .fp32 = std::sqrt(fp32_ / exact_),
            .fp32_then_bf16 = std::sqrt(fp32_then_bf16_ / exact_),
            .exact_mean = exact_sum_ / elements_,
            .bf16_mean = bf16_sum_ / elements_};
  }

 private:
  static double Square(double value) { return value * value; }

  double elements_ = 0;
  double exact_sum_ = 0;
  double bf16_sum_ = 0;
  double exact_ = 0;  // this and what follows: sums of squares
  double bf16_ = 0;
  double fp32_ = 0;
  double fp32_then_bf16_ = 0;
};

}  // namespace

Bf16 RandomGradient(uint64_t seed, int64_t source, int64_t element) {
  // 32 random bits cover the whole of it: its width is 2^-8, in units of 2^-40.
  constexpr auto kSmallest = static_cast<int64_t>(kSmallestGradient * 0x1p40);
  static_assert((kLargestGradient - kSmallestGradient) * 0x1p40 == 0x1p32);
  const int64_t random = Philox4x32(seed, static_cast<uint64_t>(source), static_cast<uint64_t>(element))[0];
  // fp32 and then bf16 round to coarser multiples of the same unit.
  return ToBf16(static_cast<float>(random + kSmallest) * 0x1p-40f);
}

std::vector<SumErrors> ComputeAccumulationErrors(const Gradients& gradients, int64_t elements, int64_t max_count) {
  std::vector<Sums> sums(elements);
  std::vector<SumErrors> result;
  for (int64_t count = 1; count <= max_count; ++count) {
    for (int64_t i = 0; i < elements; ++i) {
      const Bf16 gradient = gradients(count - 1, i);
      sums[i].exact += ToFloat(gradient);
      sums[i].fp32 += ToFloat(gradient);
      sums[i].bf16 = AddInBf16(sums[i].bf16, gradient);
    }
    if (count < 2 || (count & (count - 1)) != 0) continue;
    ErrorNorms norms;
    for (const Sums& sum : sums) norms.Add(sum);
    result.push_back(norms.Relative(count));
  }
  return result;
}

Bf16 RingSum(const Gradients& gradients, int64_t element, int64_t elements, int64_t ranks) {
  const int64_t owner = element * ranks / elements;
  Bf16 sum = gradients((owner + 1) % ranks, element);
  for (int64_t hop = 2; hop <= ranks; ++hop) sum = AddInBf16(sum, gradients((owner + hop) % ranks, element));
  return sum;
}

std::vector<SumErrors> ComputeRankSumErrors(const Gradients& gradients, int64_t elements, int64_t max_ranks) {
  std::vector<SumErrors> result;
  for (int64_t ranks = 2; ranks <= max_ranks; ranks *= 2) {
    ErrorNorms norms;
    for (int64_t i = 0; i < elements; ++i) {
      Sums sums{.bf16 = RingSum(gradients, i, elements, ranks)};
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const float gradient = ToFloat(gradients(rank, i));
        sums.exact += gradient;
        sums.fp32 += gradient;
      }
      norms.Add(sums);
    }
    result.push_back(norms.Relative(ranks));
  }
  return result;
}

}  // namespace shardstep
