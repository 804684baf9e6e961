#include "shardstep/tools/bench/cuda_wire.h"

#include <cstddef>
#include <utility>

#include "shardstep/comm/nccl/nccl_link.h"
#include "shardstep/comm/nccl/nccl_setup.h"

namespace shardstep {
namespace {

constexpr absl::Duration kFarewell = absl::Seconds(5);

absl::Status CheckBytes(int64_t bytes, int64_t largest_bytes) {
  if (bytes >= 0 && bytes <= largest_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("Exchange: bytes = ", bytes, " must be from 0 to ", largest_bytes));
}

/// What leaves and what arrives.
struct WireBuffers {
  absl::Status Allocate(Memory& memory, int64_t size_bytes) {
    SHARDSTEP_ASSIGN_OR_RETURN(outgoing, memory.Allocate(size_bytes, "what the wire sends", PageBacking::kOnCreation));
    SHARDSTEP_ASSIGN_OR_RETURN(incoming,
                               memory.Allocate(size_bytes, "what the wire receives", PageBacking::kOnCreation));
    return absl::OkStatus();
  }
  Buffer outgoing, incoming;
};

class NcclWire : public CudaWire {
 public:
  NcclWire(const CudaWireRequest& request, NcclApi& nccl, Rendezvous& rendezvous)
      : stream_(*request.stream),
        largest_bytes_(request.largest_bytes),
        rank_(rendezvous.rank()),
        ranks_(rendezvous.world_size()),
        link_(nccl) {}
  ~NcclWire() override { link_.Close(kFarewell); }

  absl::Status Connect(NcclApi& nccl, Memory& memory, Rendezvous& rendezvous) {
    SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous, "memory of the wire",
                                            buffers_.Allocate(memory, (ranks_ - 1) * PartElements(largest_bytes_) * 2),
                                            NcclOptions().setup_deadline));
    return ConnectNccl(nccl, stream_.device(), rendezvous, {}, link_);
  }

  absl::Status Exchange(int64_t bytes) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckBytes(bytes, largest_bytes_));
    const int64_t part = PartElements(bytes);
    if (part == 0) return absl::OkStatus();
    return link_.Issue([] { return std::string("the wire"); }, stream_.handle(),
                       [&](NcclCalls& calls) {
                         for (int d = 1; d < ranks_; ++d) {
                           const int64_t begin_byte = (d - 1) * part * 2;
                           calls.Send(buffers_.outgoing.as<std::byte>() + begin_byte, part, DType::kBf16,
                                      (rank_ + d) % ranks_);
                           calls.Recv(buffers_.incoming.as<std::byte>() + begin_byte, part, DType::kBf16,
                                      (rank_ + ranks_ - d) % ranks_);
                         }
                       },
                       /*in_graph=*/false);
  }

 private:
  /// Of what goes to one rank, in bf16.
  int64_t PartElements(int64_t bytes) const {
    const int64_t others = ranks_ - 1;
    return others == 0 ? 0 : (bytes / 2 + others - 1) / others;
  }

  CudaStream& stream_;
  const int64_t largest_bytes_;
  const int rank_;
  const int ranks_;
  WireBuffers buffers_;
  NcclLink link_;
};

class StagingWire : public CudaWire {
 public:
  explicit StagingWire(const CudaWireRequest& request)
      : stream_(*request.stream), largest_bytes_(request.largest_bytes) {}

  absl::Status Allocate(Memory& memory) {
    SHARDSTEP_RETURN_IF_ERROR(buffers_.Allocate(memory, largest_bytes_));
    SHARDSTEP_ASSIGN_OR_RETURN(left_, memory.AllocateForBoth(largest_bytes_, "what the wire has sent"));
    SHARDSTEP_ASSIGN_OR_RETURN(coming_, memory.AllocateForBoth(largest_bytes_, "what the wire is to receive"));
    SHARDSTEP_ASSIGN_OR_RETURN(back_, CudaStream::Create(stream_.device(), "wire"));
    return absl::OkStatus();
  }

  absl::Status Exchange(int64_t bytes) override {
    SHARDSTEP_RETURN_IF_ERROR(CheckBytes(bytes, largest_bytes_));
    if (bytes == 0) return absl::OkStatus();
    back_->Wait(stream_.Record());
    SHARDSTEP_RETURN_IF_ERROR(Copy(left_.view().data, buffers_.outgoing.view().data, bytes, stream_));
    SHARDSTEP_RETURN_IF_ERROR(Copy(buffers_.incoming.view().data, coming_.view().data, bytes, *back_));
    stream_.Wait(back_->Record());
    return stream_.status();
  }

 private:
  static absl::Status Copy(void* to, const void* from, int64_t bytes, CudaStream& stream) {
    return stream.Enqueue("cudaMemcpyAsync", [&](CudaStreamHandle handle) {
      return stream.device().api->MemcpyAsync(to, from, bytes, handle);
    });
  }

  CudaStream& stream_;
  const int64_t largest_bytes_;
  WireBuffers buffers_;
  Buffer left_, coming_;  ///< pinned
  std::unique_ptr<CudaStream> back_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaWire>> CreateNcclWire(const CudaWireRequest& request, NcclApi& nccl,
                                                         Rendezvous& rendezvous) {
  auto wire = std::make_unique<NcclWire>(request, nccl, rendezvous);
  SHARDSTEP_RETURN_IF_ERROR(wire->Connect(nccl, *request.memory, rendezvous));
  return wire;
}

absl::StatusOr<std::unique_ptr<CudaWire>> CreateStagingWire(const CudaWireRequest& request) {
  auto wire = std::make_unique<StagingWire>(request);
  SHARDSTEP_RETURN_IF_ERROR(wire->Allocate(*request.memory));
  return wire;
}

}  // namespace shardstep
