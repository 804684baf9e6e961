#include "shardstep/runtime/decision_words.h"

#include <algorithm>

#include "shardstep/optimizer/exact_sum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shardstep {
namespace {

// Words of SmallReduction::minima. An agreed field takes two: the smallest and the largest value.
enum MinimaWord {
  kFirstNonFinite,
  kFirstOverflow,
  kComplementOfMaxAbs,
  kObjection,
  kFields,
};
static_assert(kFields + 2 * kMaxAgreedFields <= SmallReduction::kMinima);

// 48 bits of a value's hash over the 16 bits of who has it: minima of this word and of its complement name two that
// differ, if any do.
constexpr int kParticipantBits = 16;
static_assert(kMaxParticipants == 1 << kParticipantBits);
constexpr uint64_t kParticipantMask = kMaxParticipants - 1;
constexpr uint64_t kHashMask = (uint64_t{1} << 48) - 1;
uint64_t HashOf(uint64_t value) { return XXH3_64bits(&value, sizeof(value)) & kHashMask; }
uint64_t Word(uint64_t hash, int participant) { return hash << kParticipantBits | static_cast<uint64_t>(participant); }

}  // namespace

SmallReduction NeutralPart() {
  SmallReduction part;
  part.minima.fill(kNowhere);
  return part;
}

void PutScan(const ScanResult& scan, SmallReduction* part) {
  ExactSum sum = scan.squared_norm;
  sum.Normalize();
  std::copy(sum.limbs().begin(), sum.limbs().end(), part->sums.begin());
  part->minima[kFirstNonFinite] = scan.first_nonfinite;
  part->minima[kFirstOverflow] = scan.first_overflow;
  part->minima[kComplementOfMaxAbs] = ~uint64_t{scan.max_abs_bits};
}

ScanResult TakeScan(const SmallReduction& reduction) {
  ScanResult scan;
  std::copy_n(reduction.sums.begin(), ExactSum::kLimbs, scan.squared_norm.limbs().begin());
  scan.max_abs_bits = static_cast<uint32_t>(~reduction.minima[kComplementOfMaxAbs]);
  scan.first_nonfinite = reduction.minima[kFirstNonFinite];
  scan.first_overflow = reduction.minima[kFirstOverflow];
  return scan;
}

std::optional<FoundPlace> FirstPlace(const ScanResult& scan) {
  const bool overflow = scan.first_nonfinite == kNowhere;
  const GradientPlace place = overflow ? scan.first_overflow : scan.first_nonfinite;
  if (place == kNowhere) return std::nullopt;
  return FoundPlace{.micro_batch = static_cast<int64_t>(place >> 40),
                    .global_element = static_cast<int64_t>(place & ((uint64_t{1} << 40) - 1)),
                    .sum_overflow = overflow};
}

void PutAgreed(absl::Span<const AgreedField> fields, int participant, SmallReduction* part) {
  int word = kFields;
  for (const AgreedField& field : fields) {
    const uint64_t hash = HashOf(field.value);
    part->minima[word++] = Word(hash, participant);
    part->minima[word++] = Word(~hash & kHashMask, participant);
  }
}

void PutObjection(const Objection& objection, SmallReduction* part) {
  part->minima[kObjection] = static_cast<uint64_t>(objection.member) << 48 |
                             static_cast<uint64_t>(objection.what) << 40 |
                             static_cast<uint64_t>(objection.first) << 24 | static_cast<uint64_t>(objection.other);
}

std::optional<Objection> TakeObjection(const SmallReduction& reduction) {
  const uint64_t word = reduction.minima[kObjection];
  if (word == kNowhere) return std::nullopt;
  return Objection{.member = static_cast<int>(word >> 48),
                   .what = static_cast<int>(word >> 40 & 0xff),
                   .first = static_cast<int>(word >> 24 & kParticipantMask),
                   .other = static_cast<int64_t>(word & 0xffffff)};
}

std::optional<Objection> FindDifference(int fields, const SmallReduction& reduction) {
  for (int i = 0; i < fields; ++i) {
    const uint64_t low = reduction.minima[kFields + 2 * i];
    const uint64_t high = reduction.minima[kFields + 2 * i + 1];
    if (low >> kParticipantBits == (~high >> kParticipantBits & kHashMask)) continue;
    return Objection{.what = i,
                     .first = static_cast<int>(low & kParticipantMask),
                     .other = static_cast<int64_t>(high & kParticipantMask)};
  }
  return std::nullopt;
}

}  // namespace shardstep
