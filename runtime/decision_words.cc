#include "shardstep/runtime/decision_words.h"

#include <algorithm>

#include "shardstep/optimizer/exact_sum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace shardstep {
namespace {

static_assert(kAgreedWords + 2 * kMaxAgreedFields <= SmallReduction::kMinima);
static_assert(ExactSum::kLimbs <= SmallReduction::kArrivals);

constexpr uint64_t kParticipantMask = kMaxParticipants - 1;
uint64_t HashOf(uint64_t value) { return XXH3_64bits(&value, sizeof(value)) & kAgreedHashMask; }
uint64_t Word(uint64_t hash, int participant) { return hash << kParticipantBits | static_cast<uint64_t>(participant); }

}  // namespace

SmallReduction NeutralPart() {
  SmallReduction part;
  part.minima.fill(kNowhere);
  part.sums[SmallReduction::kArrivals] = 1;
  return part;
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
  int word = kAgreedWords;
  for (const AgreedField& field : fields) {
    const uint64_t hash = HashOf(field.value);
    part->minima[word++] = Word(hash, participant);
    part->minima[word++] = Word(~hash & kAgreedHashMask, participant);
  }
}

void PutObjection(const Objection& objection, SmallReduction* part) {
  part->minima[kObjectionWord] = static_cast<uint64_t>(objection.member) << 48 |
                                 static_cast<uint64_t>(objection.what) << 40 |
                                 static_cast<uint64_t>(objection.first) << 24 | static_cast<uint64_t>(objection.other);
}

std::optional<Objection> TakeObjection(const SmallReduction& reduction) {
  const uint64_t word = reduction.minima[kObjectionWord];
  if (word == kNowhere) return std::nullopt;
  return Objection{.member = static_cast<int>(word >> 48),
                   .what = static_cast<int>(word >> 40 & 0xff),
                   .first = static_cast<int>(word >> 24 & kParticipantMask),
                   .other = static_cast<int64_t>(word & 0xffffff)};
}

std::optional<Objection> FindDifference(int fields, const SmallReduction& reduction) {
  for (int i = 0; i < fields; ++i) {
    if (!FieldDiffers(reduction, i)) continue;
    return Objection{.what = i,
                     .first = static_cast<int>(reduction.minima[kAgreedWords + 2 * i] & kParticipantMask),
                     .other = static_cast<int64_t>(reduction.minima[kAgreedWords + 2 * i + 1] & kParticipantMask)};
  }
  return std::nullopt;
}

}  // namespace shardstep
