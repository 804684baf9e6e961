#ifndef SHARDSTEP_TESTS_NCCL_FAKE_NCCL_H_
#define SHARDSTEP_TESTS_NCCL_FAKE_NCCL_H_

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "shardstep/comm/mutex.h"
#include "shardstep/comm/nccl/nccl_api.h"
#include "shardstep/tests/cuda/fake_cuda.h"
#include "shardstep/tests/nccl/fake_nccl_call.h"

namespace shardstep {

struct FakeNcclOptions {
  bool all_to_all = true;
  bool revoke = true;
  std::string version = "2.28.9";
  /// The first operation of every kind is kInProgress until all ranks have issued theirs, and only then enqueued: NCCL
  /// makes connections when they are needed.
  bool connects_when_needed = false;
};

/// NCCL on the host: N ranks are threads of one process, on streams of a FakeCuda. Operations of a communicator run in
/// the order of their issue, one at a time on each rank, whatever streams they are on; one is done when all ranks whose
/// data it needs have issued theirs and their streams have come there. Operations that do not match (kind, count, type,
/// order, what is in place) and deadlocks are problems, told by name ("rank 1 AllGather(512 bf16) meets rank 0
/// AllToAll(64 bf16)"), and asynchronous errors of all ranks; they stay where they are until the communicator is
/// aborted, as they would. Threads: any.
class FakeNccl : public NcclApi {
 public:
  /// Results by their names in NCCL.
  static constexpr int kUnhandledCudaError = 1;
  static constexpr int kSystemError = 2;
  static constexpr int kInternalError = 3;
  static constexpr int kInvalidArgument = 4;
  static constexpr int kInvalidUsage = 5;

  /// `cuda` outlives it.
  explicit FakeNccl(FakeCuda& cuda, const FakeNcclOptions& options = {});
  ~FakeNccl() override;

  // ---- For tests.

  /// The `nth` call of `name` ("Send") from now on, counted from 1 over all ranks, returns `result` and does nothing.
  void FailCall(const std::string& name, int nth, int result);
  /// What `rank` of every communicator from now on comes to when it is initialized; kInProgress: it never ends.
  void SetInitResult(int rank, int result);
  /// An asynchronous error of `rank` in every communicator that lives.
  void FailAsync(int rank, int result, const std::string& last_error);
  int64_t calls(const std::string& name);
  /// Communicators, one per rank, that are neither destroyed nor aborted.
  int live();
  /// Everything that did not match, deadlocks, and calls with a communicator that is gone.
  std::vector<std::string> problems();

  // ---- NcclApi.

  std::string Version() override { return options_.version; }
  bool HasAllToAll() override { return options_.all_to_all; }
  bool HasRevoke() override { return options_.revoke; }
  std::string ErrorText(int result, NcclHandle communicator) override;
  int GetUniqueId(NcclId* id) override;
  int CommInitRank(NcclHandle* communicator, int world_size, const NcclId& id, int rank) override;
  int CommGetAsyncError(NcclHandle communicator, int* result) override;
  int CommFinalize(NcclHandle communicator) override;
  int CommDestroy(NcclHandle communicator) override;
  int CommRevoke(NcclHandle communicator) override;
  int CommAbort(NcclHandle communicator) override;
  int GroupStart() override;
  int GroupEnd() override;
  int Send(const void* from, int64_t count, DType dtype, int peer, NcclHandle communicator,
           CudaStreamHandle stream) override;
  int Recv(void* to, int64_t count, DType dtype, int peer, NcclHandle communicator, CudaStreamHandle stream) override;
  int AllToAll(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
               CudaStreamHandle stream) override;
  int AllGather(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                CudaStreamHandle stream) override;
  int ReduceScatterSum(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                       CudaStreamHandle stream) override;
  int AllReduceSum(const int64_t* from, int64_t* to, int64_t count, NcclHandle communicator,
                   CudaStreamHandle stream) override;
  int AllReduceMin(const uint64_t* from, uint64_t* to, int64_t count, NcclHandle communicator,
                   CudaStreamHandle stream) override;

 private:
  struct Clique;
  /// What a rank has issued at once: a group, or one call outside of any.
  struct Operation {
    std::vector<FakeNcclCall> calls;
    CudaStreamHandle stream = nullptr;
    int64_t number = 0;  ///< in the order of issue of its rank
    bool done = false;
  };
  /// One communicator: what a handle points to.
  struct Member {
    Clique* clique = nullptr;
    int rank = 0;
    bool gone = false;     ///< destroyed or aborted
    bool aborted = false;  ///< or revoked: its operations end
    bool revoked = false;
    bool finalized = false;
    int error = kSuccess;
    std::string last_error;
    int64_t issued = 0;
    int64_t executed = 0;
    std::shared_ptr<Operation> head;        ///< the one that its stream is in
    std::shared_ptr<Operation> connecting;  ///< issued, not enqueued yet
  };
  struct Clique {
    int world_size = 0;
    std::vector<std::unique_ptr<Member>> members;  ///< by rank; null: not there yet
    std::set<FakeNcclCall::Kind> connected;
    bool has_problem = false;
  };
  struct PendingGroup {
    int depth = 0;
    int error = kSuccess;  ///< of a call in it
    std::vector<std::pair<Member*, std::pair<CudaStreamHandle, FakeNcclCall>>> calls;
  };

  int Count(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// The member of a handle; null, and a problem, when it is gone.
  Member* Find(const char* call, NcclHandle communicator) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Add(const char* name, FakeNcclCall call, NcclHandle communicator, CudaStreamHandle stream);
  int Check(const char* name, const FakeNcclCall& call, NcclHandle communicator, Member** member)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int IssueGroup(const PendingGroup& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Issue(Member& member, std::shared_ptr<Operation> operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int EnqueueOn(Member& member, const std::shared_ptr<Operation>& operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// On the stream's thread.
  void Execute(Member& member, const std::shared_ptr<Operation>& operation) ABSL_LOCKS_EXCLUDED(mutex_);
  void ExecuteCaptured(Member& member, const std::vector<FakeNcclCall>& calls) ABSL_LOCKS_EXCLUDED(mutex_);
  void Wait(Member& member, const std::shared_ptr<Operation>& operation, MutexLock& lock)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool InitIsDone(const Member& member) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  /// Does whatever the streams' present operations allow.
  void MakeProgress(Clique& clique) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MatchMessages(Clique& clique, Member& sender, Member& receiver) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool RunCollectives(Clique& clique) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Report(Clique& clique, const std::string& problem) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  FakeCuda& cuda_;
  const FakeNcclOptions options_;
  Mutex mutex_;
  std::condition_variable changed_;
  std::atomic<int64_t> enqueued_{0};  ///< operations that streams have, but for captured ones
  std::map<std::string, int64_t> calls_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string, int64_t>, int> faults_ ABSL_GUARDED_BY(mutex_);
  std::map<int, int> init_results_ ABSL_GUARDED_BY(mutex_);
  std::map<NcclId, std::unique_ptr<Clique>> cliques_ ABSL_GUARDED_BY(mutex_);
  std::map<std::thread::id, PendingGroup> groups_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> problems_ ABSL_GUARDED_BY(mutex_);
  int live_ ABSL_GUARDED_BY(mutex_) = 0;
  int ids_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_NCCL_FAKE_NCCL_H_
