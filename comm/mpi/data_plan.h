#ifndef SHARDSTEP_COMM_MPI_DATA_PLAN_H_
#define SHARDSTEP_COMM_MPI_DATA_PLAN_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/mpi/mpi_wire.h"

namespace shardstep {

/// Messages of one operation that are not through yet, by member.
struct Transfer {
  Transfer(std::string operation, int members, absl::Span<const Message> messages);

  const std::string name;  ///< for messages of errors
  std::vector<int> receiving;
  std::vector<int> sending;
};

/// Where the data of one communicator lies and which messages move it: integers and addresses only, none is read.
/// Messages are listed receives first, each rank beginning with another peer, so that not all send to one at once.
struct DataPlan {
  int rank = 0;
  int world_size = 1;
  MessageTags tags;
  int64_t longest_message_bytes = 0;
  std::vector<BucketExtent> buckets;
  int contributions = 0;  ///< as in ArenaRequest
  std::byte* gradients = nullptr;
  std::byte* weights = nullptr;
  std::byte* landing = nullptr;  ///< of all slots

  /// ResourceExhausted when it cannot be counted in bytes.
  absl::StatusOr<int64_t> SlotBytes() const;

  /// This rank's gradients of `bucket`, where Allocate was told of no contributions.
  Slice OwnGradients(int bucket) const;

  struct Exchange {
    std::vector<Slice> slices;
    std::vector<Message> messages;
  };
  /// What others send lands in the slot at `slot_begin_byte` of the landing memory.
  Exchange PlanExchange(int bucket, int64_t micro_step, absl::Span<const Slice> mine, int64_t slot_begin_byte) const;
  std::vector<Message> PlanPublish(int bucket, int64_t step) const;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_MPI_DATA_PLAN_H_
