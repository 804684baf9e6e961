#include "shardstep/comm/nccl/nccl_link.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"

namespace shardstep {
namespace {

// Between two looks at what NCCL does in the background.
constexpr auto kLookPause = std::chrono::microseconds(50);

absl::Status EndedError(absl::string_view operation) {
  return absl::AbortedError(absl::StrCat(operation, ": NCCL has been aborted"));
}

}  // namespace

void NcclCalls::Make(const char* call, absl::FunctionRef<int()> make) {
  if (!Continues()) return;
  call_ = call;
  result_ = make();
}

void NcclCalls::Send(const void* from, int64_t count, DType dtype, int peer) {
  Make("ncclSend", [&] { return nccl_.Send(from, count, dtype, peer, communicator_, stream_); });
}

void NcclCalls::Recv(void* to, int64_t count, DType dtype, int peer) {
  Make("ncclRecv", [&] { return nccl_.Recv(to, count, dtype, peer, communicator_, stream_); });
}

void NcclCalls::AllToAll(const void* from, void* to, int64_t count, DType dtype) {
  Make("ncclAlltoAll", [&] { return nccl_.AllToAll(from, to, count, dtype, communicator_, stream_); });
}

void NcclCalls::AllGather(const void* from, void* to, int64_t count, DType dtype) {
  Make("ncclAllGather", [&] { return nccl_.AllGather(from, to, count, dtype, communicator_, stream_); });
}

void NcclCalls::ReduceScatterSum(const void* from, void* to, int64_t count, DType dtype) {
  Make("ncclReduceScatter", [&] { return nccl_.ReduceScatterSum(from, to, count, dtype, communicator_, stream_); });
}

void NcclCalls::AllReduceSum(int64_t* in_place, int64_t count) {
  Make("ncclAllReduce", [&] { return nccl_.AllReduceSum(in_place, in_place, count, communicator_, stream_); });
}

void NcclCalls::AllReduceMin(uint64_t* in_place, int64_t count) {
  Make("ncclAllReduce", [&] { return nccl_.AllReduceMin(in_place, in_place, count, communicator_, stream_); });
}

NcclLink::~NcclLink() {
  Abort();
  std::thread aborter;
  {
    const MutexLock lock(&mutex_);
    aborter = std::move(aborter_);
  }
  if (aborter.joinable()) aborter.join();
}

absl::Status NcclLink::Check(absl::string_view what, int result) {
  if (result == NcclApi::kSuccess || result == NcclApi::kInProgress) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", nccl_.ErrorText(result, communicator_));
  // Another rank ended, or the network to it.
  return result == NcclApi::kRemoteError ? absl::AbortedError(text) : absl::InternalError(text);
}

absl::Status NcclLink::Begin(int world_size, const NcclId& id, int rank) {
  const MutexLock lock(&mutex_);
  const int result = nccl_.CommInitRank(&communicator_, world_size, id, rank);
  return Check("ncclCommInitRankConfig", result);
}

absl::StatusOr<NcclLink::State> NcclLink::Poll() {
  const MutexLock lock(&mutex_);
  if (ended_) return EndedError("NCCL");
  int state = NcclApi::kSuccess;
  SHARDSTEP_RETURN_IF_ERROR(Check("ncclCommGetAsyncError", nccl_.CommGetAsyncError(communicator_, &state)));
  SHARDSTEP_RETURN_IF_ERROR(Check("NCCL", state));
  return state == NcclApi::kInProgress ? State::kUnderWay : State::kReady;
}

int NcclLink::AwaitProgress(MutexLock& lock, int result, absl::Time end) {
  while (result == NcclApi::kInProgress && !ended_ && absl::Now() < end) {
    const int asked = nccl_.CommGetAsyncError(communicator_, &result);
    if (asked != NcclApi::kSuccess) return asked;
    if (result == NcclApi::kInProgress) ended_changed_.wait_for(lock.lock(), kLookPause);
  }
  return result;
}

absl::Status NcclLink::Issue(absl::FunctionRef<std::string()> operation, CudaStreamHandle stream,
                             absl::FunctionRef<void(NcclCalls&)> calls) {
  MutexLock lock(&mutex_);
  if (ended_) return EndedError(operation());
  NcclCalls group(nccl_, communicator_, stream);
  group.Make("ncclGroupStart", [&] { return nccl_.GroupStart(); });
  if (group.Continues()) {
    calls(group);
    const int ended = nccl_.GroupEnd();  // after an error, too: the thread has to leave its group
    group.Make("ncclGroupEnd", [&] { return ended; });
  }
  const int result = AwaitProgress(lock, group.result(), absl::InfiniteFuture());
  if (ended_) return EndedError(operation());
  return Check(absl::StrCat(operation(), ": ", group.call()), result);
}

void NcclLink::Abort() {
  const MutexLock lock(&mutex_);
  if (std::exchange(ended_, true)) return;
  ended_changed_.notify_all();
  if (communicator_ == nullptr) return;
  aborter_ = std::thread([this, communicator = communicator_] { nccl_.CommAbort(communicator); });
}

void NcclLink::Close(absl::Duration grace) {
  {
    MutexLock lock(&mutex_);
    if (ended_ || communicator_ == nullptr) return;
    const absl::Time end = absl::Now() + grace;
    const int finalized = AwaitProgress(lock, nccl_.CommFinalize(communicator_), end);
    if (!ended_ && finalized == NcclApi::kSuccess) {
      ended_ = true;
      nccl_.CommDestroy(communicator_);
      return;
    }
  }
  Abort();
}

}  // namespace shardstep
