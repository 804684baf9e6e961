#include "shardstep/tools/train/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "shardstep/tools/train/model_config.h"

namespace shardstep {
namespace {

template <typename Operand>
class MatmulTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(SetComputeThreads(1).ok()); }
};
using Operands = ::testing::Types<Bf16, float, double>;
TYPED_TEST_SUITE(MatmulTest, Operands);

template <typename Operand>
std::vector<Operand> Fill(int64_t count, uint64_t stream) {
  std::vector<Operand> values(count);
  for (int64_t i = 0; i < count; ++i) {
    // Multiples of 1/8 below 2: exact in bf16, and so are their products and sums in fp32.
    const double value = static_cast<double>(CounterRandom(1, stream, i) % 32) / 8 - 2;
    if constexpr (std::is_same_v<Operand, Bf16>) {
      values[i] = ToBf16(static_cast<float>(value));
    } else {
      values[i] = static_cast<Operand>(value);
    }
  }
  return values;
}

double Value(Bf16 x) { return ToFloat(x); }
double Value(double x) { return x; }

// Every stride pattern that the layers use; exact operands, so any order of sums gives the same bits.
TYPED_TEST(MatmulTest, ComputesEveryStridePatternExactly) {
  if (std::is_same_v<TypeParam, Bf16> && FastestMatmulRoute() != MatmulRoute::kBf16) return;
  constexpr int64_t kRows = 37;
  constexpr int64_t kColumns = 21;
  constexpr int64_t kInner = 50;
  constexpr int64_t kPadding = 6;
  MatmulCache<TypeParam> cache;
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      MatmulShape shape{.rows = kRows, .columns = kColumns, .inner = kInner, .c_row_stride = kColumns + kPadding};
      const int64_t a_stride = (transpose_a ? kRows : kInner) + kPadding;
      const int64_t b_stride = (transpose_b ? kInner : kColumns) + kPadding;
      shape.a_row_stride = transpose_a ? 1 : a_stride;
      shape.a_column_stride = transpose_a ? a_stride : 1;
      shape.b_row_stride = transpose_b ? 1 : b_stride;
      shape.b_column_stride = transpose_b ? b_stride : 1;
      const auto a = Fill<TypeParam>((transpose_a ? kInner : kRows) * a_stride, 1);
      const auto b = Fill<TypeParam>((transpose_b ? kColumns : kInner) * b_stride, 2);
      constexpr double kUntouched = 1234;
      std::vector<typename Matmul<TypeParam>::Result> c(kRows * shape.c_row_stride, kUntouched);
      const auto product = cache.Get(shape);
      ASSERT_TRUE(product.ok()) << product.status();
      ASSERT_TRUE((*product)->Run(a.data(), b.data(), c.data()).ok());
      for (int64_t i = 0; i < kRows; ++i) {
        for (int64_t j = 0; j < shape.c_row_stride; ++j) {
          double expected = j < kColumns ? 0 : kUntouched;
          for (int64_t k = 0; k < kInner && j < kColumns; ++k) {
            expected += Value(a[i * shape.a_row_stride + k * shape.a_column_stride]) *
                        Value(b[k * shape.b_row_stride + j * shape.b_column_stride]);
          }
          ASSERT_EQ(c[i * shape.c_row_stride + j], expected)
              << "[" << i << ", " << j << "] " << transpose_a << transpose_b;
        }
      }
    }
  }
}

TYPED_TEST(MatmulTest, OneProductPerShape) {
  if (std::is_same_v<TypeParam, Bf16> && FastestMatmulRoute() != MatmulRoute::kBf16) return;
  MatmulCache<TypeParam> cache;
  MatmulShape shape{.rows = 4, .columns = 8, .inner = 16, .a_row_stride = 16, .b_row_stride = 8, .c_row_stride = 8};
  const auto first = cache.Get(shape);
  EXPECT_EQ(*cache.Get(shape), *first);
  shape.c_row_stride = 9;
  EXPECT_NE(*cache.Get(shape), *first);
}

// bf16 operands, fp32 sums: an increment that bf16 cannot hold is not lost.
TEST(MatmulRouteTest, AccumulatesInFp32) {
  if (FastestMatmulRoute() != MatmulRoute::kBf16) return;
  constexpr int64_t kInner = 1024;
  MatmulCache<Bf16> cache;
  const auto product = cache.Get(
      {.rows = 1, .columns = 1, .inner = kInner, .a_row_stride = kInner, .b_row_stride = 1, .c_row_stride = 1});
  ASSERT_TRUE(product.ok());
  const std::vector<Bf16> ones(kInner, ToBf16(1.0f));
  std::vector<Bf16> values(kInner, ToBf16(1.0f));
  values[0] = ToBf16(4096.0f);
  float sum = 0;
  ASSERT_TRUE((*product)->Run(values.data(), ones.data(), &sum).ok());
  EXPECT_EQ(sum, 4096.0f + 1023.0f);
}

TEST(MatmulRouteTest, HasAName) {
  EXPECT_EQ(MatmulRouteName(MatmulRoute::kBf16), "bf16");
  EXPECT_EQ(MatmulRouteName(MatmulRoute::kFp32), "fp32");
}

TEST(MatmulRouteTest, RefusesNoThreads) {
  EXPECT_TRUE(SetComputeThreads(1).ok());
  EXPECT_THAT(SetComputeThreads(0).message(), ::testing::HasSubstr("compute_threads: 0"));
}

}  // namespace
}  // namespace shardstep
