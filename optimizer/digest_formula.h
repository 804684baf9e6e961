#ifndef SHARDSTEP_OPTIMIZER_DIGEST_FORMULA_H_
#define SHARDSTEP_OPTIMIZER_DIGEST_FORMULA_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/master_weights.h"

/// Numeric contract 6 as one text for the host and the device: XXH3-128 (Collet, xxHash's specification of XXH3, seed 0
/// and the default secret) of one block of a digest. The host itself hashes by the xxhash library, which judges this.

namespace shardstep {

/// How elements are hashed.
enum class DigestForm {
  kBf16,    ///< bf16, as their bits
  kFp32,    ///< fp32; every NaN as 0x7fc00000
  kWidened  ///< bf16, as the fp32 values that they are, or with remainders that they are halves of
};

/// A sum of hashes mod 2^128, in limbs that 2^32 hashes can be added to in any order before carries are looked at.
struct DigestSum {
  uint64_t limb[4] = {};  ///< the lowest 32 bits of each hash first
};

/// The message of one block: parameter, number of the block, elements. Read in little-endian words.
template <DigestForm kForm>
class DigestBlock {
 public:
  /// `values`, and `remainder` if any, are of the block's first element.
  SHARDSTEP_HOST_DEVICE DigestBlock(int64_t parameter, int64_t block, const void* values, const uint16_t* remainder,
                                    int64_t elements)
      : parameter_(static_cast<uint64_t>(parameter)),
        block_(static_cast<uint64_t>(block)),
        values_(values),
        remainder_(remainder),
        size_bytes_(kPlaceBytes + elements * (kForm == DigestForm::kBf16 ? 2 : 4)) {}

  SHARDSTEP_HOST_DEVICE int64_t size_bytes() const { return size_bytes_; }

  /// The 8 bytes from `offset` on, which is a multiple of an element's size.
  SHARDSTEP_HOST_DEVICE uint64_t Word(int64_t offset) const {
    if (offset == 0) return parameter_;
    if (offset == 8) return block_;
    return Half(offset) | uint64_t{Half(offset + 4)} << 32;
  }

 private:
  static constexpr int64_t kPlaceBytes = 16;

  SHARDSTEP_HOST_DEVICE uint32_t Half(int64_t offset) const {
    if (offset >= kPlaceBytes) return Elements(offset - kPlaceBytes);
    if (offset == kPlaceBytes - 2) {  // of bf16 only
      return static_cast<uint32_t>(block_ >> 48) | Elements(0) << 16;
    }
    const uint64_t word = offset < 8 ? parameter_ : block_;
    return static_cast<uint32_t>(word >> (offset % 8 * 8)) | (offset == 6 ? static_cast<uint32_t>(block_) << 16 : 0);
  }
  // 4 bytes of elements: one of 4 bytes, or two of 2 as far as there are two.
  SHARDSTEP_HOST_DEVICE uint32_t Elements(int64_t offset) const {
    const auto* bf16 = static_cast<const Bf16*>(values_);
    if constexpr (kForm == DigestForm::kBf16) {
      const int64_t i = offset / 2;
      const bool is_last = kPlaceBytes + offset + 2 >= size_bytes_;
      return bf16[i].bits | (is_last ? 0 : uint32_t{bf16[i + 1].bits} << 16);
    }
    const int64_t i = offset / 4;
    uint32_t bits = 0;
    if (kForm == DigestForm::kFp32) {
      bits = static_cast<const uint32_t*>(values_)[i];
    } else if (remainder_ != nullptr) {
      bits = FloatBits(Join({.weight = bf16[i], .remainder = remainder_[i]}));
    } else {
      bits = uint32_t{bf16[i].bits} << 16;
    }
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : bits;
  }

  const uint64_t parameter_;
  const uint64_t block_;
  const void* const values_;
  const uint16_t* const remainder_;
  const int64_t size_bytes_;
};

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
};

// The default secret, little-endian words.
#define SHARDSTEP_XXH3_SECRET                                                                             \
  0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072, 0x78e5c0cc4ee679cb,     \
      0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0, 0xcb00c391bb52283c, 0xa32e531b8b65d088, \
      0x4ef90da297486471, 0xd8acdea946ef1938, 0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, \
      0x647378d9c97e9fc8, 0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3, \
      0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af
inline constexpr uint64_t kXxh3Secret[24] = {SHARDSTEP_XXH3_SECRET};
#ifdef __CUDACC__
// A device indexes what lies in its constant memory.
__constant__ const uint64_t kXxh3SecretOnDevice[24] = {SHARDSTEP_XXH3_SECRET};
#endif
#undef SHARDSTEP_XXH3_SECRET

/// XXH3-128 of messages of 17 bytes and more.
class Xxh3 {
 public:
  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 Of(const Message& message) {
    const int64_t size = message.size_bytes();
    if (size <= 128) return OfUpTo128(message);
    return size <= 240 ? OfUpTo240(message) : OfLong(message);
  }

 private:
  static constexpr uint64_t kPrime32_1 = 0x9e3779b1u, kPrime32_2 = 0x85ebca77u, kPrime32_3 = 0xc2b2ae3du;
  static constexpr uint64_t kPrime1 = 0x9e3779b185ebca87u, kPrime2 = 0xc2b2ae3d27d4eb4fu, kPrime3 = 0x165667b19e3779f9u,
                            kPrime4 = 0x85ebca77c2b2ae63u, kPrime5 = 0x27d4eb2f165667c5u;
  static constexpr int64_t kStripe = 64, kSecretBytes = 192, kBlockStripes = (kSecretBytes - kStripe) / 8;

  // The default secret from byte `offset` on.
  SHARDSTEP_HOST_DEVICE static uint64_t Secret(int64_t offset) {
#ifdef __CUDA_ARCH__
    const uint64_t* const secret = kXxh3SecretOnDevice;
#else
    const uint64_t* const secret = kXxh3Secret;
#endif
    const int shift = static_cast<int>(offset % 8) * 8;
    const uint64_t word = secret[offset / 8];
    return shift == 0 ? word : word >> shift | secret[offset / 8 + 1] << (64 - shift);
  }

  SHARDSTEP_HOST_DEVICE static uint64_t HighProduct(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
    return __umul64hi(a, b);
#else
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
#endif
  }
  SHARDSTEP_HOST_DEVICE static uint64_t Fold(uint64_t a, uint64_t b) { return (a * b) ^ HighProduct(a, b); }
  SHARDSTEP_HOST_DEVICE static uint64_t Avalanche(uint64_t h) {
    h = (h ^ h >> 37) * 0x165667919e3779f9u;
    return h ^ h >> 32;
  }

  template <typename Message>
  SHARDSTEP_HOST_DEVICE static uint64_t Mix16(const Message& message, int64_t at, int64_t secret) {
    return Fold(message.Word(at) ^ Secret(secret), message.Word(at + 8) ^ Secret(secret + 8));
  }
  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 Mix32(Hash128 sum, const Message& message, int64_t first, int64_t second,
                                             int64_t secret) {
    sum.low = (sum.low + Mix16(message, first, secret)) ^ (message.Word(second) + message.Word(second + 8));
    sum.high = (sum.high + Mix16(message, second, secret + 16)) ^ (message.Word(first) + message.Word(first + 8));
    return sum;
  }
  SHARDSTEP_HOST_DEVICE static Hash128 Finish(const Hash128& sum, uint64_t size) {
    return {Avalanche(sum.low + sum.high), 0 - Avalanche(sum.low * kPrime1 + sum.high * kPrime4 + size * kPrime2)};
  }

  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 OfUpTo128(const Message& message) {
    const int64_t size = message.size_bytes();
    Hash128 sum{static_cast<uint64_t>(size) * kPrime1, 0};
    SHARDSTEP_NO_UNROLL
    for (int64_t i = (size - 1) / 32; i >= 0; --i) sum = Mix32(sum, message, 16 * i, size - 16 * (i + 1), 32 * i);
    return Finish(sum, static_cast<uint64_t>(size));
  }

  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 OfUpTo240(const Message& message) {
    constexpr int64_t kStartOffset = 3, kLastOffset = 17, kSecretMinBytes = 136;
    const int64_t size = message.size_bytes();
    Hash128 sum{static_cast<uint64_t>(size) * kPrime1, 0};
    SHARDSTEP_NO_UNROLL
    for (int64_t end = 32; end <= size; end += 32) {
      const int64_t secret = end < 160 ? end - 32 : kStartOffset + end - 160;
      sum = Mix32(sum, message, end - 32, end - 16, secret);
      if (end == 128) sum = {Avalanche(sum.low), Avalanche(sum.high)};
    }
    sum = Mix32(sum, message, size - 16, size - 32, kSecretMinBytes - kLastOffset - 16);
    return Finish(sum, static_cast<uint64_t>(size));
  }

  struct Lanes {
    uint64_t lane[8];
  };
  template <typename Message>
  SHARDSTEP_HOST_DEVICE static void Accumulate(const Message& message, int64_t at, int64_t secret, Lanes* lanes) {
    SHARDSTEP_UNROLL
    for (int i = 0; i < 8; ++i) {
      const uint64_t word = message.Word(at + 8 * i);
      const uint64_t key = word ^ Secret(secret + 8 * i);
      lanes->lane[i ^ 1] += word;
      lanes->lane[i] += (key & 0xffffffffu) * (key >> 32);
    }
  }
  SHARDSTEP_HOST_DEVICE static void Scramble(Lanes* lanes) {
    SHARDSTEP_UNROLL
    for (int i = 0; i < 8; ++i) {
      const uint64_t lane = lanes->lane[i];
      lanes->lane[i] = (lane ^ lane >> 47 ^ Secret(kSecretBytes - kStripe + 8 * i)) * kPrime32_1;
    }
  }
  SHARDSTEP_HOST_DEVICE static uint64_t Merge(const Lanes& lanes, int64_t secret, uint64_t start) {
    SHARDSTEP_UNROLL
    for (int i = 0; i < 4; ++i) {
      start += Fold(lanes.lane[2 * i] ^ Secret(secret + 16 * i), lanes.lane[2 * i + 1] ^ Secret(secret + 16 * i + 8));
    }
    return Avalanche(start);
  }

  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 OfLong(const Message& message) {
    const int64_t size = message.size_bytes();
    Lanes lanes{{kPrime32_3, kPrime1, kPrime2, kPrime3, kPrime4, kPrime32_2, kPrime5, kPrime32_1}};
    const int64_t stripes = (size - 1) / kStripe;
    SHARDSTEP_NO_UNROLL
    for (int64_t n = 0; n < stripes; ++n) {
      Accumulate(message, n * kStripe, n % kBlockStripes * 8, &lanes);
      if (n % kBlockStripes == kBlockStripes - 1) Scramble(&lanes);
    }
    Accumulate(message, size - kStripe, kSecretBytes - kStripe - 7, &lanes);
    const uint64_t length = static_cast<uint64_t>(size);
    return {Merge(lanes, 11, length * kPrime1), Merge(lanes, kSecretBytes - kStripe - 11, ~(length * kPrime2))};
  }
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_DIGEST_FORMULA_H_
