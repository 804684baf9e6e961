#ifndef SHARDSTEP_RUNTIME_C_INTERFACE_H_
#define SHARDSTEP_RUNTIME_C_INTERFACE_H_

/// What the sources of the C interface (shardstep.h) have in common: the object behind a handle, and the boundary that
/// every call passes.

#include <atomic>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>

#include "shardstep/comm/status.h"
#include "shardstep/runtime/job.h"
#include "shardstep/runtime/options.h"
#include "shardstep/runtime/sharded_optimizer.h"
#include "shardstep/runtime/shardstep.h"
#include "shardstep/runtime/step_record.h"

struct shardstep_optimizer {
  shardstep::OptimizerOptions options;
  shardstep::Job job;
  /// What the communicator of a joint decision meets over, which lives as long as the last of those who decide.
  std::shared_ptr<shardstep::Job> decision;
  std::unique_ptr<shardstep::ShardedOptimizer> optimizer;  ///< goes before the jobs
  /// An exception has left a call in the middle: nothing is known of what is above, but that it can be destroyed.
  mutable std::atomic<bool> broken = false;

  /// What calls gave the caller to read, until the next one.
  std::string wire;
  std::optional<shardstep::StepRecord> record;
  std::string record_bytes;
  std::string why_skipped;
  std::string caller_state;
  std::string warnings;
};

namespace shardstep {

/// An argument that must not be NULL.
struct Required {
  template <typename T>
  Required(const char* name, T* pointer) : argument(name), given(pointer != nullptr) {}

  const char* argument;
  bool given;
};

/// InvalidArgument names `call` and the first one that is NULL.
absl::Status CheckRequired(const char* call, std::initializer_list<Required> required);

/// The same for the optimizer that `call` is made with; FailedPrecondition: it is broken.
absl::Status CheckUsable(const char* call, const shardstep_optimizer* optimizer);

/// What a call returns for `status`, which shardstep_last_error then tells.
shardstep_code Report(const absl::Status& status) noexcept;

/// The same for the exception that is being handled.
shardstep_code ReportException(const char* call) noexcept;

/// `optimizer` is broken from now on. Ends the job, so that no other rank waits for this one.
void Break(const shardstep_optimizer& optimizer) noexcept;

/// The boundary: what the function `call` of the C interface returns for `body`, which returns absl::Status and runs
/// when nothing that is required is NULL. Lets no exception through.
template <typename Body>
shardstep_code Guard(const char* call, std::initializer_list<Required> required, const Body& body) noexcept {
  try {
    absl::Status status = CheckRequired(call, required);
    if (status.ok()) status = body();
    return Report(status);
  } catch (...) {
    return ReportException(call);
  }
}

/// The boundary of a call with `optimizer`.
template <typename Body>
shardstep_code Guard(const char* call, const shardstep_optimizer* optimizer, std::initializer_list<Required> required,
                     const Body& body) noexcept {
  return Guard(call, {}, [&] {
    absl::Status status = CheckUsable(call, optimizer);
    if (status.ok()) status = CheckRequired(call, required);
    if (!status.ok()) return status;
    try {
      return absl::Status(body());
    } catch (...) {
      Break(*optimizer);
      throw;
    }
  });
}

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_C_INTERFACE_H_
