#ifndef SHARDSTEP_COMM_NCCL_NCCL_LINK_H_
#define SHARDSTEP_COMM_NCCL_NCCL_LINK_H_

#include <string>
#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/nccl/nccl_api.h"

namespace shardstep {

/// The calls of one operation, made inside one group. After the first error no further call is made.
class NcclCalls {
 public:
  NcclCalls(NcclApi& nccl, NcclHandle communicator, CudaStreamHandle stream)
      : nccl_(nccl), communicator_(communicator), stream_(stream) {}

  void Send(const void* from, int64_t count, DType dtype, int peer);
  void Recv(void* to, int64_t count, DType dtype, int peer);
  void AllToAll(const void* from, void* to, int64_t count, DType dtype);
  void AllGather(const void* from, void* to, int64_t count, DType dtype);
  void ReduceScatterSum(const void* from, void* to, int64_t count, DType dtype);
  void AllReduceSum(int64_t* in_place, int64_t count);
  void AllReduceMin(uint64_t* in_place, int64_t count);

  /// Of the first call that failed, else of the last one.
  int result() const { return result_; }
  const char* call() const { return call_; }

 private:
  friend class NcclLink;
  bool Continues() const { return result_ == NcclApi::kSuccess || result_ == NcclApi::kInProgress; }
  void Make(const char* call, absl::FunctionRef<int()> make);

  NcclApi& nccl_;
  const NcclHandle communicator_;
  const CudaStreamHandle stream_;
  int result_ = NcclApi::kSuccess;
  const char* call_ = "";
};

/// The owner of one ncclComm_t, from its non-blocking initialization to its end, of which there is exactly one: Close
/// or Abort, whichever comes first. After it, and after Revoke, nobody issues anything. Threads: any, where nothing
/// else is said.
class NcclLink {
 public:
  /// Of ncclCommInitRankConfig.
  enum class State { kUnderWay, kReady };

  explicit NcclLink(NcclApi& nccl) : nccl_(nccl) {}
  /// Aborts what has not ended, and waits for the end.
  ~NcclLink();
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  /// Once, on a thread whose current device is the communicator's.
  absl::Status Begin(int world_size, const NcclId& id, int rank);
  absl::StatusOr<State> Poll();

  /// One operation on `stream`, in the order of these calls: one thread at a time. Blocks the host only while NCCL
  /// itself is not done with it in the background, as when it makes a connection that it had no use for before.
  /// `operation`: its name, for an error. Aborted: the link has ended. `in_graph`: the stream is being captured.
  absl::Status Issue(absl::FunctionRef<std::string()> operation, CudaStreamHandle stream,
                     absl::FunctionRef<void(NcclCalls&)> calls, bool in_graph);

  /// What is under way ends, and nothing that other ranks may be reading is freed before Abort: their kernels would
  /// fault, and they would report that. Where NCCL cannot (before 2.28.7, not ready, in graphs, whose later kernels it
  /// would let begin), Abort. Does not wait.
  void Revoke();
  /// Frees it all. Does not wait: ncclCommAbort, which may wait for other ranks to do the same, has a thread of its
  /// own.
  void Abort();
  /// Finishes what was issued, for at most `grace`; then aborts.
  void Close(absl::Duration grace);

 private:
  absl::Status Check(absl::string_view what, int result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// Waits until `result` of the last call is no longer kInProgress; without the mutex meanwhile.
  int AwaitProgress(MutexLock& lock, int result, absl::Time end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeginEnd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// On a thread of its own.
  void End(NcclHandle communicator, bool revokes) ABSL_LOCKS_EXCLUDED(mutex_);

  NcclApi& nccl_;
  Mutex mutex_;
  std::condition_variable end_changed_;
  NcclHandle communicator_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool in_graphs_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  ///< revoked, aborted or closed
  bool frees_ ABSL_GUARDED_BY(mutex_) = false;  ///< aborted, or closed
  std::thread ender_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_NCCL_LINK_H_
