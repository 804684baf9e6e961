#ifndef SHARDSTEP_COMM_NCCL_NCCL_ABI_H_
#define SHARDSTEP_COMM_NCCL_NCCL_ABI_H_

#include <climits>
#include <cstddef>
#include <cstdint>

/// What nccl.h declares, as far as we use it, so that building needs no NCCL. Where nccl.h is found,
/// tests/nccl/nccl_abi_test.cc compares all of it.

namespace shardstep::nccl_abi {

struct UniqueId {
  char internal[128];
};

/// ncclConfig_t of NCCL 2.14, the first one. Later libraries take it as it is: `size` and `version` tell them that the
/// fields which came later are not there.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21400;
  int blocking = 0;
  int padding = INT_MIN;  ///< where the next field of later versions lies; this value means "not set" there
};

// ncclResult_t
inline constexpr int kSuccess = 0;
inline constexpr int kRemoteError = 6;
inline constexpr int kInProgress = 7;
// ncclDataType_t
inline constexpr int kInt64 = 4;
inline constexpr int kUint64 = 5;
inline constexpr int kFloat16 = 6;
inline constexpr int kFloat32 = 7;
inline constexpr int kBfloat16 = 9;
// NCCL_REVOKE_*
inline constexpr int kRevokeDefault = 0;
// ncclRedOp_t
inline constexpr int kSum = 0;
inline constexpr int kMin = 3;
// NCCL_VERSION of the first library with non-blocking communicators
inline constexpr int kLeastVersion = 21400;

// The functions of libnccl. Enums and ncclComm_t, cudaStream_t are passed as int and pointers are.
using GetVersion = int (*)(int* version);
using GetUniqueId = int (*)(UniqueId* id);
using CommInitRankConfig = int (*)(void** communicator, int ranks, UniqueId id, int rank, Config* config);
using CommOnly = int (*)(void* communicator);  // Finalize, Destroy, Abort
using CommGetAsyncError = int (*)(void* communicator, int* result);
using CommRevoke = int (*)(void* communicator, int flags);
using GetErrorString = const char* (*)(int result);
using GetLastError = const char* (*)(void* communicator);
using Group = int (*)();
using Send = int (*)(const void* from, size_t count, int dtype, int peer, void* communicator, void* stream);
using Recv = int (*)(void* to, size_t count, int dtype, int peer, void* communicator, void* stream);
using AllToAll = int (*)(const void* from, void* to, size_t count, int dtype, void* communicator, void* stream);
using AllGather = AllToAll;
using ReduceScatter = int (*)(const void* from, void* to, size_t count, int dtype, int operation, void* communicator,
                              void* stream);
using AllReduce = ReduceScatter;

}  // namespace shardstep::nccl_abi

#endif  // SHARDSTEP_COMM_NCCL_NCCL_ABI_H_
