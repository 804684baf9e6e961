#include "shardstep/optimizer/digest.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "absl/strings/str_format.h"

namespace shardstep {
namespace {

constexpr int64_t kBlock = 1024;

// (parameter, block, bytes) in one buffer, hashed at once.
template <typename T>
Digest HandMade(int64_t parameter, int64_t block, const std::vector<T>& values) {
  std::vector<unsigned char> bytes(16 + values.size() * sizeof(T));
  std::memcpy(bytes.data(), &parameter, 8);
  std::memcpy(bytes.data() + 8, &block, 8);
  std::memcpy(bytes.data() + 16, values.data(), values.size() * sizeof(T));
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {.low = hash.low64, .high = hash.high64};
}

std::vector<float> RandomFloats(int64_t elements) {
  std::mt19937 random(3);
  std::vector<float> values(elements);
  for (float& value : values) value = FloatFromBits(random() & 0xff7fffffu);
  return values;
}

TEST(DigestTest, IsXxh3OfPlaceAndBytes) {
  const std::vector<float> floats = RandomFloats(kBlock);
  EXPECT_EQ(DigestOf(7, 3 * kBlock, absl::MakeConstSpan(floats)), HandMade(7, 3, floats));
  const std::vector<float> few(floats.begin(), floats.begin() + 5);
  EXPECT_EQ(DigestOf(0, 0, absl::MakeConstSpan(few)), HandMade(0, 0, few));
  std::vector<Bf16> halves(kBlock - 1);
  for (size_t i = 0; i < halves.size(); ++i) halves[i].bits = static_cast<uint16_t>(i * 77);
  EXPECT_EQ(DigestOf(1, kBlock, absl::MakeConstSpan(halves)), HandMade(1, 1, halves));
  EXPECT_EQ(DigestOf(1, kBlock, absl::Span<const Bf16>()), Digest());
}

TEST(DigestTest, EveryNanOfFp32IsTheSame) {
  std::vector<float> values = RandomFloats(kBlock + 3);
  std::vector<float> others = values;
  values[5] = FloatFromBits(0x7f800001);
  values[kBlock + 1] = FloatFromBits(0xffffffff);
  others[5] = FloatFromBits(0xffc01234);
  others[kBlock + 1] = FloatFromBits(0x7fc00000);
  EXPECT_EQ(DigestOf(0, 0, absl::MakeConstSpan(values)), DigestOf(0, 0, absl::MakeConstSpan(others)));
  std::vector<float> canonical(values.begin(), values.begin() + kBlock);
  canonical[5] = FloatFromBits(0x7fc00000);
  EXPECT_EQ(DigestOf(0, 0, absl::MakeConstSpan(values).first(kBlock)), HandMade(0, 0, canonical));
  // Infinities and the sign of zero are told apart, and a bf16 NaN is taken as it is.
  others[5] = std::numeric_limits<float>::infinity();
  EXPECT_NE(DigestOf(0, 0, absl::MakeConstSpan(values)), DigestOf(0, 0, absl::MakeConstSpan(others)));
  EXPECT_NE(DigestOf(0, 0, std::vector<float>{0.0f}), DigestOf(0, 0, std::vector<float>{-0.0f}));
  EXPECT_NE(DigestOf(0, 0, std::vector<Bf16>{{0x7fc0}}), DigestOf(0, 0, std::vector<Bf16>{{0x7fc1}}));
}

TEST(DigestTest, SumsOfAnyShardingAreEqual) {
  const std::vector<float> values = RandomFloats(20 * kBlock + 11);
  const auto all = absl::MakeConstSpan(values);
  const Digest whole = DigestOf(2, 0, all);
  std::mt19937 random(4);
  for (int i = 0; i < 20; ++i) {
    std::vector<Digest> parts;
    for (int64_t begin = 0; begin < static_cast<int64_t>(values.size());) {
      const int64_t size = kBlock * (1 + random() % 6);
      parts.push_back(DigestOf(2, begin, all.subspan(begin, size)));
      begin += size;
    }
    std::shuffle(parts.begin(), parts.end(), random);
    Digest sum;
    for (const Digest& part : parts) sum += part;
    EXPECT_EQ(sum, whole);
  }
  EXPECT_NE(DigestOf(3, 0, all), whole);
  EXPECT_NE(DigestOf(2, kBlock, all), whole);
}

TEST(DigestTest, AddsModulo128Bits) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  Digest sum = {.low = kMax, .high = 5};
  sum += Digest{.low = 2, .high = 1};
  EXPECT_EQ(sum, (Digest{.low = 1, .high = 7}));
  sum += Digest{.low = kMax, .high = kMax - 7};
  EXPECT_EQ(sum, (Digest{.low = 0, .high = 0}));
  EXPECT_EQ((Digest{.low = 0xab, .high = 1}).ToHex(), "000000000000000100000000000000ab");
}

}  // namespace
}  // namespace shardstep
