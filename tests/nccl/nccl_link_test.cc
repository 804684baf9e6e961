// How a communicator of NCCL ends: closed, revoked and freed later, or aborted; once.
#include "shardstep/comm/nccl/nccl_link.h"

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/tests/nccl/fake_nccl.h"

namespace shardstep {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr absl::Duration kGrace = absl::Milliseconds(50);

// Links of `ranks` ranks, all initialized unless `ready` is false; rank 0 has a stream.
class Links {
 public:
  explicit Links(int ranks, const FakeNcclOptions& options = {}, bool ready = true)
      : cuda(FakeCudaOptions{.devices = ranks}), nccl(cuda, options) {
    NcclId id;
    EXPECT_EQ(nccl.GetUniqueId(&id), NcclApi::kSuccess);
    if (!ready) nccl.SetInitResult(0, NcclApi::kInProgress);
    for (int rank = 0; rank < ranks; ++rank) {
      links_.push_back(std::make_unique<NcclLink>(nccl));
      EXPECT_TRUE(links_.back()->Begin(ranks, id, rank).ok());
    }
    for (const auto& link : links_) {
      const absl::StatusOr<NcclLink::State> state = link->Poll();
      EXPECT_TRUE(state.ok()) << state.status();
      EXPECT_EQ(*state, ready ? NcclLink::State::kReady : NcclLink::State::kUnderWay);
    }
    EXPECT_EQ(cuda.SetDevice(0), 0);
    EXPECT_EQ(cuda.StreamCreate(&stream), 0);
  }
  ~Links() {
    links_.clear();
    EXPECT_EQ(nccl.live(), 0);
    EXPECT_EQ(cuda.StreamDestroy(stream), 0);
  }

  NcclLink& operator[](int rank) { return *links_[static_cast<size_t>(rank)]; }
  void Destroy(int rank) { links_[static_cast<size_t>(rank)].reset(); }
  // Of rank 0, which no other rank takes part in.
  absl::Status Gather(bool in_graph = false) {
    return (*this)[0].Issue([] { return std::string("gather"); }, stream,
                            [&](NcclCalls& calls) { calls.AllGather(values_.data(), values_.data(), 4, DType::kFp32); },
                            in_graph);
  }
  void AwaitCalls(const std::string& name, int64_t calls) {
    while (nccl.calls(name) < calls) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // A freed communicator would be seen by now.
  void ExpectNothingIsFreed() {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(nccl.calls("CommAbort"), 0);
  }

  FakeCuda cuda;
  FakeNccl nccl;
  CudaStreamHandle stream = nullptr;

 private:
  std::vector<float> values_ = std::vector<float>(8);
  std::vector<std::unique_ptr<NcclLink>> links_;
};

TEST(NcclLinkTest, R10RevokedItEndsWhatIsUnderWayAndFreesNothingYet) {
  Links links(2);
  ASSERT_TRUE(links.Gather().ok());
  links[0].Revoke();
  EXPECT_EQ(links.cuda.StreamSynchronize(links.stream), 0);
  links.ExpectNothingIsFreed();
  EXPECT_EQ(links.nccl.calls("CommRevoke"), 1);
  EXPECT_EQ(links.Gather().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(links[0].Poll().status().code(), absl::StatusCode::kAborted);
  links[0].Abort();
  links.AwaitCalls("CommAbort", 1);
  EXPECT_THAT(links.nccl.problems(), IsEmpty());
}

TEST(NcclLinkTest, R10RevokedAndAbortedTwiceItEndsOnce) {
  Links links(1);
  for (int i = 0; i < 2; ++i) links[0].Revoke();
  for (int i = 0; i < 2; ++i) links[0].Abort();
  links[0].Revoke();
  links.Destroy(0);
  EXPECT_EQ(links.nccl.calls("CommRevoke"), 1);
  EXPECT_EQ(links.nccl.calls("CommAbort"), 1);
  EXPECT_THAT(links.nccl.problems(), IsEmpty());
}

TEST(NcclLinkTest, R10DestructionFreesWhatWasRevoked) {
  Links links(1);
  links[0].Revoke();
  links.AwaitCalls("CommRevoke", 1);
  links.Destroy(0);
  EXPECT_EQ(links.nccl.calls("CommAbort"), 1);
  EXPECT_EQ(links.nccl.live(), 0);
}

TEST(NcclLinkTest, ClosedAfterARevocationItIsFreedByAnAbort) {
  Links links(1);
  links[0].Revoke();
  links.AwaitCalls("CommRevoke", 1);
  links[0].Close(kGrace);
  links.AwaitCalls("CommAbort", 1);
  EXPECT_EQ(links.nccl.calls("CommFinalize"), 0) << "invalid after a revocation";
  EXPECT_EQ(links.nccl.calls("CommDestroy"), 0);
}

TEST(NcclLinkTest, AnAbortNeedsNoRevocation) {
  Links links(2);
  ASSERT_TRUE(links.Gather().ok());
  links[0].Abort();
  EXPECT_EQ(links.cuda.StreamSynchronize(links.stream), 0);
  links.Destroy(0);
  EXPECT_EQ(links.nccl.calls("CommRevoke"), 0);
  EXPECT_EQ(links.nccl.calls("CommAbort"), 1);
}

// Without ncclCommRevoke, before it may be called, and where it is not enough: aborted at once.
TEST(NcclLinkTest, R10WhatCannotBeRevokedIsAborted) {
  Links old(2, {.revoke = false});
  ASSERT_TRUE(old.Gather().ok());
  old[0].Revoke();
  EXPECT_EQ(old.cuda.StreamSynchronize(old.stream), 0);
  old.AwaitCalls("CommAbort", 1);

  Links in_init(1, {}, /*ready=*/false);
  in_init[0].Revoke();
  in_init.AwaitCalls("CommAbort", 1);

  Links in_graph(1);
  ASSERT_TRUE(in_graph.Gather(/*in_graph=*/true).ok());
  ASSERT_TRUE(in_graph.Gather().ok());
  in_graph[0].Revoke();
  in_graph.AwaitCalls("CommAbort", 1);

  for (Links* const links : {&old, &in_init, &in_graph}) {
    EXPECT_EQ(links->nccl.calls("CommRevoke"), 0);
    EXPECT_THAT(links->nccl.problems(), IsEmpty());
  }
}

TEST(NcclLinkTest, ARevocationThatFailsIsAnAbort) {
  Links links(2);
  links.nccl.FailCall("CommRevoke", 1, FakeNccl::kInternalError);
  ASSERT_TRUE(links.Gather().ok());
  links[0].Revoke();
  EXPECT_EQ(links.cuda.StreamSynchronize(links.stream), 0);
  links.AwaitCalls("CommAbort", 1);
}

TEST(NcclLinkTest, WhatIsDoneIsClosedAndWhatIsNotIsAborted) {
  Links done(1);
  ASSERT_TRUE(done.Gather().ok());
  done[0].Close(absl::Minutes(1));
  EXPECT_EQ(done.nccl.calls("CommDestroy"), 1);
  done[0].Revoke();
  done[0].Abort();
  done.Destroy(0);
  EXPECT_EQ(done.nccl.calls("CommAbort"), 0);

  Links stuck(2);
  ASSERT_TRUE(stuck.Gather().ok());
  stuck[0].Close(kGrace);
  EXPECT_EQ(stuck.cuda.StreamSynchronize(stuck.stream), 0);
  stuck.AwaitCalls("CommAbort", 1);
  EXPECT_EQ(stuck.nccl.calls("CommRevoke"), 0) << "invalid once it is finalized";
  EXPECT_THAT(stuck.nccl.problems(), IsEmpty());
}

}  // namespace
}  // namespace shardstep
