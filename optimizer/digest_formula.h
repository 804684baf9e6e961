#ifndef SHARDSTEP_OPTIMIZER_DIGEST_FORMULA_H_
#define SHARDSTEP_OPTIMIZER_DIGEST_FORMULA_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/host_device.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/master_weights.h"

/// Numeric contract 6 as one text for the host and the device: XXH3-128 (xxHash's specification of XXH3, seed 0 and the
/// default secret) of one block of a digest. CPUs hash by the xxhash library, which judges this.

namespace shardstep {

/// 16 bytes of a message, in little-endian words.
struct DigestWords {
  uint64_t word[2];
};

SHARDSTEP_HOST_DEVICE inline uint32_t WithOneNan(uint32_t fp32_bits) {
  return (fp32_bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : fp32_bits;
}

/// The message of one block: parameter, number of the block, elements.
template <DigestForm kForm>
class DigestBlock {
 public:
  static constexpr int kPlaceBytes = 16;
  static constexpr int kElementBytes = kForm == DigestForm::kBf16 ? 2 : 4;

  /// `values`, and `remainder` if any, are of the block's first element.
  SHARDSTEP_HOST_DEVICE DigestBlock(int64_t parameter, int64_t block, const void* values, const uint16_t* remainder,
                                    int elements)
      : place_{{static_cast<uint64_t>(parameter), static_cast<uint64_t>(block)}},
        values_(values),
        remainder_(remainder),
        size_bytes_(kPlaceBytes + elements * kElementBytes) {}

  SHARDSTEP_HOST_DEVICE int size_bytes() const { return size_bytes_; }

  /// The 16 bytes from `offset` on, a multiple of an element's size.
  SHARDSTEP_HOST_DEVICE DigestWords Words(int offset) const {
    if (offset == 0) return place_;
    DigestWords words{};
    SHARDSTEP_UNROLL
    for (int i = 0; i < kPlaceBytes; i += kElementBytes) {
      words.word[i / 8] |= uint64_t{Element(offset + i)} << (i % 8 * 8);
    }
    return words;
  }
  /// Where they lie, and what they are hashed as, but for kWidened. `offset` is past the place.
  SHARDSTEP_HOST_DEVICE const void* At(int offset) const {
    return static_cast<const unsigned char*>(values_) + (offset - kPlaceBytes);
  }
  SHARDSTEP_HOST_DEVICE static DigestWords Hashed(const uint32_t (&bits)[4]) {
    DigestWords words{};
    SHARDSTEP_UNROLL
    for (int i = 0; i < 4; ++i) {
      words.word[i / 2] |= uint64_t{kForm == DigestForm::kFp32 ? WithOneNan(bits[i]) : bits[i]} << (i % 2 * 32);
    }
    return words;
  }

 private:
  SHARDSTEP_HOST_DEVICE uint32_t Element(int offset) const {
    if (offset < kPlaceBytes) {
      const uint64_t word = offset < 8 ? place_.word[0] : place_.word[1];
      return static_cast<uint32_t>(word >> (offset % 8 * 8)) & (kElementBytes == 2 ? 0xffffu : 0xffffffffu);
    }
    const int i = (offset - kPlaceBytes) / kElementBytes;
    const auto* const bf16 = static_cast<const Bf16*>(values_);
    if constexpr (kForm == DigestForm::kBf16) return bf16[i].bits;
    if constexpr (kForm == DigestForm::kFp32) return WithOneNan(FloatBits(static_cast<const float*>(values_)[i]));
    return WithOneNan(remainder_ == nullptr ? FloatBits(ToFloat(bf16[i]))
                                            : FloatBits(Join({.weight = bf16[i], .remainder = remainder_[i]})));
  }

  const DigestWords place_;
  const void* const values_;
  const uint16_t* const remainder_;
  const int size_bytes_;
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

/// XXH3-128 of messages of 17 bytes and more. Short ones are hashed at once. Long ones are read in stripes of 64 bytes,
/// of which a Quarter takes 16: it meets the others only in the end, so four threads can share the work.
class Xxh3 {
 public:
  static constexpr int kStripe = 64;

  SHARDSTEP_HOST_DEVICE static bool IsShort(int size) { return size <= 240; }
  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 OfShort(const Message& message) {
    return message.size_bytes() <= 128 ? OfUpTo128(message) : OfUpTo240(message);
  }

  /// Stripes of a long message before its last one, which ends where the message does.
  SHARDSTEP_HOST_DEVICE static int Stripes(int size) { return (size - 1) / kStripe; }
  class Quarter;
  /// Of a long message, from the sum of its quarters' parts.
  SHARDSTEP_HOST_DEVICE static Hash128 OfParts(const Hash128& sum, int size) {
    const auto length = static_cast<uint64_t>(size);
    return {Avalanche(length * kPrime1 + sum.low), Avalanche(~(length * kPrime2) + sum.high)};
  }

 private:
  static constexpr uint64_t kPrime32_1 = 0x9e3779b1u, kPrime32_2 = 0x85ebca77u, kPrime32_3 = 0xc2b2ae3du;
  static constexpr uint64_t kPrime1 = 0x9e3779b185ebca87u, kPrime2 = 0xc2b2ae3d27d4eb4fu, kPrime3 = 0x165667b19e3779f9u,
                            kPrime4 = 0x85ebca77c2b2ae63u, kPrime5 = 0x27d4eb2f165667c5u;
  static constexpr int kSecretBytes = 192, kRoundStripes = (kSecretBytes - kStripe) / 8;

  // The default secret from byte `offset` on.
  SHARDSTEP_HOST_DEVICE static uint64_t Secret(int offset) {
#ifdef __CUDA_ARCH__
    const uint64_t* const secret = kXxh3SecretOnDevice;
#else
    const uint64_t* const secret = kXxh3Secret;
#endif
    const int shift = offset % 8 * 8;
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
  SHARDSTEP_HOST_DEVICE static uint64_t Fold(const DigestWords& words, int secret) {
    return Fold(words.word[0] ^ Secret(secret), words.word[1] ^ Secret(secret + 8));
  }
  SHARDSTEP_HOST_DEVICE static uint64_t Avalanche(uint64_t h) {
    h = (h ^ h >> 37) * 0x165667919e3779f9u;
    return h ^ h >> 32;
  }

  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 Mix(const Hash128& sum, const Message& message, int first, int second,
                                           int secret) {
    const DigestWords a = message.Words(first);
    const DigestWords b = message.Words(second);
    return {(sum.low + Fold(a, secret)) ^ (b.word[0] + b.word[1]),
            (sum.high + Fold(b, secret + 16)) ^ (a.word[0] + a.word[1])};
  }
  SHARDSTEP_HOST_DEVICE static Hash128 Finish(const Hash128& sum, uint64_t size) {
    return {Avalanche(sum.low + sum.high), 0 - Avalanche(sum.low * kPrime1 + sum.high * kPrime4 + size * kPrime2)};
  }

  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 OfUpTo128(const Message& message) {
    const int size = message.size_bytes();
    Hash128 sum{static_cast<uint64_t>(size) * kPrime1, 0};
    SHARDSTEP_NO_UNROLL
    for (int i = (size - 1) / 32; i >= 0; --i) sum = Mix(sum, message, 16 * i, size - 16 * (i + 1), 32 * i);
    return Finish(sum, static_cast<uint64_t>(size));
  }

  template <typename Message>
  SHARDSTEP_HOST_DEVICE static Hash128 OfUpTo240(const Message& message) {
    constexpr int kStartOffset = 3, kLastOffset = 17, kSecretMinBytes = 136;
    const int size = message.size_bytes();
    Hash128 sum{static_cast<uint64_t>(size) * kPrime1, 0};
    SHARDSTEP_NO_UNROLL
    for (int end = 32; end <= size; end += 32) {
      const int secret = end < 160 ? end - 32 : kStartOffset + end - 160;
      sum = Mix(sum, message, end - 32, end - 16, secret);
      if (end == 128) sum = {Avalanche(sum.low), Avalanche(sum.high)};
    }
    sum = Mix(sum, message, size - 16, size - 32, kSecretMinBytes - kLastOffset - 16);
    return Finish(sum, static_cast<uint64_t>(size));
  }
};

/// The accumulators 2 q and 2 q + 1 of a long message, q = 0, ..., 3.
class Xxh3::Quarter {
 public:
  SHARDSTEP_HOST_DEVICE explicit Quarter(int q)
      : q_(q),
        sum_{{q == 0   ? kPrime32_3
              : q == 1 ? kPrime2
              : q == 2 ? kPrime4
                       : kPrime5,
              q == 0   ? kPrime1
              : q == 1 ? kPrime3
              : q == 2 ? kPrime32_2
                       : kPrime32_1}} {}

  /// Where its 16 bytes of a stripe begin.
  SHARDSTEP_HOST_DEVICE int Offset(int stripe) const { return stripe * kStripe + Begin(); }
  SHARDSTEP_HOST_DEVICE int LastOffset(int size) const { return size - kStripe + Begin(); }

  /// Stripes in their order.
  SHARDSTEP_HOST_DEVICE void Add(int stripe, const DigestWords& words) {
    Accumulate(words, stripe % kRoundStripes * 8);
    if (stripe % kRoundStripes == kRoundStripes - 1) Scramble();
  }
  SHARDSTEP_HOST_DEVICE void AddLast(const DigestWords& words) { Accumulate(words, kSecretBytes - kStripe - 7); }

  SHARDSTEP_HOST_DEVICE Hash128 Part() const {
    return {Fold(sum_, 11 + Begin()), Fold(sum_, kSecretBytes - kStripe - 11 + Begin())};
  }

 private:
  SHARDSTEP_HOST_DEVICE int Begin() const { return 16 * q_; }
  SHARDSTEP_HOST_DEVICE void Accumulate(const DigestWords& words, int secret) {
    SHARDSTEP_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint64_t key = words.word[i] ^ Secret(secret + Begin() + 8 * i);
      sum_.word[i] += words.word[i ^ 1] + (key & 0xffffffffu) * (key >> 32);
    }
  }
  SHARDSTEP_HOST_DEVICE void Scramble() {
    SHARDSTEP_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint64_t sum = sum_.word[i];
      sum_.word[i] = (sum ^ sum >> 47 ^ Secret(kSecretBytes - kStripe + Begin() + 8 * i)) * kPrime32_1;
    }
  }

  const int q_;
  DigestWords sum_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_DIGEST_FORMULA_H_
