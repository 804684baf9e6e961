// A library with the names of NCCL's functions, and a version. Results tell what it was called with.

#include <cstddef>
#include <cstdio>

#include "shardstep/comm/nccl/nccl_abi.h"

extern "C" {

using shardstep::nccl_abi::Config;
using shardstep::nccl_abi::UniqueId;

int ncclGetVersion(int* version) {
  *version = STAND_IN_VERSION;
  return 0;
}
#if STAND_IN_VERSION > 10000
int ncclGetUniqueId(UniqueId*) { return 0; }
int ncclCommInitRankConfig(void**, int ranks, UniqueId id, int rank, Config* config) {
  const bool as_it_was = id.internal[0] == 'i' && config->size == sizeof(Config) && config->blocking == 0;
  return as_it_was ? ranks * 1000 + rank * 10 : -1;
}
int ncclCommGetAsyncError(void*, int*) { return 0; }
int ncclCommFinalize(void*) { return 0; }
int ncclCommDestroy(void*) { return 0; }
int ncclCommAbort(void*) { return 0; }
const char* ncclGetErrorString(int result) {
  static char text[16];
  std::snprintf(text, sizeof(text), "text %d", result);
  return text;
}
int ncclGroupStart() { return 0; }
int ncclGroupEnd() { return 0; }
int ncclSend(const void*, size_t count, int dtype, int peer, void*, void*) {
  return static_cast<int>(count) * 1000 + dtype * 10 + peer;
}
int ncclRecv(void*, size_t count, int dtype, int peer, void*, void*) {
  return static_cast<int>(count) * 1000 + dtype * 10 + peer;
}
int ncclAllGather(const void*, void*, size_t count, int dtype, void*, void*) {
  return static_cast<int>(count) * 1000 + dtype * 10;
}
int ncclReduceScatter(const void*, void*, size_t count, int dtype, int operation, void*, void*) {
  return static_cast<int>(count) * 1000 + dtype * 10 + operation;
}
int ncclAllReduce(const void*, void*, size_t count, int dtype, int operation, void*, void*) {
  return static_cast<int>(count) * 1000 + dtype * 10 + operation;
}
#endif

}  // extern "C"
