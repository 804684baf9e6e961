#include "shardstep/tools/gpu_check/nccl_check.h"

#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/nccl/nccl_communicator.h"

namespace shardstep::gpu_check {
namespace {

// A communicator of NCCL with one rank; destroyed or aborted at the latest by the destructor.
class LoneNccl {
 public:
  static absl::StatusOr<std::unique_ptr<LoneNccl>> Create(NcclApi& nccl, absl::Duration deadline) {
    std::unique_ptr<LoneNccl> made(new LoneNccl(nccl, absl::Now() + deadline));
    NcclId id;
    SHARDSTEP_RETURN_IF_ERROR(made->Status(nccl.GetUniqueId(&id), "ncclGetUniqueId"));
    SHARDSTEP_RETURN_IF_ERROR(made->Await(nccl.CommInitRank(&made->handle_, 1, id, 0), "ncclCommInitRankConfig"));
    return made;
  }
  ~LoneNccl() {
    if (handle_ != nullptr) nccl_.CommAbort(handle_);
  }
  LoneNccl(const LoneNccl&) = delete;
  LoneNccl& operator=(const LoneNccl&) = delete;

  NcclHandle handle() const { return handle_; }

  absl::Status Status(int result, absl::string_view call) const {
    if (result == NcclApi::kSuccess) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(call, ": ", nccl_.ErrorText(result, handle_)));
  }
  // Of a call that takes the communicator away: what goes on after it is NCCL's own business.
  absl::Status Ended(int result, absl::string_view call) const {
    return result == NcclApi::kInProgress ? absl::OkStatus() : Status(result, call);
  }
  // `result`, or what it comes to while it is in progress.
  absl::Status Await(int result, absl::string_view call) const {
    while (result == NcclApi::kInProgress && absl::Now() < end_) {
      std::this_thread::yield();
      const int error = nccl_.CommGetAsyncError(handle_, &result);
      SHARDSTEP_RETURN_IF_ERROR(Status(error, absl::StrCat(call, ", ncclCommGetAsyncError")));
    }
    return Status(result, call);
  }
  absl::Status Destroy() {
    SHARDSTEP_RETURN_IF_ERROR(Await(nccl_.CommFinalize(handle_), "ncclCommFinalize"));
    return Ended(nccl_.CommDestroy(std::exchange(handle_, nullptr)), "ncclCommDestroy");
  }
  absl::Status Abort() { return Ended(nccl_.CommAbort(std::exchange(handle_, nullptr)), "ncclCommAbort"); }

 private:
  LoneNccl(NcclApi& nccl, absl::Time end) : nccl_(nccl), end_(end) {}

  NcclApi& nccl_;
  const absl::Time end_;
  NcclHandle handle_ = nullptr;
};

// Arrays on the device, and what is in them on the host.
class Arrays {
 public:
  static absl::StatusOr<std::unique_ptr<Arrays>> Create(Memory& memory, int64_t elements) {
    auto made = std::make_unique<Arrays>(memory);
    made->values_.resize(static_cast<size_t>(elements));
    for (int64_t i = 0; i < elements; ++i) made->values_[static_cast<size_t>(i)] = i * 0x9e3779b97f4a7c15 >> 8;
    SHARDSTEP_ASSIGN_OR_RETURN(made->from_, memory.Allocate(made->size_bytes(), "from", PageBacking::kOnCreation));
    SHARDSTEP_ASSIGN_OR_RETURN(made->to_, memory.Allocate(made->size_bytes(), "to", PageBacking::kOnCreation));
    SHARDSTEP_RETURN_IF_ERROR(memory.Write(made->values_.data(), made->from_.view().data, made->size_bytes()));
    return made;
  }
  explicit Arrays(Memory& memory) : memory_(memory) {}

  int64_t size_bytes() const { return static_cast<int64_t>(values_.size() * sizeof(uint64_t)); }
  int64_t elements() const { return static_cast<int64_t>(values_.size()); }
  std::byte* from() const { return from_.view().data; }
  std::byte* to() const { return to_.view().data; }

  absl::Status ClearTo() {
    const std::vector<uint64_t> nothing(values_.size());
    return memory_.Write(nothing.data(), to(), size_bytes());
  }
  absl::Status ExpectCopied(absl::string_view call) {
    std::vector<uint64_t> found(values_.size());
    SHARDSTEP_RETURN_IF_ERROR(memory_.Read(to(), found.data(), size_bytes()));
    if (found == values_) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(call, " of one rank does not give back what went in"));
  }

 private:
  Memory& memory_;
  std::vector<uint64_t> values_;
  Buffer from_, to_;
};

struct Collective {
  const char* name;
  std::function<int(CudaStreamHandle)> issue;
};

std::vector<Collective> CollectivesOf(NcclApi& nccl, NcclHandle handle, const Arrays& arrays) {
  const int64_t words = arrays.elements();
  const int64_t floats = 2 * words;
  const int64_t halves = 4 * words;
  std::byte* const from = arrays.from();
  std::byte* const to = arrays.to();
  std::vector<Collective> collectives = {
      {"AllGather", [=, &nccl](auto s) { return nccl.AllGather(from, to, halves, DType::kBf16, handle, s); }},
      {"AllGather of fp32", [=, &nccl](auto s) { return nccl.AllGather(from, to, floats, DType::kFp32, handle, s); }},
      {"ReduceScatter",
       [=, &nccl](auto s) { return nccl.ReduceScatterSum(from, to, halves, DType::kBf16, handle, s); }},
      {"AllReduce, sum",
       [=, &nccl](auto s) {
         return nccl.AllReduceSum(reinterpret_cast<int64_t*>(from), reinterpret_cast<int64_t*>(to), words, handle, s);
       }},
      {"AllReduce, minimum",
       [=, &nccl](auto s) {
         return nccl.AllReduceMin(reinterpret_cast<uint64_t*>(from), reinterpret_cast<uint64_t*>(to), words, handle, s);
       }},
      {"Send and Recv", [=, &nccl](auto s) {
         nccl.GroupStart();
         const int sent = nccl.Send(from, halves, DType::kBf16, 0, handle, s);
         const int received = nccl.Recv(to, halves, DType::kBf16, 0, handle, s);
         const int ended = nccl.GroupEnd();
         for (const int result : {sent, received}) {
           if (result != NcclApi::kSuccess && result != NcclApi::kInProgress) return result;
         }
         return ended;
       }}};
  if (nccl.HasAllToAll()) {
    collectives.push_back(
        {"AllToAll", [=, &nccl](auto s) { return nccl.AllToAll(from, to, halves, DType::kBf16, handle, s); }});
  }
  return collectives;
}

absl::Status RunCollectives(NcclApi& nccl, const LoneNccl& lone, Arrays& arrays, CudaStream& stream) {
  for (const Collective& collective : CollectivesOf(nccl, lone.handle(), arrays)) {
    SHARDSTEP_RETURN_IF_ERROR(arrays.ClearTo());
    SHARDSTEP_RETURN_IF_ERROR(lone.Await(collective.issue(stream.handle()), collective.name));
    SHARDSTEP_RETURN_IF_ERROR(stream.Synchronize(stream.Record()));
    SHARDSTEP_RETURN_IF_ERROR(arrays.ExpectCopied(collective.name));
  }
  return absl::OkStatus();
}

absl::Status CheckCollectives(NcclApi& nccl, LoneNccl& lone, Memory& memory, CudaStream& stream, int64_t elements) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Arrays> arrays, Arrays::Create(memory, elements));
  const absl::Status status = RunCollectives(nccl, lone, *arrays, stream);
  // Memory comes back only once what was enqueued has ended.
  if (!status.ok()) lone.Abort().IgnoreError();
  return status;
}

absl::Status MakeAndDestroy(NcclApi& nccl, Memory& memory, CudaStream& stream, const NcclCheckOptions& options) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<LoneNccl> lone, LoneNccl::Create(nccl, options.deadline));
  SHARDSTEP_RETURN_IF_ERROR(CheckCollectives(nccl, *lone, memory, stream, options.elements));
  return lone->Destroy();
}

// With a collective enqueued that nobody has waited for.
absl::Status MakeAndAbort(NcclApi& nccl, Memory& memory, CudaStream& stream, const NcclCheckOptions& options,
                          bool revokes) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<LoneNccl> lone, LoneNccl::Create(nccl, options.deadline));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Arrays> arrays, Arrays::Create(memory, options.elements));
  SHARDSTEP_RETURN_IF_ERROR(lone->Await(nccl.AllGather(arrays->from(), arrays->to(), 4 * arrays->elements(),
                                                       DType::kBf16, lone->handle(), stream.handle()),
                                        "AllGather"));
  if (revokes) {
    SHARDSTEP_RETURN_IF_ERROR(lone->Await(nccl.CommRevoke(lone->handle()), "ncclCommRevoke"));
    SHARDSTEP_RETURN_IF_ERROR(stream.Synchronize(stream.Record()));
  }
  SHARDSTEP_RETURN_IF_ERROR(lone->Abort());
  return stream.Synchronize(stream.Record());
}

absl::Status CheckOurs(NcclApi& nccl, const CudaDeviceRef& device, Memory& memory) {
  const std::unique_ptr<Rendezvous> rendezvous = ThreadRendezvousGroup(1).Join(0);
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> communicator,
                             CreateNcclCommunicator(nccl, device, memory, *rendezvous, {}));
  const BucketExtent bucket = {.shard_elements = 4096};
  SHARDSTEP_RETURN_IF_ERROR(communicator->Allocate({.buckets = absl::MakeConstSpan(&bucket, 1)}));
  SHARDSTEP_RETURN_IF_ERROR(communicator->AsyncStatus());
  communicator->Abort(absl::CancelledError("first"));
  communicator->Abort(absl::InternalError("second"));
  const absl::Status status = communicator->AsyncStatus();
  if (absl::IsAborted(status) && CauseOf(status) == absl::StatusCode::kCancelled) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("aborted twice, a communicator says ", status.ToString()));
}

absl::StatusOr<int64_t> FreeBytes(const CudaDeviceRef& device) {
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
  SHARDSTEP_RETURN_IF_ERROR(
      CudaStatus(*device.api, device.api->MemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  return free_bytes;
}

}  // namespace

absl::StatusOr<std::string> CheckNccl(NcclApi& nccl, const CudaDeviceRef& device, const NcclCheckOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(device));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Memory> memory, CreateCudaMemory(device));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<CudaStream> stream, CudaStream::Create(device, "collectives"));
  int64_t free_after_first = 0;
  for (int round = 0; round < options.rounds; ++round) {
    SHARDSTEP_RETURN_IF_ERROR(MakeAndDestroy(nccl, *memory, *stream, options));
    SHARDSTEP_RETURN_IF_ERROR(MakeAndAbort(nccl, *memory, *stream, options, /*revokes=*/false));
    if (nccl.HasRevoke()) {
      SHARDSTEP_RETURN_IF_ERROR(MakeAndAbort(nccl, *memory, *stream, options, /*revokes=*/true));
    }
    SHARDSTEP_RETURN_IF_ERROR(CheckOurs(nccl, device, *memory));
    // The first round makes what a process keeps.
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t free_bytes, FreeBytes(device));
    if (round == 0) free_after_first = free_bytes;
    if (free_bytes < free_after_first - options.leak_bytes) {
      return absl::InternalError(absl::StrCat("round ", round, ": ", free_after_first - free_bytes,
                                              " bytes of the device have not come back"));
    }
  }
  return absl::StrCat("NCCL ", nccl.Version(), nccl.HasAllToAll() ? ", with" : ", without",
                      " AllToAll: collectives of one rank, ", options.rounds, " times made, destroyed, ",
                      nccl.HasRevoke() ? "revoked " : "", "and aborted");
}

}  // namespace shardstep::gpu_check
