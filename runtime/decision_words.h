#ifndef SHARDSTEP_RUNTIME_DECISION_WORDS_H_
#define SHARDSTEP_RUNTIME_DECISION_WORDS_H_

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "shardstep/comm/small_reduction.h"
#include "shardstep/optimizer/decision_formula.h"
#include "shardstep/optimizer/step_words.h"

namespace shardstep {

/// How the parts of a decision travel in one SmallReduction: a scan, values that all must have alike, an objection. Who
/// takes part has a number: its rank, or in a joint decision its seat.

inline constexpr int kMaxParticipants = 1 << kParticipantBits;
/// Of PutAgreed.
inline constexpr int kMaxAgreedFields = 30;

/// The part of one who has nothing to say but to have come. Scans are put and taken by decision_formula.h.
SmallReduction NeutralPart();

/// The first place that is not finite: of a slice if there is one, else of a sum.
struct FoundPlace {
  int64_t micro_batch = 0;
  int64_t global_element = 0;
  bool sum_overflow = false;
};
std::optional<FoundPlace> FirstPlace(const ScanResult& scan);

/// A value that all who take part must have alike.
struct AgreedField {
  const char* name;
  uint64_t value;
};
void PutAgreed(absl::Span<const AgreedField> fields, int participant, SmallReduction* part);

/// Why a step must not be taken although nothing is broken.
struct Objection {
  /// A gradient was marked ready in a micro-step of which its rank has no micro-batch.
  static constexpr int kMisplaced = 0xfe;

  int member = 0;     ///< the optimizer that objects, in a joint decision
  int what = 0;       ///< kMisplaced, or the index of the agreed field that differs
  int first = 0;      ///< who: number below kMaxParticipants
  int64_t other = 0;  ///< the other one, or of kMisplaced the micro-step; below 2^24
};
void PutObjection(const Objection& objection, SmallReduction* part);
/// The smallest objection that anybody put.
std::optional<Objection> TakeObjection(const SmallReduction& reduction);
/// Two of those who put `fields` agreed fields that differ in one, the first such field.
std::optional<Objection> FindDifference(int fields, const SmallReduction& reduction);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_DECISION_WORDS_H_
