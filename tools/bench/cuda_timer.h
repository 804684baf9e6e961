#ifndef SHARDSTEP_TOOLS_BENCH_CUDA_TIMER_H_
#define SHARDSTEP_TOOLS_BENCH_CUDA_TIMER_H_

#include <memory>

#include "absl/functional/function_ref.h"
#include "shardstep/comm/cuda/cuda_stream.h"

namespace shardstep {

/// What work takes on a CUDA stream, by the device's own clock.
class CudaTimer {
 public:
  /// Of `stream`, which outlives it.
  static absl::StatusOr<std::unique_ptr<CudaTimer>> Create(CudaStream& stream);
  ~CudaTimer();
  CudaTimer(const CudaTimer&) = delete;
  CudaTimer& operator=(const CudaTimer&) = delete;

  /// Marks the stream, enqueues by `enqueue`, and marks it again. Blocks nothing.
  absl::Status Enclose(absl::FunctionRef<absl::Status()> enqueue);
  /// Waits for the second mark of the last Enclose: milliseconds between both.
  absl::StatusOr<double> Await();
  /// Both of them.
  absl::StatusOr<double> Time(absl::FunctionRef<absl::Status()> enqueue);

 private:
  explicit CudaTimer(CudaStream& stream) : stream_(stream) {}
  absl::Status Mark(CudaEventHandle event);

  CudaStream& stream_;
  CudaEventHandle begin_ = nullptr;
  CudaEventHandle end_ = nullptr;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_CUDA_TIMER_H_
