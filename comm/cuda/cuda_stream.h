#ifndef SHARDSTEP_COMM_CUDA_CUDA_STREAM_H_
#define SHARDSTEP_COMM_CUDA_CUDA_STREAM_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "shardstep/comm/cuda/cuda_api.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/stream.h"

namespace shardstep {

/// A device as one rank uses it: the calls, and the ordinal that they are for.
struct CudaDeviceRef {
  CudaApi* api = nullptr;
  int device = 0;
};

/// OK, or Internal "`what`: " and the runtime's text; ResourceExhausted when memory ran out.
absl::Status CudaStatus(CudaApi& api, int error, absl::string_view what);

/// A CUDA stream, owned or the caller's. Nothing blocks the host but Synchronize.
///
/// Events come from a ring made at creation. A ticket that is older than the ring waits for a later one of the same
/// stream, which was enqueued before the wait as well: later than needed, never too early, and never a cycle.
///
/// Inside a capture (CUDA graphs) what was recorded before it cannot be waited for, and afterwards what was recorded
/// inside: Settle, when everything enqueued so far is known to have finished, makes all tickets so far count as
/// reached.
///
/// Errors of calls are sticky, as everywhere (stream.h). The device must be current on no thread: every call sets it.
class CudaStream : public Stream {
 public:
  /// A stream of its own. Not the legacy default stream.
  static absl::StatusOr<std::unique_ptr<CudaStream>> Create(const CudaDeviceRef& device, absl::string_view name);
  /// A view of the caller's, which outlives this object. InvalidArgument: a null handle, which is the legacy default.
  static absl::StatusOr<std::unique_ptr<CudaStream>> View(const CudaDeviceRef& device, CudaStreamHandle handle,
                                                          absl::string_view name);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  Event Record() override;
  /// `event` of a CudaStream of the same device; of another kind of stream: Internal, sticky.
  void Wait(const Event& event) override;
  absl::Status Synchronize(const Event& event) override;
  absl::Status status() const override;
  void Call(absl::string_view name, std::function<void()> function) override;

  /// Enqueues by `enqueue(handle)`, which returns a cudaError_t. Its error, annotated with `what`, is sticky and
  /// returned; nothing is enqueued once the stream has failed.
  absl::Status Enqueue(absl::string_view what, const std::function<int(CudaStreamHandle)>& enqueue);
  /// The first error wins.
  void Fail(const absl::Status& status);
  /// See above.
  void Settle();
  /// Every ticket so far is known to be reached, without waiting.
  bool IsReached(const Event& event);

  const CudaDeviceRef& device() const { return device_; }
  CudaStreamHandle handle() const { return handle_; }

 private:
  CudaStream(const CudaDeviceRef& device, CudaStreamHandle handle, bool owned, absl::string_view name);
  absl::Status MakeEvents();
  static void RunCallback(void* data);

  const CudaDeviceRef device_;
  const CudaStreamHandle handle_;
  const bool owned_;
  const std::string name_;
  std::vector<CudaEventHandle> events_;  ///< the ring

  mutable Mutex mutex_;
  int64_t recorded_ ABSL_GUARDED_BY(mutex_) = 0;  ///< the ticket of the last Record
  int64_t settled_ ABSL_GUARDED_BY(mutex_) = 0;   ///< tickets up to this one count as reached
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  /// Functions of Call; kept until the stream goes, because a captured one is called with every launch of its graph.
  std::deque<std::function<void()>> functions_ ABSL_GUARDED_BY(mutex_);
};

/// `stream` as a CudaStream. InvalidArgument, naming `operation`, when it is of another kind.
absl::StatusOr<CudaStream*> AsCudaStream(Stream& stream, absl::string_view operation);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_CUDA_CUDA_STREAM_H_
