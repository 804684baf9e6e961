#include "shardstep/tools/exit_code.h"

namespace shardstep {

ExitCode ExitCodeOf(const absl::Status& status, Phase phase) {
  switch (CauseOf(status)) {
    case absl::StatusCode::kOk:
      return ExitCode::kOk;
    case absl::StatusCode::kInvalidArgument:
      if (phase == Phase::kCommandLine) return ExitCode::kUsage;
      return phase == Phase::kData ? ExitCode::kBadData : ExitCode::kConfiguration;
    case absl::StatusCode::kFailedPrecondition:
      // Before the first step ranks differ in what they were given; later a call came out of order.
      return phase == Phase::kRun ? ExitCode::kInternal : ExitCode::kConfiguration;
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kOutOfRange:
      return ExitCode::kBadData;
    case absl::StatusCode::kNotFound:
      return phase == Phase::kData ? ExitCode::kBadData : ExitCode::kIo;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnknown:  // what Abseil makes of EIO
      return ExitCode::kIo;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnavailable:
      return ExitCode::kRetryable;
    default:
      return ExitCode::kInternal;
  }
}

}  // namespace shardstep
