#ifndef SHARDSTEP_COMM_STREAM_H_
#define SHARDSTEP_COMM_STREAM_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/strings/string_view.h"
#include "shardstep/comm/status.h"

namespace shardstep {

class Stream;

/// A point in a stream: reached once everything enqueued before it has finished. A value; copying it costs nothing.
/// A default Event is always reached.
struct Event {
  Stream* stream = nullptr;
  int64_t ticket = 0;
};

/// An in-order queue of work, in CUDA's sense. OK from a call that takes a stream means "enqueued".
///
/// Errors are sticky and the first one wins: once an item fails, later items are dropped, every event counts as
/// reached, and Synchronize and status() return that first error.
///
/// Threads: any one thread at a time may enqueue; Synchronize and status() are safe from every thread.
class Stream {
 public:
  virtual ~Stream() = default;

  /// The point after everything enqueued so far.
  virtual Event Record() = 0;

  /// Work enqueued later on this stream starts after `event` (of any stream) is reached.
  virtual void Wait(const Event& event) = 0;

  /// Blocks the calling thread until `event` of this stream is reached. A host stream lets the blocked thread run
  /// queued items itself. Returns the sticky error, if any.
  virtual absl::Status Synchronize(const Event& event) = 0;

  virtual absl::Status status() const = 0;

  /// Calls `function`, on some thread, when the stream gets here: to note that it did. It must be brief, wait for
  /// nothing and enqueue nothing. Not called once the stream has failed. `name` must outlive the stream (a literal).
  virtual void Call(absl::string_view name, std::function<void()> function) = 0;
};

/// A stream whose items are host functions.
class HostStream : public Stream {
 public:
  using Work = std::function<absl::Status()>;
  /// `name` must outlive the stream (a literal); it is what an error is annotated with.
  virtual void Enqueue(absl::string_view name, Work work) = 0;

  void Call(absl::string_view name, std::function<void()> function) override {
    Enqueue(name, [function = std::move(function)] {
      function();
      return absl::OkStatus();
    });
  }
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STREAM_H_
