#include "shardstep/comm/nccl/nccl_link.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"

namespace shardstep {
namespace {

// Between two looks at what NCCL does in the background.
constexpr auto kLookPause = std::chrono::microseconds(50);

// The call did what it should, or is about to.
bool NoError(int result) { return result == NcclApi::kSuccess || result == NcclApi::kInProgress; }

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
  std::thread ender;
  {
    const MutexLock lock(&mutex_);
    ender = std::move(ender_);
  }
  if (ender.joinable()) ender.join();
}

absl::Status NcclLink::Check(absl::string_view what, int result) {
  if (NoError(result)) return absl::OkStatus();
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
  if (state == NcclApi::kInProgress) return State::kUnderWay;
  ready_ = true;
  return State::kReady;
}

int NcclLink::AwaitProgress(MutexLock& lock, int result, absl::Time end) {
  while (result == NcclApi::kInProgress && !ended_ && absl::Now() < end) {
    const int asked = nccl_.CommGetAsyncError(communicator_, &result);
    if (asked != NcclApi::kSuccess) return asked;
    if (result == NcclApi::kInProgress) end_changed_.wait_for(lock.lock(), kLookPause);
  }
  return result;
}

absl::Status NcclLink::Issue(absl::FunctionRef<std::string()> operation, CudaStreamHandle stream,
                             absl::FunctionRef<void(NcclCalls&)> calls, bool in_graph) {
  MutexLock lock(&mutex_);
  if (ended_) return EndedError(operation());
  in_graphs_ = in_graphs_ || in_graph;
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

void NcclLink::Revoke() {
  const MutexLock lock(&mutex_);
  if (!ended_) BeginEnd();
}

void NcclLink::Abort() {
  const MutexLock lock(&mutex_);
  frees_ = true;
  end_changed_.notify_all();
  if (!ended_) BeginEnd();
}

void NcclLink::BeginEnd() {
  ended_ = true;
  end_changed_.notify_all();
  if (communicator_ == nullptr) return;
  const bool revokes = !frees_ && ready_ && !in_graphs_ && nccl_.HasRevoke();
  ender_ = std::thread([this, communicator = communicator_, revokes] { End(communicator, revokes); });
}

void NcclLink::End(NcclHandle communicator, bool revokes) {
  if (revokes) {
    const int revoked = nccl_.CommRevoke(communicator);
    MutexLock lock(&mutex_);
    while (NoError(revoked) && !frees_) end_changed_.wait(lock.lock());
  }
  nccl_.CommAbort(communicator);
}

void NcclLink::Close(absl::Duration grace) {
  {
    MutexLock lock(&mutex_);
    if (communicator_ == nullptr) return;
    const absl::Time end = absl::Now() + grace;
    const bool closes = !ended_ && AwaitProgress(lock, nccl_.CommFinalize(communicator_), end) == NcclApi::kSuccess;
    if (closes && !ended_) {
      ended_ = frees_ = true;
      nccl_.CommDestroy(communicator_);
      return;
    }
  }
  Abort();
}

}  // namespace shardstep
