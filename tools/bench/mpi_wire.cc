#include "shardstep/tools/bench/mpi_wire.h"

#include <mpi.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace shardstep {
namespace {

// Short enough for Open MPI to send without asking first: its answer to a question waits behind all data that this side
// has under way, so that in the end the two directions of a link take turns.
constexpr int64_t kMessageBytes = 60 << 10;
constexpr size_t kSendsInFlight = 64;

using Requests = std::vector<MPI_Request>;

void WaitAll(Requests* requests) {
  MPI_Waitall(static_cast<int>(requests->size()), requests->data(), MPI_STATUSES_IGNORE);
}

// But the last `count`.
void AwaitAllBut(size_t count, Requests* requests) {
  if (requests->size() <= count) return;
  MPI_Waitall(static_cast<int>(requests->size() - count), requests->data(), MPI_STATUSES_IGNORE);
  requests->erase(requests->begin(), requests->end() - static_cast<std::ptrdiff_t>(count));
}

// Where part number `part` of `parts` nearly equal ones begins.
int64_t PartBegin(int64_t bytes, int64_t part, int64_t parts) {
  return bytes / parts * part + std::min(part, bytes % parts);
}

class Wire : public MpiWire {
 public:
  Wire(HostMap map, int64_t largest_bytes) : map_(std::move(map)), largest_bytes_(largest_bytes) {}

  absl::Status Allocate() {
    const int64_t bytes = map_.host_count() > 1 ? Mine(largest_bytes_) : 0;
    SHARDSTEP_ASSIGN_OR_RETURN(outgoing_, Buffer::Allocate(bytes, "what the wire sends"));
    SHARDSTEP_ASSIGN_OR_RETURN(incoming_, Buffer::Allocate(bytes, "what the wire receives"));
    return absl::OkStatus();
  }

  absl::Status Exchange(int64_t bytes) override {
    if (bytes < 0 || bytes > largest_bytes_) {
      return absl::InvalidArgumentError(
          absl::StrCat("Exchange: bytes = ", bytes, " must be from 0 to ", largest_bytes_));
    }
    const int others = map_.host_count() - 1;
    const int64_t mine = Mine(bytes);
    Requests receives;
    Requests sends;
    // All receives first, so that nothing arrives that nobody waits for.
    for (const bool sending : {false, true}) {
      for (int64_t begin = 0; begin < mine; begin += kMessageBytes) {
        for (int d = 1; d <= others; ++d) {
          const int64_t part = PartBegin(mine, d - 1, others);
          const int64_t left = PartBegin(mine, d, others) - part - begin;
          Start(sending, d, part + begin, std::min(kMessageBytes, left), sending ? &sends : &receives);
        }
        if (sending) AwaitAllBut(kSendsInFlight * static_cast<size_t>(others), &sends);
      }
    }
    WaitAll(&sends);
    WaitAll(&receives);
    return absl::OkStatus();
  }

  BufferView outgoing() override { return outgoing_.view(); }
  BufferView incoming() override { return incoming_.view(); }

 private:
  // Of what a host sends.
  int64_t Mine(int64_t bytes) const {
    const int ranks = map_.ranks_per_host();
    return PartBegin(bytes, map_.local_rank + 1, ranks) - PartBegin(bytes, map_.local_rank, ranks);
  }

  // To the host `distance` after this one, or from the one as far before it.
  void Start(bool sends, int distance, int64_t begin, int64_t bytes, Requests* requests) {
    if (bytes <= 0) return;
    const int hosts = map_.host_count();
    const int host = (map_.host + (sends ? distance : hosts - distance)) % hosts;
    const int peer = map_.hosts[host][map_.local_rank];
    MPI_Request* request = &requests->emplace_back(MPI_REQUEST_NULL);
    const int count = static_cast<int>(bytes);
    if (sends) {
      MPI_Isend(outgoing_.as<std::byte>() + begin, count, MPI_BYTE, peer, distance, MPI_COMM_WORLD, request);
    } else {
      MPI_Irecv(incoming_.as<std::byte>() + begin, count, MPI_BYTE, peer, distance, MPI_COMM_WORLD, request);
    }
  }

  const HostMap map_;
  const int64_t largest_bytes_;
  Buffer outgoing_, incoming_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MpiWire>> MpiWire::Create(const HostMap& map, int64_t largest_bytes) {
  auto wire = std::make_unique<Wire>(map, largest_bytes);
  SHARDSTEP_RETURN_IF_ERROR(wire->Allocate());
  return wire;
}

}  // namespace shardstep
