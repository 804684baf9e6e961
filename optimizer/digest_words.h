#ifndef SHARDSTEP_OPTIMIZER_DIGEST_WORDS_H_
#define SHARDSTEP_OPTIMIZER_DIGEST_WORDS_H_

#include <cstdint>

/// What a launch of Digest is asked for and leaves, plain so that it can lie in any memory.

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

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_DIGEST_WORDS_H_
