#ifndef SHARDSTEP_COMM_STAGED_STAGED_FAILURE_H_
#define SHARDSTEP_COMM_STAGED_STAGED_FAILURE_H_

#include <memory>
#include <vector>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/mutex.h"

namespace shardstep {

/// Why a staged communicator is dead: the first error of its work, or of the streams that carry it. Threads: any.
class StagedFailure : public StreamFailure {
 public:
  /// The first one wins.
  void Set(const absl::Status& status);
  /// Until Unwatch, an error of `stream` counts too; one that it has by then counts for good.
  void Watch(const CudaStream* stream);
  void Unwatch(const CudaStream* stream);
  absl::Status status() const override;

 private:
  mutable Mutex mutex_;
  mutable absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::vector<const CudaStream*> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STAGED_STAGED_FAILURE_H_
