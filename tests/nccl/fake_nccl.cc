#include "shardstep/tests/nccl/fake_nccl.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shardstep {
namespace {

std::string TextOf(absl::Span<const FakeNcclCall> calls) {
  return absl::StrJoin(calls, " + ",
                       [](std::string* out, const FakeNcclCall& call) { absl::StrAppend(out, call.Text()); });
}

std::string RankText(int rank, absl::Span<const FakeNcclCall> calls) {
  return absl::StrCat("rank ", rank, " ", TextOf(calls));
}

bool AreMessages(absl::Span<const FakeNcclCall> calls) { return calls[0].is_message(); }

// The messages of `kind` with `peer` that have not been matched, in their order.
std::vector<FakeNcclCall*> Unmatched(std::vector<FakeNcclCall>& calls, FakeNcclCall::Kind kind, int peer) {
  std::vector<FakeNcclCall*> found;
  for (FakeNcclCall& call : calls) {
    if (call.kind == kind && call.peer == peer && !call.matched) found.push_back(&call);
  }
  return found;
}

}  // namespace

FakeNccl::FakeNccl(FakeCuda& cuda, const FakeNcclOptions& options) : cuda_(cuda), options_(options) {}
FakeNccl::~FakeNccl() {
  {
    const MutexLock lock(&mutex_);
    for (const auto& [id, clique] : cliques_) {
      for (const auto& member : clique->members) {
        if (member != nullptr) member->aborted = true;
      }
    }
    changed_.notify_all();
  }
  // Streams may still be in operations, or about to come to them.
  while (enqueued_ > 0) std::this_thread::yield();
}

// ---- For tests ------------------------------------------------------------------------------------------------------

void FakeNccl::FailCall(const std::string& name, int nth, int result) {
  const MutexLock lock(&mutex_);
  faults_[{name, calls_[name] + nth}] = result;
}

void FakeNccl::SetInitResult(int rank, int result) {
  const MutexLock lock(&mutex_);
  init_results_[rank] = result;
}

void FakeNccl::FailAsync(int rank, int result, const std::string& last_error) {
  const MutexLock lock(&mutex_);
  for (const auto& [id, clique] : cliques_) {
    if (rank >= clique->world_size || clique->members[static_cast<size_t>(rank)] == nullptr) continue;
    clique->members[static_cast<size_t>(rank)]->error = result;
    clique->members[static_cast<size_t>(rank)]->last_error = last_error;
  }
}

int64_t FakeNccl::calls(const std::string& name) {
  const MutexLock lock(&mutex_);
  return calls_[name];
}

int FakeNccl::live() {
  const MutexLock lock(&mutex_);
  return live_;
}

std::vector<std::string> FakeNccl::problems() {
  const MutexLock lock(&mutex_);
  return problems_;
}

// ---- Communicators --------------------------------------------------------------------------------------------------

int FakeNccl::Count(const std::string& name) {
  const auto fault = faults_.find({name, ++calls_[name]});
  return fault == faults_.end() ? kSuccess : fault->second;
}

FakeNccl::Member* FakeNccl::Find(const char* call, NcclHandle communicator) {
  auto* const member = static_cast<Member*>(communicator);
  if (member != nullptr && !member->gone) return member;
  problems_.push_back(member == nullptr ? absl::StrCat(call, " without a communicator")
                                        : absl::StrCat(call, " of rank ", member->rank, " after its end"));
  return nullptr;
}

std::string FakeNccl::ErrorText(int result, NcclHandle communicator) {
  constexpr const char* kTexts[] = {"no error",
                                    "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
                                    "unhandled system error (run with NCCL_DEBUG=INFO for details)",
                                    "internal error",
                                    "invalid argument",
                                    "invalid usage",
                                    "remote process exited or there was a network error",
                                    "NCCL operation in progress"};
  const MutexLock lock(&mutex_);
  std::string text = result >= 0 && result < 8 ? kTexts[result] : "unknown result code";
  const auto* const member = static_cast<const Member*>(communicator);
  if (member != nullptr && !member->last_error.empty()) absl::StrAppend(&text, " (", member->last_error, ")");
  return text;
}

int FakeNccl::GetUniqueId(NcclId* id) {
  const MutexLock lock(&mutex_);
  const int result = Count("GetUniqueId");
  id->fill('\0');
  const std::string text = absl::StrCat("clique ", ids_++);
  std::copy(text.begin(), text.end(), id->begin());
  return result;
}

int FakeNccl::CommInitRank(NcclHandle* communicator, int world_size, const NcclId& id, int rank) {
  const MutexLock lock(&mutex_);
  if (const int result = Count("CommInitRank"); result != kSuccess) return result;
  std::unique_ptr<Clique>& clique = cliques_[id];
  if (clique == nullptr) {
    clique = std::make_unique<Clique>();
    clique->world_size = world_size;
    clique->members.resize(static_cast<size_t>(world_size));
  }
  if (clique->world_size != world_size || rank < 0 || rank >= world_size ||
      clique->members[static_cast<size_t>(rank)] != nullptr) {
    problems_.push_back(
        absl::StrCat("CommInitRank of rank ", rank, " of ", world_size, ": not a new one of ", clique->world_size));
    return kInvalidArgument;
  }
  auto member = std::make_unique<Member>();
  member->clique = clique.get();
  member->rank = rank;
  *communicator = member.get();
  clique->members[static_cast<size_t>(rank)] = std::move(member);
  ++live_;
  return kInProgress;
}

bool FakeNccl::InitIsDone(const Member& member) const {
  const auto result = init_results_.find(member.rank);
  const std::vector<std::unique_ptr<Member>>& members = member.clique->members;
  const bool all_there = std::none_of(members.begin(), members.end(), [](const auto& m) { return m == nullptr; });
  return all_there && result == init_results_.end();
}

int FakeNccl::CommGetAsyncError(NcclHandle communicator, int* result) {
  const MutexLock lock(&mutex_);
  if (const int fault = Count("CommGetAsyncError"); fault != kSuccess) return fault;
  Member* const member = Find("CommGetAsyncError", communicator);
  if (member == nullptr) return kInvalidArgument;
  *result = member->error;
  if (member->error != kSuccess) return kSuccess;
  const auto init = init_results_.find(member->rank);
  if (init != init_results_.end() && init->second != kInProgress) {
    *result = init->second;
  } else if (!InitIsDone(*member)) {
    *result = kInProgress;
  } else if (member->connecting != nullptr) {
    const std::vector<std::unique_ptr<Member>>& members = member->clique->members;
    const int64_t number = member->connecting->number;
    const bool all_issued =
        std::all_of(members.begin(), members.end(), [number](const auto& m) { return m->issued > number; });
    *result = all_issued ? EnqueueOn(*member, std::exchange(member->connecting, nullptr)) : kInProgress;
  } else if (member->finalized && member->executed < member->issued) {
    *result = kInProgress;
  }
  return kSuccess;
}

int FakeNccl::CommFinalize(NcclHandle communicator) {
  const MutexLock lock(&mutex_);
  if (const int fault = Count("CommFinalize"); fault != kSuccess) return fault;
  Member* const member = Find("CommFinalize", communicator);
  if (member == nullptr) return kInvalidArgument;
  if (!InitIsDone(*member) || member->finalized || member->revoked) {
    problems_.push_back(absl::StrCat("CommFinalize of rank ", member->rank, ", which is not ready"));
    return kInvalidUsage;
  }
  member->finalized = true;
  return kInProgress;
}

int FakeNccl::CommDestroy(NcclHandle communicator) {
  const MutexLock lock(&mutex_);
  const int fault = Count("CommDestroy");
  Member* const member = Find("CommDestroy", communicator);
  if (member == nullptr) return kInvalidArgument;
  if (!member->finalized || member->executed < member->issued) {
    problems_.push_back(absl::StrCat("CommDestroy of rank ", member->rank, " before it is finalized"));
  }
  member->gone = true;
  --live_;
  return fault;
}

int FakeNccl::CommRevoke(NcclHandle communicator) {
  const MutexLock lock(&mutex_);
  if (const int fault = Count("CommRevoke"); fault != kSuccess) return fault;
  Member* const member = Find("CommRevoke", communicator);
  if (member == nullptr) return kInvalidArgument;
  if (!options_.revoke || !InitIsDone(*member) || member->finalized || member->revoked) {
    problems_.push_back(absl::StrCat("CommRevoke of rank ", member->rank, ", which cannot be revoked"));
    return kInvalidArgument;
  }
  member->revoked = true;
  member->aborted = true;
  changed_.notify_all();
  return kInProgress;
}

int FakeNccl::CommAbort(NcclHandle communicator) {
  const MutexLock lock(&mutex_);
  const int fault = Count("CommAbort");
  Member* const member = Find("CommAbort", communicator);
  if (member == nullptr) return kInvalidArgument;
  member->aborted = true;
  member->gone = true;
  --live_;
  changed_.notify_all();
  return fault;
}

// ---- Issue ----------------------------------------------------------------------------------------------------------

int FakeNccl::GroupStart() {
  const MutexLock lock(&mutex_);
  if (const int fault = Count("GroupStart"); fault != kSuccess) return fault;
  ++groups_[std::this_thread::get_id()].depth;
  return kSuccess;
}

int FakeNccl::GroupEnd() {
  const MutexLock lock(&mutex_);
  const int fault = Count("GroupEnd");
  PendingGroup& group = groups_[std::this_thread::get_id()];
  if (group.depth == 0) {
    problems_.push_back("GroupEnd without GroupStart");
    return kInvalidUsage;
  }
  if (--group.depth > 0) return fault;
  const PendingGroup whole = std::exchange(group, {});
  if (fault != kSuccess) return fault;
  return whole.error != kSuccess ? whole.error : IssueGroup(whole);
}

int FakeNccl::IssueGroup(const PendingGroup& group) {
  int result = kSuccess;
  std::vector<Member*> members;
  for (const auto& [member, call] : group.calls) {
    if (std::find(members.begin(), members.end(), member) == members.end()) members.push_back(member);
  }
  for (Member* const member : members) {
    auto operation = std::make_shared<Operation>();
    for (const auto& [of, call] : group.calls) {
      if (of != member) continue;
      if (!operation->calls.empty() && call.first != operation->stream) {
        Report(*member->clique, absl::StrCat(RankText(member->rank, operation->calls), ": a group on several streams"));
      }
      operation->stream = call.first;
      operation->calls.push_back(call.second);
    }
    const int issued = Issue(*member, std::move(operation));
    if (result == kSuccess) result = issued;
  }
  return result;
}

int FakeNccl::Add(const char* name, FakeNcclCall call, NcclHandle communicator, CudaStreamHandle stream) {
  const MutexLock lock(&mutex_);
  PendingGroup& group = groups_[std::this_thread::get_id()];
  Member* member = nullptr;
  int error = Count(name);
  if (error == kSuccess) error = Check(name, call, communicator, &member);
  if (error != kSuccess) {
    if (group.depth > 0) group.error = error;  // nothing of it is done
    return error;
  }
  if (group.depth == 0) return IssueGroup({.calls = {{member, {stream, call}}}});
  group.calls.push_back({member, {stream, call}});
  return kSuccess;
}

int FakeNccl::Check(const char* name, const FakeNcclCall& call, NcclHandle communicator, Member** member) {
  *member = Find(name, communicator);
  if (*member == nullptr) return kInvalidArgument;
  const std::string wrong = call.Misplaced((*member)->rank, (*member)->clique->world_size);
  if (wrong.empty()) return kSuccess;
  Report(*(*member)->clique, absl::StrCat("rank ", (*member)->rank, " ", call.Text(), ": ", wrong));
  return kInvalidArgument;
}

int FakeNccl::Issue(Member& member, std::shared_ptr<Operation> operation) {
  if (!InitIsDone(member) || member.finalized || member.revoked || member.connecting != nullptr) {
    Report(*member.clique,
           absl::StrCat(RankText(member.rank, operation->calls), " while the communicator is not ready"));
    return kInvalidUsage;
  }
  operation->number = member.issued++;
  const bool is_first = member.clique->connected.count(operation->calls[0].kind) == 0;
  if (options_.connects_when_needed && is_first) {
    member.connecting = std::move(operation);
    return kInProgress;
  }
  return EnqueueOn(member, operation);
}

int FakeNccl::EnqueueOn(Member& member, const std::shared_ptr<Operation>& operation) {
  member.clique->connected.insert(operation->calls[0].kind);
  std::vector<MemoryAccess> accesses;
  for (const FakeNcclCall& call : operation->calls) {
    const std::vector<MemoryAccess> more = call.Accesses(member.rank, member.clique->world_size);
    accesses.insert(accesses.end(), more.begin(), more.end());
  }
  cuda_.SetDevice(cuda_.DeviceOf(operation->stream));
  const std::string name = absl::StrCat("NCCL ", TextOf(operation->calls));
  bool capturing = false;
  cuda_.StreamIsCapturing(operation->stream, &capturing);
  if (capturing) {
    ++member.executed;
    const int captured = cuda_.Enqueue(operation->stream, name, accesses,
                                       [this, &member, calls = operation->calls] { ExecuteCaptured(member, calls); });
    return captured == CudaApi::kSuccess ? kSuccess : kUnhandledCudaError;
  }
  // Goes with the operation, also when its device has failed and it is never run.
  ++enqueued_;
  const std::shared_ptr<void> token(nullptr, [this](void*) { --enqueued_; });
  const int error = cuda_.Enqueue(operation->stream, name, accesses,
                                  [this, &member, operation, token] { Execute(member, operation); });
  return error == CudaApi::kSuccess ? kSuccess : kUnhandledCudaError;
}

// ---- Execution ------------------------------------------------------------------------------------------------------

void FakeNccl::Execute(Member& member, const std::shared_ptr<Operation>& operation) {
  MutexLock lock(&mutex_);
  while (!member.aborted && member.executed < operation->number) changed_.wait(lock.lock());
  Wait(member, operation, lock);
  ++member.executed;
  changed_.notify_all();
}

// Every launch of a graph is an operation of its own; its stream says when.
void FakeNccl::ExecuteCaptured(Member& member, const std::vector<FakeNcclCall>& calls) {
  MutexLock lock(&mutex_);
  while (!member.aborted && member.head != nullptr) changed_.wait(lock.lock());
  Wait(member, std::make_shared<Operation>(Operation{.calls = calls}), lock);
  changed_.notify_all();
}

void FakeNccl::Wait(Member& member, const std::shared_ptr<Operation>& operation, MutexLock& lock) {
  if (member.aborted) return;
  member.head = operation;
  MakeProgress(*member.clique);
  while (!member.aborted && !operation->done) changed_.wait(lock.lock());
  member.head = nullptr;
}

void FakeNccl::MakeProgress(Clique& clique) {
  bool moved = RunCollectives(clique);
  for (const auto& sender : clique.members) {
    for (const auto& receiver : clique.members) {
      if (sender != nullptr && receiver != nullptr && MatchMessages(clique, *sender, *receiver)) moved = true;
    }
  }
  bool all_wait = true;
  std::vector<std::string> heads;
  for (const auto& member : clique.members) {
    all_wait = all_wait && member != nullptr && member->head != nullptr && !member->head->done;
    if (member == nullptr || member->head == nullptr) continue;
    std::vector<FakeNcclCall>& calls = member->head->calls;
    const bool matched = std::all_of(calls.begin(), calls.end(), [](const auto& call) { return call.matched; });
    if (matched) member->head->done = true;
    all_wait = all_wait && !member->head->done;
    heads.push_back(RankText(member->rank, calls));
  }
  if (moved) changed_.notify_all();
  if (all_wait && !moved && !clique.has_problem) Report(clique, absl::StrCat("deadlock: ", absl::StrJoin(heads, ", ")));
}

// The messages of a group wait together; between two ranks they match in their order.
bool FakeNccl::MatchMessages(Clique& clique, Member& sender, Member& receiver) {
  if (sender.head == nullptr || receiver.head == nullptr) return false;
  const std::vector<FakeNcclCall*> sends = Unmatched(sender.head->calls, FakeNcclCall::kSend, receiver.rank);
  const std::vector<FakeNcclCall*> receives = Unmatched(receiver.head->calls, FakeNcclCall::kRecv, sender.rank);
  const size_t pairs = std::min(sends.size(), receives.size());
  for (size_t i = 0; i < pairs; ++i) {
    const FakeNcclCall& send = *sends[i];
    const FakeNcclCall& receive = *receives[i];
    if (send.count != receive.count || send.type != receive.type) {
      Report(clique,
             absl::StrCat("rank ", sender.rank, " ", send.Text(), " meets rank ", receiver.rank, " ", receive.Text()));
      return i > 0;
    }
    std::memmove(receive.to, send.from, static_cast<size_t>(send.bytes()));
    sends[i]->matched = receives[i]->matched = true;
  }
  return pairs > 0;
}

bool FakeNccl::RunCollectives(Clique& clique) {
  const Member* first = nullptr;
  bool all_there = true;
  for (const auto& member : clique.members) {
    const bool there = member != nullptr && member->head != nullptr && !member->head->done;
    all_there = all_there && there;
    if (!there || AreMessages(member->head->calls)) continue;
    if (first == nullptr) first = member.get();
    const std::vector<FakeNcclCall>& mine = member->head->calls;
    const std::vector<FakeNcclCall>& other = first->head->calls;
    if (!std::equal(mine.begin(), mine.end(), other.begin(), other.end(), Agree)) {
      Report(clique, absl::StrCat(RankText(member->rank, mine), " meets ", RankText(first->rank, other)));
      return false;
    }
  }
  if (first == nullptr || !all_there) return false;
  for (const auto& member : clique.members) {
    if (AreMessages(member->head->calls)) return false;
  }
  for (size_t c = 0; c < first->head->calls.size(); ++c) {
    std::vector<const FakeNcclCall*> ranks;
    for (const auto& member : clique.members) {
      ranks.push_back(&member->head->calls[c]);
      member->head->calls[c].matched = true;
    }
    RunCollective(ranks);
  }
  return true;
}

void FakeNccl::Report(Clique& clique, const std::string& problem) {
  problems_.push_back(problem);
  clique.has_problem = true;
  for (const auto& member : clique.members) {
    if (member == nullptr || member->error != kSuccess) continue;
    member->error = kInvalidUsage;
    member->last_error = problem;
  }
}

// ---- Operations -----------------------------------------------------------------------------------------------------

int FakeNccl::Send(const void* from, int64_t count, DType dtype, int peer, NcclHandle communicator,
                   CudaStreamHandle stream) {
  return Add("Send",
             {.kind = FakeNcclCall::kSend,
              .from = static_cast<const std::byte*>(from),
              .count = count,
              .type = FakeNcclCall::TypeOf(dtype),
              .peer = peer},
             communicator, stream);
}

int FakeNccl::Recv(void* to, int64_t count, DType dtype, int peer, NcclHandle communicator, CudaStreamHandle stream) {
  return Add("Recv",
             {.kind = FakeNcclCall::kRecv,
              .to = static_cast<std::byte*>(to),
              .count = count,
              .type = FakeNcclCall::TypeOf(dtype),
              .peer = peer},
             communicator, stream);
}

int FakeNccl::AllToAll(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                       CudaStreamHandle stream) {
  return Add("AllToAll",
             FakeNcclCall::Collective(FakeNcclCall::kAllToAll, from, to, count, FakeNcclCall::TypeOf(dtype)),
             communicator, stream);
}

int FakeNccl::AllGather(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                        CudaStreamHandle stream) {
  return Add("AllGather",
             FakeNcclCall::Collective(FakeNcclCall::kAllGather, from, to, count, FakeNcclCall::TypeOf(dtype)),
             communicator, stream);
}

int FakeNccl::ReduceScatterSum(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                               CudaStreamHandle stream) {
  return Add("ReduceScatterSum",
             FakeNcclCall::Collective(FakeNcclCall::kReduceScatterSum, from, to, count, FakeNcclCall::TypeOf(dtype)),
             communicator, stream);
}

int FakeNccl::AllReduceSum(const int64_t* from, int64_t* to, int64_t count, NcclHandle communicator,
                           CudaStreamHandle stream) {
  return Add("AllReduceSum",
             FakeNcclCall::Collective(FakeNcclCall::kAllReduceSum, from, to, count, FakeNcclCall::kInt64), communicator,
             stream);
}

int FakeNccl::AllReduceMin(const uint64_t* from, uint64_t* to, int64_t count, NcclHandle communicator,
                           CudaStreamHandle stream) {
  return Add("AllReduceMin",
             FakeNcclCall::Collective(FakeNcclCall::kAllReduceMin, from, to, count, FakeNcclCall::kUint64),
             communicator, stream);
}

}  // namespace shardstep
