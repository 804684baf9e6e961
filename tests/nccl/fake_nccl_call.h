#ifndef SHARDSTEP_TESTS_NCCL_FAKE_NCCL_CALL_H_
#define SHARDSTEP_TESTS_NCCL_FAKE_NCCL_CALL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/dtype.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

/// One call of NCCL, what it touches, and what it does to host memory.
struct FakeNcclCall {
  enum Kind { kSend, kRecv, kAllToAll, kAllGather, kReduceScatterSum, kAllReduceSum, kAllReduceMin };
  enum Type { kBf16, kFp16, kFp32, kInt64, kUint64 };
  Kind kind = kSend;
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  int64_t count = 0;
  Type type = kBf16;
  int peer = -1;         ///< of a message
  bool matched = false;  ///< of a message

  static Type TypeOf(DType dtype);
  static FakeNcclCall Collective(Kind kind, const void* from, void* to, int64_t count, Type type);
  bool is_message() const { return kind == kSend || kind == kRecv; }
  int64_t bytes() const;
  /// "Send(to rank 1, 64 bf16)", "AllGather(512 bf16)".
  std::string Text() const;
  /// What it reads and writes as `rank` of `world_size`.
  std::vector<MemoryAccess> Accesses(int rank, int world_size) const;
  /// What is wrong with where `from` and `to` lie; empty: nothing.
  std::string Misplaced(int rank, int world_size) const;
};

/// Whether ranks that meet in these do the same.
bool Agree(const FakeNcclCall& a, const FakeNcclCall& b);
/// A collective of all ranks, by rank. A sum of bf16 is rounded after every addition: shard r begins at rank r + 1 and
/// goes round the ring to its owner.
void RunCollective(absl::Span<const FakeNcclCall* const> ranks);

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_NCCL_FAKE_NCCL_CALL_H_
