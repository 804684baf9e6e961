#ifndef SHARDSTEP_COMM_CUDA_CUDA_STREAM_H_
#define SHARDSTEP_COMM_CUDA_CUDA_STREAM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "shardstep/comm/cuda/cuda_api.h"
#include "shardstep/comm/cuda/stream_clock.h"
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
/// Makes `device` current on the calling thread.
absl::Status MakeCurrent(const CudaDeviceRef& device);

/// Why what is on some streams is not to be relied upon: of somebody whose work they carry. Threads: any.
class StreamFailure {
 public:
  virtual ~StreamFailure() = default;
  /// OK until then, and the same error ever after.
  virtual absl::Status status() const = 0;
};

/// A point that a stream has come to, and what it had come after by then. Default: a point before everything.
struct StreamPoint {
  StreamClock::Identity stream;
  int64_t position = 0;
  StreamClock clock;
};

/// A CUDA stream, owned or the caller's. Nothing blocks the host but Synchronize, and the destructor after a Call.
///
/// Events come from a ring made at creation. A ticket that is older than the ring waits for a later one of the same
/// stream, which was enqueued before the wait as well: later than needed, never too early, and never a cycle.
///
/// A wait for what the stream comes after already, because it has waited for that or for something that had, is left
/// out.
///
/// Inside a capture (CUDA graphs) what was recorded before it cannot be waited for, and afterwards what was recorded
/// inside: Settle, when everything enqueued so far is known to have finished, makes all tickets so far count as
/// reached. A graph with a Call in it must not be launched once its stream is gone.
///
/// Errors of calls are sticky, as everywhere (stream.h); a Wait takes over the error that the other stream has by then.
/// The device need not be current: every call makes it so on its thread, and leaves it.
class CudaStream : public Stream {
 public:
  static constexpr int kEvents = 1024;  ///< of the ring

  /// A stream of its own. Not the legacy default stream.
  static absl::StatusOr<std::unique_ptr<CudaStream>> Create(const CudaDeviceRef& device, absl::string_view name);
  /// A view of the caller's, which outlives this object and captures nothing at the moment. InvalidArgument: the legacy
  /// default stream (null, cudaStreamLegacy), cudaStreamPerThread, which is another one on each thread, or a stream
  /// that is not of `device`.
  static absl::StatusOr<std::unique_ptr<CudaStream>> View(const CudaDeviceRef& device, CudaStreamHandle handle,
                                                          absl::string_view name);
  /// Waits for functions of Call that have not been called; nothing else.
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  Event Record() override;
  /// `event` of a CudaStream of the same device; of another kind of stream: Internal, sticky.
  void Wait(const Event& event) override;
  /// InvalidArgument, not sticky, when `event` is of another stream.
  absl::Status Synchronize(const Event& event) override;
  absl::Status status() const override;
  void Call(absl::string_view name, std::function<void()> function) override;

  /// Enqueues by `enqueue(handle)`, which returns a cudaError_t. Its error, annotated with `what`, is sticky and
  /// returned; nothing is enqueued once the stream has failed.
  absl::Status Enqueue(absl::string_view what, const std::function<int(CudaStreamHandle)>& enqueue);
  /// The first error wins. Any thread.
  void Fail(const absl::Status& status);
  /// From now on an error of `failure` is this stream's too, unless it has one of its own; so neither needs to know
  /// whether the other is still there. What is enqueued goes on, functions of Call included. Once per failure is
  /// enough.
  void FailsWith(std::shared_ptr<const StreamFailure> failure);
  /// For an event of somebody else's that is about to be recorded here, and one whose last record was `point`: later
  /// work starts after it.
  StreamPoint Mark();
  absl::Status WaitFor(CudaEventHandle event, const StreamPoint& point);
  /// See above.
  void Settle();
  /// Whether `event` of this stream is reached; does not wait. Never yes too early, and yes once the stream has failed.
  bool IsReached(const Event& event);

  const CudaDeviceRef& device() const { return device_; }
  CudaStreamHandle handle() const { return handle_; }

 private:
  /// A function of Call. What runs on the runtime's own thread takes no lock, or it could block those who hold one and
  /// wait for the runtime.
  struct Callback {
    std::function<void()> function;
    const std::atomic<bool>* failed = nullptr;
    bool captured = false;  ///< called with every launch of its graph
    std::atomic<bool> called{false};
  };

  CudaStream(const CudaDeviceRef& device, CudaStreamHandle handle, bool owned, absl::string_view name);
  absl::Status MakeEvents();
  static void RunCallback(void* data);
  CudaEventHandle EventOf(int64_t ticket) const { return events_[static_cast<size_t>(ticket % kEvents)]; }
  bool IsSettled(int64_t ticket) const;
  StreamPoint PointOf(int64_t ticket) const;
  bool IsBehind(const StreamPoint& point) const;

  const StreamClock::Identity identity_ = std::make_shared<const char>();
  const CudaDeviceRef device_;
  const CudaStreamHandle handle_;
  const bool owned_;
  const std::string name_;
  std::vector<CudaEventHandle> events_;  ///< the ring

  std::atomic<bool> failed_{false};
  mutable Mutex mutex_;                                      ///< never held in a call of the runtime
  int64_t recorded_ ABSL_GUARDED_BY(mutex_) = 0;             ///< the ticket of the last Record
  int64_t settled_ ABSL_GUARDED_BY(mutex_) = 0;              ///< tickets up to this one count as reached
  StreamClock clock_ ABSL_GUARDED_BY(mutex_);                ///< what this stream comes after
  std::vector<StreamClock> clocks_ ABSL_GUARDED_BY(mutex_);  ///< of the ring's events
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<const StreamFailure>> failures_ ABSL_GUARDED_BY(mutex_);
  // Of whoever enqueues.
  std::deque<std::unique_ptr<Callback>> callbacks_;
  std::deque<std::unique_ptr<Callback>> captured_callbacks_;  ///< called with every launch of their graph
};

/// `stream` as a CudaStream. InvalidArgument, naming `operation`, when it is of another kind.
absl::StatusOr<CudaStream*> AsCudaStream(Stream& stream, absl::string_view operation);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_CUDA_CUDA_STREAM_H_
