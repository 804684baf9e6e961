#ifndef SHARDSTEP_COMM_STATUS_H_
#define SHARDSTEP_COMM_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

/// Status codes mean the same everywhere in Shardstep; a program maps them to exit codes (tools/exit_code.h):
///   InvalidArgument      a value the caller or an options file gave; the message names the field.
///   FailedPrecondition   a call out of order, or ranks that disagree; the message names the call or both ranks.
///   DataLoss             bytes that fail verification; the message names file and chunk.
///   NotFound, PermissionDenied, ResourceExhausted   the operating system's refusal; the message names the path.
///   DeadlineExceeded     a wait passed its deadline; the message names operation, bucket, step and absent ranks.
///   Aborted              another rank, or Abort(), ended the job; the message names the rank and its reason.
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

/// `status` with "`context`: " before its message; OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STATUS_H_
