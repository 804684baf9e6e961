// The shared text of the hash, judged by the xxhash library.
#include "shardstep/optimizer/digest_formula.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "shardstep/optimizer/digest.h"

namespace shardstep {
namespace {

constexpr int64_t kParameter = 0x123456789abcdef0;
constexpr int64_t kBlock = 0x0fedcba987654321;

Hash128 ByLibrary(const void* elements, size_t size_bytes) {
  std::vector<unsigned char> message(16 + size_bytes);
  std::memcpy(message.data(), &kParameter, 8);
  std::memcpy(message.data() + 8, &kBlock, 8);
  std::memcpy(message.data() + 16, elements, size_bytes);
  const XXH128_hash_t hash = XXH3_128bits(message.data(), message.size());
  return {hash.low64, hash.high64};
}

template <DigestForm kForm>
Hash128 ByFormula(const void* values, const uint16_t* remainder, size_t elements) {
  const DigestBlock<kForm> message(kParameter, kBlock, values, remainder, static_cast<int>(elements));
  const int size = message.size_bytes();
  if (Xxh3::IsShort(size)) return Xxh3::OfShort(message);
  Hash128 sum;
  for (int q = 0; q < 4; ++q) {
    Xxh3::Quarter quarter(q);
    for (int stripe = 0; stripe < Xxh3::Stripes(size); ++stripe) {
      quarter.Add(stripe, message.Words(quarter.Offset(stripe)));
    }
    quarter.AddLast(message.Words(quarter.LastOffset(size)));
    sum.low += quarter.Part().low;
    sum.high += quarter.Part().high;
  }
  return Xxh3::OfParts(sum, size);
}

std::vector<uint16_t> RandomHalves(size_t count) {
  std::mt19937 random(5);
  std::vector<uint16_t> halves(count);
  for (uint16_t& half : halves) half = static_cast<uint16_t>(random());
  return halves;
}

#define EXPECT_SAME(a, b)             \
  do {                                \
    const Hash128 left = (a);         \
    const Hash128 right = (b);        \
    EXPECT_EQ(left.low, right.low);   \
    EXPECT_EQ(left.high, right.high); \
  } while (false)

TEST(DigestFormula, IsXxh3AtEveryNumberOfBf16Elements) {
  const std::vector<uint16_t> values = RandomHalves(1024);
  for (size_t elements = 1; elements <= values.size(); ++elements) {
    SCOPED_TRACE(elements);
    EXPECT_SAME(ByFormula<DigestForm::kBf16>(values.data(), nullptr, elements), ByLibrary(values.data(), 2 * elements));
  }
}

TEST(DigestFormula, IsXxh3AtEveryNumberOfFp32ElementsWithNansAlike) {
  std::mt19937 random(6);
  std::vector<uint32_t> values(1024), canonical;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint32_t>(random());
    if (i % 7 == 3) values[i] |= 0x7fc00001u;
    canonical.push_back((values[i] & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : values[i]);
  }
  for (size_t elements = 1; elements <= values.size(); ++elements) {
    SCOPED_TRACE(elements);
    EXPECT_SAME(ByFormula<DigestForm::kFp32>(values.data(), nullptr, elements),
                ByLibrary(canonical.data(), 4 * elements));
  }
}

TEST(DigestFormula, WidensBf16AndJoinsHalves) {
  const std::vector<uint16_t> values = RandomHalves(1000);
  std::vector<uint16_t> remainders = RandomHalves(1000);
  std::reverse(remainders.begin(), remainders.end());
  std::vector<uint32_t> widened, joined;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto canonical = [](uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits; };
    widened.push_back(canonical(uint32_t{values[i]} << 16));
    joined.push_back(canonical(FloatBits(Join({.weight = {values[i]}, .remainder = remainders[i]}))));
  }
  EXPECT_SAME(ByFormula<DigestForm::kWidened>(values.data(), nullptr, 1000), ByLibrary(widened.data(), 4000));
  EXPECT_SAME(ByFormula<DigestForm::kWidened>(values.data(), remainders.data(), 1000), ByLibrary(joined.data(), 4000));
}

}  // namespace
}  // namespace shardstep
