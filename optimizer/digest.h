#ifndef SHARDSTEP_OPTIMIZER_DIGEST_H_
#define SHARDSTEP_OPTIMIZER_DIGEST_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "shardstep/comm/bf16.h"

namespace shardstep {

struct DigestSum;  // digest_words.h

/// Sum mod 2^128 of the XXH3-128 of every block of 1024 logical elements (numeric contract 6). Can be summed from
/// shards in any order.
struct Digest {
  uint64_t low = 0;
  uint64_t high = 0;

  Digest& operator+=(const Digest& other);
  bool operator==(const Digest&) const = default;
  /// 32 hexadecimal digits.
  std::string ToHex() const;
};

/// Carries propagated.
Digest ToDigest(const DigestSum& sum);
/// `*sum` and `digest`, together.
void Add(const Digest& digest, DigestSum* sum);

/// The digest of elements [begin, begin + values.size()) of parameter `parameter`. `begin` is a multiple of 1024 and
/// the range ends at one or at the parameter's end. Hashed per block: (int64 parameter, int64 block, little-endian
/// bytes). fp32: every NaN is read as 0x7fc00000.
Digest DigestOf(int64_t parameter, int64_t begin, absl::Span<const Bf16> values);
Digest DigestOf(int64_t parameter, int64_t begin, absl::Span<const float> values);

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_DIGEST_H_
