// Digest of every implementation, on arrays of every form, length and alignment, has the bits of DigestOf, which hashes
// by the xxhash library.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/master_weights.h"
#include "tested_kernels.h"

namespace shardstep {
namespace {

constexpr int64_t kBlock = 1024;
constexpr int64_t kParameter = 0x0123456789;

// As the kinds of state need them: weights, fp32 arrays, bf16 weights as a master, a split master.
enum class Array { kBf16, kFp32, kWidened, kSplit };
constexpr Array kArrays[] = {Array::kBf16, Array::kFp32, Array::kWidened, Array::kSplit};

// Random bits, so with NaNs of all payloads, and some more of them.
class Values {
 public:
  Values(Array array, int64_t elements, int64_t misalignment_elements = 0, uint32_t seed = 1)
      : array_(array), elements_(elements), begin_(misalignment_elements) {
    std::mt19937 random(seed);
    const auto size = static_cast<size_t>(begin_ + elements);
    for (size_t i = 0; i < size; ++i) {
      const auto bits = static_cast<uint32_t>(random());
      fp32_.push_back(FloatFromBits(i % 97 == 5 ? bits | 0x7fc00000u : bits));
      bf16_.push_back({static_cast<uint16_t>(FloatBits(fp32_.back()) >> 16)});
      remainders_.push_back(static_cast<uint16_t>(random()));
    }
  }

  DigestArgs Args(int64_t begin_element, DigestSum* sum) const {
    const auto at = static_cast<size_t>(begin_);
    DigestArgs args = {.form = DigestForm::kWidened,
                       .values = bf16_.data() + at,
                       .parameter = kParameter,
                       .begin_element = begin_element,
                       .elements = elements_,
                       .sum = sum};
    if (array_ == Array::kBf16) args.form = DigestForm::kBf16;
    if (array_ == Array::kSplit) args.remainder = remainders_.data() + at;
    if (array_ == Array::kFp32) {
      args.form = DigestForm::kFp32;
      args.values = fp32_.data() + at;
    }
    return args;
  }

  Digest Expected(int64_t begin_element) const {
    std::vector<float> hashed;
    for (int64_t i = begin_; i < begin_ + elements_; ++i) {
      const auto at = static_cast<size_t>(i);
      const float joined = Join({.weight = bf16_[at], .remainder = remainders_[at]});
      hashed.push_back(array_ == Array::kFp32 ? fp32_[at] : array_ == Array::kSplit ? joined : ToFloat(bf16_[at]));
    }
    if (array_ != Array::kBf16) return DigestOf(kParameter, begin_element, absl::MakeConstSpan(hashed));
    return DigestOf(kParameter, begin_element,
                    absl::MakeConstSpan(bf16_).subspan(static_cast<size_t>(begin_), static_cast<size_t>(elements_)));
  }

 private:
  const Array array_;
  const int64_t elements_;
  const int64_t begin_;  // of the first in the vectors
  std::vector<float> fp32_;
  std::vector<Bf16> bf16_;
  std::vector<uint16_t> remainders_;
};

::testing::AssertionResult HasTheLibrarysBits(TestedKernels& tested, const Values& values, int64_t begin_element) {
  DigestSum sum;
  const absl::Status status = tested.Digest(values.Args(begin_element, &sum));
  if (!status.ok()) return ::testing::AssertionFailure() << status;
  if (ToDigest(sum) == values.Expected(begin_element)) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << ToDigest(sum).ToHex() << " is not " << values.Expected(begin_element).ToHex();
}

class DigestKernelTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<TestedKernels> tested_ = TestedKernels::Create(GetParam(), 2);
};
INSTANTIATE_TEST_SUITE_P(Targets, DigestKernelTest, ::testing::ValuesIn(TestedKernels::Names()),
                         [](const auto& target) { return target.param; });

TEST_P(DigestKernelTest, HasTheLibrarysBitsAtEveryLength) {
  for (const Array array : kArrays) {
    for (int64_t elements = 0; elements <= kBlock + 1; ++elements) {
      const Values values(array, elements, 0, static_cast<uint32_t>(elements));
      ASSERT_TRUE(HasTheLibrarysBits(*tested_, values, 5 * kBlock)) << static_cast<int>(array) << ", " << elements;
    }
  }
}

TEST_P(DigestKernelTest, HasTheLibrarysBitsOfManyBlocks) {
  for (const Array array : kArrays) {
    for (const int64_t elements : {7 * kBlock + 1023, 8 * kBlock, 8 * kBlock + 1, 33 * kBlock + 77, 300 * kBlock + 5}) {
      ASSERT_TRUE(HasTheLibrarysBits(*tested_, Values(array, elements), (int64_t{1} << 33) * kBlock))
          << static_cast<int>(array) << ", " << elements;
    }
  }
}

TEST_P(DigestKernelTest, HasTheLibrarysBitsAtAnyAlignment) {
  for (const Array array : kArrays) {
    for (int64_t shift = 0; shift <= 9; ++shift) {
      ASSERT_TRUE(HasTheLibrarysBits(*tested_, Values(array, 2 * kBlock + 300, shift), 0))
          << static_cast<int>(array) << ", " << shift;
    }
  }
}

TEST_P(DigestKernelTest, AddsToWhatIsThere) {
  const Values first(Array::kFp32, 3 * kBlock, 0, 7);
  const Values second(Array::kBf16, 99, 0, 8);
  Digest expected = first.Expected(0);
  expected += second.Expected(kBlock);
  expected += first.Expected(0);
  DigestSum sum;
  for (const DigestArgs& args : {first.Args(0, &sum), second.Args(kBlock, &sum), first.Args(0, &sum)}) {
    ASSERT_TRUE(tested_->Digest(args).ok());
  }
  EXPECT_EQ(ToDigest(sum), expected);
}

TEST(DigestKernelsTest, SameBitsInEveryOrderAndForAnyNumberOfBlocksAndThreads) {
  for (const Array array : kArrays) {
    const Values values(array, 200 * kBlock + 17);
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      for (const int blocks : {1, 2, 7, 1000}) {
        HostCuda cuda({.order_seed = seed, .filling_blocks = blocks});
        ASSERT_TRUE(HasTheLibrarysBits(cuda, values, 0)) << seed << ", " << blocks;
      }
    }
    for (const int threads : {1, 2, 3}) {
      ASSERT_TRUE(HasTheLibrarysBits(*TestedKernels::Create(RunnableTargets()[0], threads), values, 0)) << threads;
    }
  }
}

TEST(DigestKernelsTest, CarriesBetweenLimbsAreLookedAtInTheEnd) {
  DigestSum sum;
  Digest expected;
  std::mt19937_64 random(3);
  for (int i = 0; i < 1000; ++i) {
    const Digest one = {.low = random(), .high = random()};
    Add(one, &sum);
    expected += one;
  }
  EXPECT_EQ(ToDigest(sum), expected);
}

}  // namespace
}  // namespace shardstep
