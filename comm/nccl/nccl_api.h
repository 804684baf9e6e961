#ifndef SHARDSTEP_COMM_NCCL_NCCL_API_H_
#define SHARDSTEP_COMM_NCCL_NCCL_API_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "shardstep/comm/cuda/cuda_api.h"
#include "shardstep/comm/dtype.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// ncclComm_t.
using NcclHandle = void*;
/// ncclUniqueId, of any length up to this.
using NcclId = std::array<char, 128>;

/// The calls of NCCL that Shardstep makes. The real table is loaded from libnccl.so.2 at run time and is the one place
/// that knows versions; tests put one in its place that runs on the host. What is returned is a ncclResult_t, kSuccess,
/// kInProgress (communicators are non-blocking) or an error. Threads: as NCCL's; groups belong to a thread.
class NcclApi {
 public:
  static constexpr int kSuccess = 0;
  static constexpr int kRemoteError = 6;  // ncclRemoteError
  static constexpr int kInProgress = 7;   // ncclInProgress

  virtual ~NcclApi() = default;
  /// "2.28.9".
  virtual std::string Version() = 0;
  /// Since NCCL 2.28.
  virtual bool HasAllToAll() = 0;
  /// Since NCCL 2.28.7.
  virtual bool HasRevoke() = 0;
  /// ncclGetErrorString, and of a communicator (nullptr: none) ncclGetLastError.
  virtual std::string ErrorText(int result, NcclHandle communicator) = 0;

  virtual int GetUniqueId(NcclId* id) = 0;
  /// ncclCommInitRankConfig with blocking = 0: poll GetAsyncError until it is no longer kInProgress.
  virtual int CommInitRank(NcclHandle* communicator, int world_size, const NcclId& id, int rank) = 0;
  virtual int CommGetAsyncError(NcclHandle communicator, int* result) = 0;
  virtual int CommFinalize(NcclHandle communicator) = 0;
  virtual int CommDestroy(NcclHandle communicator) = 0;
  /// Of a communicator that is ready: what is under way ends, no more can be issued, and nothing is freed. At most
  /// once.
  virtual int CommRevoke(NcclHandle communicator) = 0;
  /// Frees it as well. At most once.
  virtual int CommAbort(NcclHandle communicator) = 0;

  virtual int GroupStart() = 0;
  virtual int GroupEnd() = 0;
  virtual int Send(const void* from, int64_t count, DType dtype, int peer, NcclHandle communicator,
                   CudaStreamHandle stream) = 0;
  virtual int Recv(void* to, int64_t count, DType dtype, int peer, NcclHandle communicator,
                   CudaStreamHandle stream) = 0;
  /// `count` elements for each rank.
  virtual int AllToAll(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                       CudaStreamHandle stream) = 0;
  virtual int AllGather(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                        CudaStreamHandle stream) = 0;
  /// ncclSum; NCCL rounds bf16 after every addition. There is no average here: ncclAvg rounds 1/n to bf16.
  virtual int ReduceScatterSum(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                               CudaStreamHandle stream) = 0;
  /// ncclSum of int64, ncclMin of uint64.
  virtual int AllReduceSum(const int64_t* from, int64_t* to, int64_t count, NcclHandle communicator,
                           CudaStreamHandle stream) = 0;
  virtual int AllReduceMin(const uint64_t* from, uint64_t* to, int64_t count, NcclHandle communicator,
                           CudaStreamHandle stream) = 0;
};

/// NCCL of this machine: `path`, or if empty libnccl.so.2 as the loader finds it. NotFound, naming what was tried and
/// why it cannot be loaded; FailedPrecondition when it is too old (before 2.14: no non-blocking communicators) or is no
/// NCCL. Everything that uses the table is gone before it is; the library itself is never unloaded.
absl::StatusOr<std::unique_ptr<NcclApi>> LoadNccl(const std::string& path);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_NCCL_NCCL_API_H_
