#ifndef SHARDSTEP_PYTHON_NATIVE_STATUS_ERROR_H_
#define SHARDSTEP_PYTHON_NATIVE_STATUS_ERROR_H_

#include <nanobind/nanobind.h>

#include <utility>

#include "shardstep/comm/status.h"

namespace shardstep {

/// A status on its way into Python, where it becomes the exception that python/shardstep/_errors.py has for its code.
struct StatusError {
  absl::Status status;
};

inline void ThrowIfError(absl::Status status) {
  if (!status.ok()) throw StatusError{std::move(status)};
}

template <typename T>
T ValueOrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw StatusError{value.status()};
  return *std::move(value);
}

/// Once per module.
void RegisterStatusErrors();

}  // namespace shardstep

#endif  // SHARDSTEP_PYTHON_NATIVE_STATUS_ERROR_H_
