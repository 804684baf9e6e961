// Errors of the C interface: from absl::Status and exceptions to codes and a message per thread.
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/c_interface.h"
#include "shardstep/runtime/version.h"

namespace shardstep {
namespace {

struct LastError {
  std::string message;
  const char* text = "";  // `message`, or what stands in for it when there is no memory
  shardstep_code cause = SHARDSTEP_OK;
};

thread_local LastError last_error;

constexpr char kOutOfMemory[] = "out of memory";

// The library gives no others; what it passes on from elsewhere may have them.
shardstep_code ToCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return SHARDSTEP_OK;
    case absl::StatusCode::kCancelled:
      return SHARDSTEP_CANCELLED;
    case absl::StatusCode::kInvalidArgument:
      return SHARDSTEP_INVALID_ARGUMENT;
    case absl::StatusCode::kDeadlineExceeded:
      return SHARDSTEP_DEADLINE_EXCEEDED;
    case absl::StatusCode::kNotFound:
      return SHARDSTEP_NOT_FOUND;
    case absl::StatusCode::kPermissionDenied:
      return SHARDSTEP_PERMISSION_DENIED;
    case absl::StatusCode::kResourceExhausted:
      return SHARDSTEP_RESOURCE_EXHAUSTED;
    case absl::StatusCode::kFailedPrecondition:
      return SHARDSTEP_FAILED_PRECONDITION;
    case absl::StatusCode::kAborted:
      return SHARDSTEP_ABORTED;
    case absl::StatusCode::kUnimplemented:
      return SHARDSTEP_UNIMPLEMENTED;
    case absl::StatusCode::kUnavailable:
      return SHARDSTEP_UNAVAILABLE;
    case absl::StatusCode::kDataLoss:
      return SHARDSTEP_DATA_LOSS;
    default:
      return SHARDSTEP_INTERNAL;
  }
}

shardstep_code ReportOutOfMemory() noexcept {
  last_error.text = kOutOfMemory;
  last_error.cause = SHARDSTEP_RESOURCE_EXHAUSTED;
  return SHARDSTEP_RESOURCE_EXHAUSTED;
}

}  // namespace

absl::Status CheckRequired(const char* call, std::initializer_list<Required> required) {
  for (const Required& pointer : required) {
    if (pointer.given) continue;
    return absl::InvalidArgumentError(absl::StrCat(call, ": ", pointer.argument, " = NULL: is needed"));
  }
  return absl::OkStatus();
}

absl::Status CheckUsable(const char* call, const shardstep_optimizer* optimizer) {
  SHARDSTEP_RETURN_IF_ERROR(CheckRequired(call, {{"optimizer", optimizer}}));
  if (!optimizer->broken) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(call, ": an exception ended an earlier call; the optimizer can only be destroyed"));
}

shardstep_code Report(const absl::Status& status) noexcept {
  if (status.ok()) return SHARDSTEP_OK;
  try {
    last_error.message = std::string(status.message());
    last_error.text = last_error.message.c_str();
    last_error.cause = ToCode(CauseOf(status));
    return ToCode(status.code());
  } catch (...) {
    return ReportOutOfMemory();
  }
}

shardstep_code ReportException(const char* call) noexcept {
  try {
    try {
      throw;
    } catch (const std::bad_alloc&) {
      return ReportOutOfMemory();
    } catch (const std::length_error&) {  // a container larger than memory can be
      return ReportOutOfMemory();
    } catch (const std::exception& error) {
      return Report(absl::InternalError(absl::StrCat(call, ": ", error.what())));
    } catch (...) {
      return Report(absl::InternalError(absl::StrCat(call, ": an exception of unknown type")));
    }
  } catch (...) {  // of the message
    return ReportOutOfMemory();
  }
}

void Break(const shardstep_optimizer& optimizer) noexcept {
  optimizer.broken = true;
  try {
    optimizer.optimizer->Abort(absl::InternalError("an exception ended a call"));
  } catch (...) {  // the others then wait until their deadlines
  }
}

}  // namespace shardstep

const char* shardstep_last_error(void) { return shardstep::last_error.text; }
shardstep_code shardstep_last_error_cause(void) { return shardstep::last_error.cause; }
const char* shardstep_version(void) { return shardstep::kVersion; }
