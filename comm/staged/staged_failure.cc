#include "shardstep/comm/staged/staged_failure.h"

#include <algorithm>

namespace shardstep {

void StagedFailure::Set(const absl::Status& status) {
  const MutexLock lock(&mutex_);
  if (status_.ok()) status_ = status;
}

void StagedFailure::Watch(const CudaStream* stream) {
  const MutexLock lock(&mutex_);
  streams_.push_back(stream);
}

void StagedFailure::Unwatch(const CudaStream* stream) {
  Set(stream->status());
  const MutexLock lock(&mutex_);
  streams_.erase(std::remove(streams_.begin(), streams_.end(), stream), streams_.end());
}

absl::Status StagedFailure::status() const {
  const MutexLock lock(&mutex_);
  for (const CudaStream* const stream : streams_) {
    if (!status_.ok()) break;
    status_ = stream->status();
  }
  return status_;
}

}  // namespace shardstep
