#include "shardstep/optimizer/digest.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "absl/strings/str_format.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/shard_layout.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shardstep {
namespace {

static_assert(std::endian::native == std::endian::little, "blocks are hashed as they lie in memory");

constexpr int64_t kBlock = ShardLayout::kBlockElements;
constexpr uint32_t kCanonicalNan = 0x7fc00000;

// The bytes to hash of one block; the result is valid until `scratch` changes.
absl::Span<const Bf16> Hashable(absl::Span<const Bf16> block, std::array<uint32_t, kBlock>* /*scratch*/) {
  return block;
}
absl::Span<const uint32_t> Hashable(absl::Span<const float> block, std::array<uint32_t, kBlock>* scratch) {
  for (size_t i = 0; i < block.size(); ++i) {
    const uint32_t bits = FloatBits(block[i]);
    (*scratch)[i] = (bits & 0x7fffffffu) > 0x7f800000u ? kCanonicalNan : bits;
  }
  return absl::MakeConstSpan(scratch->data(), block.size());
}

template <typename T>
Digest DigestOfBlocks(int64_t parameter, int64_t begin, absl::Span<const T> values) {
  Digest sum;
  std::array<uint32_t, kBlock> scratch;
  XXH3_state_t state;
  for (size_t i = 0; i < values.size(); i += kBlock) {
    const auto bytes = Hashable(values.subspan(i, kBlock), &scratch);
    const std::array<int64_t, 2> place = {parameter, (begin + static_cast<int64_t>(i)) / kBlock};
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, place.data(), sizeof(place));
    XXH3_128bits_update(&state, bytes.data(), bytes.size() * sizeof(bytes[0]));
    const XXH128_hash_t hash = XXH3_128bits_digest(&state);
    sum += Digest{.low = hash.low64, .high = hash.high64};
  }
  return sum;
}

}  // namespace

Digest& Digest::operator+=(const Digest& other) {
  low += other.low;
  high += other.high + (low < other.low ? 1 : 0);
  return *this;
}

Digest ToDigest(const DigestSum& sum) {
  Digest total;
  for (int i = 0; i < 4; ++i) {
    // What limb i is worth: 2^(32 i), of which the upper half of a limb may belong to the next 64 bits.
    const uint64_t limb = sum.limb[i];
    const Digest worth = i == 0   ? Digest{.low = limb}
                         : i == 1 ? Digest{.low = limb << 32, .high = limb >> 32}
                         : i == 2 ? Digest{.high = limb}
                                  : Digest{.high = limb << 32};
    total += worth;
  }
  return total;
}

void Add(const Digest& digest, DigestSum* sum) {
  sum->limb[0] += digest.low & 0xffffffffu;
  sum->limb[1] += digest.low >> 32;
  sum->limb[2] += digest.high & 0xffffffffu;
  sum->limb[3] += digest.high >> 32;
}

std::string Digest::ToHex() const { return absl::StrFormat("%016x%016x", high, low); }

Digest DigestOf(int64_t parameter, int64_t begin, absl::Span<const Bf16> values) {
  return DigestOfBlocks(parameter, begin, values);
}

Digest DigestOf(int64_t parameter, int64_t begin, absl::Span<const float> values) {
  return DigestOfBlocks(parameter, begin, values);
}

}  // namespace shardstep
