#ifndef SHARDSTEP_COMM_STATUS_H_
#define SHARDSTEP_COMM_STATUS_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

/// Status codes mean the same everywhere in Shardstep; a program maps them to exit codes (tools/exit_code.h):
///   InvalidArgument      a value the caller or an options file gave; the message names the field.
///   FailedPrecondition   a call out of order, or ranks that disagree; the message names the call or both ranks.
///   DataLoss             bytes that fail verification; the message names file and chunk.
///   NotFound, PermissionDenied, ResourceExhausted   the operating system's refusal; the message names the path.
///   DeadlineExceeded     a wait passed its deadline; the message names operation, bucket, step and absent ranks.
///   Aborted              another rank, or Abort(), ended the job; the message names the rank and its reason, and
///                        CauseOf tells the code of that reason.
///   Internal             a broken invariant of Shardstep itself.

#define SHARDSTEP_RETURN_IF_ERROR(expr)      \
  do {                                       \
    absl::Status shardstep_status_ = (expr); \
    if (!shardstep_status_.ok()) {           \
      return shardstep_status_;              \
    }                                        \
  } while (false)

#define SHARDSTEP_CONCAT_INNER_(a, b) a##b
#define SHARDSTEP_CONCAT_(a, b) SHARDSTEP_CONCAT_INNER_(a, b)
#define SHARDSTEP_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr) \
  auto statusor = (expr);                                     \
  if (!statusor.ok()) {                                       \
    return std::move(statusor).status();                      \
  }                                                           \
  lhs = std::move(statusor).value()

/// SHARDSTEP_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or returns F's error.
#define SHARDSTEP_ASSIGN_OR_RETURN(lhs, expr) \
  SHARDSTEP_ASSIGN_OR_RETURN_IMPL_(SHARDSTEP_CONCAT_(shardstep_statusor_, __LINE__), lhs, expr)

namespace shardstep {

/// `status` with "`context`: " before its message and all its payloads; OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&annotated](absl::string_view type, const absl::Cord& payload) { annotated.SetPayload(type, payload); });
  return annotated;
}

/// Type of the payload that holds, in decimal, the code of the error that `status` is a consequence of.
inline constexpr absl::string_view kCausePayload = "shardstep/cause";

/// What `status` came from: for the Aborted that a peer gets, the code of the rank that failed; else its own code.
inline absl::StatusCode CauseOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kCausePayload);
  int code = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &code)) return status.code();
  const absl::StatusCode cause = absl::Status(static_cast<absl::StatusCode>(code), "").code();  // a known one
  return cause == absl::StatusCode::kOk ? status.code() : cause;
}

/// `status` such that CauseOf gives `cause`; an OK of either changes nothing.
inline absl::Status WithCause(absl::Status status, absl::StatusCode cause) {
  if (cause == absl::StatusCode::kOk || cause == CauseOf(status)) return status;
  status.SetPayload(kCausePayload, absl::Cord(absl::StrCat(static_cast<int>(cause))));
  return status;
}

/// What peers get when `rank` ends the job: Aborted "rank 2 `text`", whose cause is `code`.
inline absl::Status AbortedBy(int rank, absl::StatusCode code, absl::string_view text) {
  return WithCause(absl::AbortedError(absl::StrCat("rank ", rank, " ", text)), code);
}

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STATUS_H_
