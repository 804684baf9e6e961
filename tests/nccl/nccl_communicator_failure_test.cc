// What communicators over NCCL do when ranks, NCCL or devices fail, leave, disagree or come late. After each test
// nothing is left: no communicator, stream, event or memory.

#include <atomic>
#include <chrono>
#include <thread>

#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/nccl/nccl_machine.h"

namespace shardstep {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr absl::Duration kLong = absl::Minutes(1);
constexpr absl::Duration kShort = absl::Milliseconds(400);

const std::vector<BucketExtent>& Buckets() {
  static const std::vector<BucketExtent> buckets = {
      {.shard_elements = 64}, {.shard_elements = 64, .gradient_begin_byte = 1024, .weight_begin_byte = 1024}};
  return buckets;
}

void Meet(Rendezvous& rendezvous) {
  const absl::Status status = rendezvous.AllGatherBytes("test", "", kLong).status();
  ASSERT_TRUE(status.ok()) << status;
}

absl::Status AwaitTheEnd(Communicator& communicator) {
  while (communicator.AsyncStatus().ok()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return communicator.AsyncStatus();
}

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

/// One rank of a test: its communicator, allocated, and a stream.
struct Rank {
  Communicator& communicator;
  Stream& stream;
  NcclContractDevice& device;
  Rendezvous& rendezvous;

  int rank() const { return communicator.rank(); }
  absl::Status Finish() { return stream.Synchronize(stream.Record()); }
  /// Waits for the slices of bucket 0.
  absl::Status ExchangeAndAwait() {
    SHARDSTEP_RETURN_IF_ERROR(communicator.Exchange(0, 0, {}, stream));
    SHARDSTEP_RETURN_IF_ERROR(communicator.AwaitSlices(0, 0, stream));
    return Finish();
  }
};

class NcclCommunicatorFailureTest : public testing::Test {
 protected:
  /// Bodies of all ranks, of a machine that is clean afterwards, but for `problems` of NCCL's rules.
  void Run(int world_size, const NcclOptions& options, const std::function<void(Rank&)>& body) {
    machine_ = std::make_unique<NcclMachine>(world_size, nccl_options_);
    if (prepare_) prepare_(*machine_);
    machine_->Run([&](Rendezvous& rendezvous) {
      NcclContractDevice device(*machine_, rendezvous.rank());
      auto communicator = machine_->Create(rendezvous, options);
      ASSERT_TRUE(communicator.ok()) << communicator.status();
      const auto stream = device.MakeStream();
      const absl::Status allocated = (*communicator)->Allocate({.buckets = Buckets()});
      ASSERT_TRUE(allocated.ok()) << allocated;
      Rank rank{**communicator, *stream, device, rendezvous};
      body(rank);
      Meet(rendezvous);
      communicator->reset();
      EXPECT_TRUE(stream->Synchronize(stream->Record()).ok() || !stream->status().ok());
    });
    machine_->ExpectClean(problems_);
  }

  /// What Create says to each rank, by rank.
  std::vector<absl::Status> CreateAll(
      int world_size,
      const std::function<absl::StatusOr<std::unique_ptr<Communicator>>(Rendezvous& test, Rendezvous& own)>& create) {
    machine_ = std::make_unique<NcclMachine>(world_size, nccl_options_);
    if (prepare_) prepare_(*machine_);
    std::vector<absl::Status> statuses(static_cast<size_t>(world_size));
    machine_->Run([&](Rendezvous& rendezvous) {
      const auto communicator = create(rendezvous, machine_->OwnRendezvous(rendezvous));
      statuses[static_cast<size_t>(rendezvous.rank())] = communicator.status();
      Meet(rendezvous);
    });
    machine_->ExpectClean(problems_);
    return statuses;
  }
  std::vector<absl::Status> CreateAll(int world_size, const std::function<NcclOptions(int rank)>& options) {
    return CreateAll(world_size, [&](Rendezvous&, Rendezvous& own) {
      return CreateNcclCommunicator(machine_->nccl, machine_->device(own.rank()), machine_->memory(own.rank()), own,
                                    options(own.rank()));
    });
  }

  FakeNcclOptions nccl_options_;
  std::function<void(NcclMachine&)> prepare_;
  testing::Matcher<std::vector<std::string>> problems_ = testing::IsEmpty();
  std::unique_ptr<NcclMachine> machine_;
};

// ---- Aborts ---------------------------------------------------------------------------------------------------------

TEST_F(NcclCommunicatorFailureTest, AnAbortEndsTheWaitsOfAllRanksAndOfNcclOnce) {
  Run(4, QuickNccl(), [&](Rank& rank) {
    const absl::Status aborted = AbortedBy(3, absl::StatusCode::kDataLoss, "aborted: torn");
    if (rank.rank() == 3) {
      rank.communicator.Abort(absl::DataLossError("torn"));
      rank.communicator.Abort(absl::InternalError("twice"));
      EXPECT_EQ(AwaitTheEnd(rank.communicator), aborted);
    } else {
      EXPECT_EQ(rank.ExchangeAndAwait(), aborted);
      EXPECT_EQ(CauseOf(rank.communicator.AsyncStatus()), absl::StatusCode::kDataLoss);
      rank.communicator.Abort(absl::InternalError("after the news"));
    }
    EXPECT_EQ(rank.communicator.AsyncStatus(), aborted);
    EXPECT_EQ(rank.communicator.Publish(0, 0, rank.stream), aborted);
  });
  EXPECT_EQ(machine_->nccl.calls("CommAbort"), 4);
}

// A rank that frees what others' kernels still read would make them fault before they hear of the reason.
TEST_F(NcclCommunicatorFailureTest, R10NoRankFreesAnythingBeforeAllKnow) {
  Run(3, QuickNccl(), [&](Rank& rank) {
    if (rank.rank() == 1) {
      rank.communicator.Abort(absl::DataLossError("torn"));
      AwaitTheEnd(rank.communicator).IgnoreError();
    } else {
      EXPECT_EQ(rank.ExchangeAndAwait(), AbortedBy(1, absl::StatusCode::kDataLoss, "aborted: torn"));
    }
    EXPECT_EQ(rank.device.machine().cuda.StreamSynchronize(static_cast<CudaStream&>(rank.stream).handle()), 0);
    Meet(rank.rendezvous);
    EXPECT_EQ(machine_->nccl.calls("CommAbort"), 0);
    Meet(rank.rendezvous);
  });
  EXPECT_EQ(machine_->nccl.calls("CommRevoke"), 3);
  EXPECT_EQ(machine_->nccl.calls("CommAbort"), 3);
}

// A revocation that is over lets kernels begin again, and a graph's may come later: they would never end.
TEST_F(NcclCommunicatorFailureTest, R10WhatIsInAGraphIsAbortedAtOnce) {
  Run(2, QuickNccl(), [&](Rank& rank) {
    FakeCuda& cuda = machine_->cuda;
    const CudaStreamHandle stream = static_cast<CudaStream&>(rank.stream).handle();
    ASSERT_EQ(cuda.SetDevice(rank.rank()), 0);
    ASSERT_EQ(cuda.StreamBeginCapture(stream), 0);
    ASSERT_TRUE(rank.communicator.Exchange(0, 0, {}, rank.stream).ok());
    ASSERT_TRUE(rank.communicator.AwaitSlices(0, 0, rank.stream).ok());
    CudaGraphHandle graph = nullptr;
    ASSERT_EQ(cuda.StreamEndCapture(stream, &graph), 0);
    rank.communicator.Settle();
    Meet(rank.rendezvous);
    if (rank.rank() == 0) {
      EXPECT_EQ(cuda.GraphLaunch(graph, stream), 0);
      rank.communicator.Abort(absl::DataLossError("torn"));
      EXPECT_EQ(cuda.StreamSynchronize(stream), 0);
    }
    EXPECT_EQ(AwaitTheEnd(rank.communicator), AbortedBy(0, absl::StatusCode::kDataLoss, "aborted: torn"));
    EXPECT_EQ(cuda.GraphDestroy(graph), 0);
  });
  EXPECT_EQ(machine_->nccl.calls("CommRevoke"), 0);
  EXPECT_EQ(machine_->nccl.calls("CommAbort"), 2);
}

TEST_F(NcclCommunicatorFailureTest, AbortsOfManyThreadsAtTheSameTimeAreOne) {
  Run(2, QuickNccl(), [](Rank& rank) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&rank] { rank.communicator.Abort(absl::InternalError("enough")); });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(MessageOf(AwaitTheEnd(rank.communicator)), HasSubstr("aborted: enough"));
  });
  EXPECT_EQ(machine_->nccl.calls("CommAbort"), 2);
}

TEST_F(NcclCommunicatorFailureTest, OthersHearOfAnAbortByWhoIsGoneAtOnce) {
  machine_ = std::make_unique<NcclMachine>(2);
  machine_->Run([&](Rendezvous& rendezvous) {
    auto communicator = machine_->Create(rendezvous, QuickNccl());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    if (rendezvous.rank() == 0) {
      (*communicator)->Abort(absl::DataLossError("torn"));
      communicator->reset();
    } else {
      EXPECT_EQ(AwaitTheEnd(**communicator), AbortedBy(0, absl::StatusCode::kDataLoss, "aborted: torn"));
    }
    Meet(rendezvous);
  });
  machine_->ExpectClean();
}

TEST_F(NcclCommunicatorFailureTest, AnAbortEndsAnAllocateThatWaits) {
  machine_ = std::make_unique<NcclMachine>(2);
  machine_->Run([&](Rendezvous& rendezvous) {
    auto communicator = machine_->Create(rendezvous, QuickNccl());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    if (rendezvous.rank() == 0) {
      EXPECT_EQ((*communicator)->Allocate({.buckets = Buckets()}),
                AbortedBy(1, absl::StatusCode::kResourceExhausted, "aborted: no memory"));
    } else {
      (*communicator)->Abort(absl::ResourceExhaustedError("no memory"));
    }
    Meet(rendezvous);
  });
  machine_->ExpectClean();
}

TEST_F(NcclCommunicatorFailureTest, AReductionThatWasCutOffIsNotWhole) {
  Run(2, QuickNccl(), [](Rank& rank) {
    auto buffer = rank.device.memory().AllocateForBoth(sizeof(SmallReduction), "reduction");
    ASSERT_TRUE(buffer.ok());
    auto& reduction = *buffer->as<SmallReduction>();
    reduction.sums[SmallReduction::kArrivals] = 1;
    if (rank.rank() == 0) {
      EXPECT_TRUE(rank.communicator.AllReduceSmall(&reduction, rank.stream).ok());
      Meet(rank.rendezvous);
      EXPECT_EQ(rank.Finish(), AbortedBy(1, absl::StatusCode::kInternal, "aborted: no"));
    } else {
      Meet(rank.rendezvous);
      rank.communicator.Abort(absl::InternalError("no"));
    }
    EXPECT_EQ(rank.device.machine().cuda.StreamSynchronize(static_cast<CudaStream&>(rank.stream).handle()), 0);
    EXPECT_NE(reduction.sums[SmallReduction::kArrivals], 2);
  });
}

TEST_F(NcclCommunicatorFailureTest, AnotherLevelsFailureEndsAllRanksAndIsReportedOnce) {
  std::atomic<bool> fails = false;
  std::atomic<int> reports = 0;
  const absl::Status failure = AbortedBy(17, absl::StatusCode::kResourceExhausted, "aborted: no memory");
  NcclOptions options = QuickNccl();
  options.other_failure = [&] { return fails.load() ? failure : absl::OkStatus(); };
  options.on_failure = [&](const absl::Status& status) {
    EXPECT_EQ(status, failure);
    reports.fetch_add(1);
  };
  Run(2, options, [&](Rank& rank) {
    Meet(rank.rendezvous);
    fails.store(true);
    EXPECT_EQ(AwaitTheEnd(rank.communicator), failure);
    rank.communicator.Abort(absl::InternalError("later"));
  });
  EXPECT_EQ(reports.load(), 2);
}

// ---- NCCL and devices fail ------------------------------------------------------------------------------------------

TEST_F(NcclCommunicatorFailureTest, AnAsynchronousErrorEndsAllRanksWithTheWordsOfNccl) {
  Run(2, QuickNccl(), [&](Rank& rank) {
    if (rank.rank() == 1) {
      machine_->nccl.FailAsync(1, FakeNccl::kSystemError, "NET/IB: got completion from peer with status 12");
      EXPECT_EQ(AwaitTheEnd(rank.communicator),
                absl::InternalError("NCCL: unhandled system error (run with NCCL_DEBUG=INFO for details) (NET/IB: got "
                                    "completion from peer with status 12)"));
    } else {
      const absl::Status status = rank.ExchangeAndAwait();
      EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
      EXPECT_EQ(CauseOf(status), absl::StatusCode::kInternal);
      EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("rank 1 failed: NCCL: "), HasSubstr("status 12")));
    }
  });
  EXPECT_EQ(machine_->nccl.calls("CommAbort"), 2);
}

TEST_F(NcclCommunicatorFailureTest, ALostPeerIsNoErrorOfOurs) {
  Run(2, QuickNccl(), [&](Rank& rank) {
    Meet(rank.rendezvous);
    if (rank.rank() == 0) machine_->nccl.FailAsync(0, NcclApi::kRemoteError, "");
    const absl::Status status = AwaitTheEnd(rank.communicator);
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(CauseOf(status), absl::StatusCode::kAborted);
    EXPECT_THAT(MessageOf(status), HasSubstr("remote process exited or there was a network error"));
  });
}

TEST_F(NcclCommunicatorFailureTest, ADeviceThatFailsEndsAllRanks) {
  machine_ = std::make_unique<NcclMachine>(2);
  machine_->Run([&](Rendezvous& rendezvous) {
    NcclContractDevice device(*machine_, rendezvous.rank());
    auto communicator = machine_->Create(rendezvous, QuickNccl());
    ASSERT_TRUE(communicator.ok());
    ASSERT_TRUE((*communicator)->Allocate({.buckets = Buckets()}).ok());
    const auto stream = device.MakeStream();
    if (rendezvous.rank() == 0) {
      ASSERT_TRUE((*communicator)->Exchange(0, 0, {}, *stream).ok());
      machine_->cuda.FailDevice(0, FakeCuda::kIllegalAddress);
      EXPECT_THAT(MessageOf(AwaitTheEnd(**communicator)), HasSubstr("an illegal memory access was encountered"));
    } else {
      EXPECT_THAT(MessageOf(AwaitTheEnd(**communicator)),
                  AllOf(HasSubstr("rank 0 failed: "), HasSubstr("an illegal memory access was encountered")));
    }
    Meet(rendezvous);
  });
  EXPECT_EQ(machine_->nccl.live(), 0);
}

// Each call of NCCL fails on some rank at some time: every rank ends, with the call named.
class EveryCallTest : public NcclCommunicatorFailureTest, public testing::WithParamInterface<std::string> {};

TEST_P(EveryCallTest, ItsErrorEndsAllRanksAndIsNamed) {
  const std::string call = GetParam();
  const bool in_creation = call == "GetUniqueId" || call == "CommInitRank";
  const bool at_the_end = call == "CommFinalize" || call == "CommDestroy";
  nccl_options_.all_to_all = call != "Send" && call != "Recv";
  NcclOptions options = QuickNccl();
  if (call == "ReduceScatterSum") options.exchange = NcclExchange::kReduceScatter;
  machine_ = std::make_unique<NcclMachine>(2, nccl_options_);
  if (in_creation) machine_->nccl.FailCall(call, 1, FakeNccl::kUnhandledCudaError);
  machine_->Run([&](Rendezvous& rendezvous) {
    NcclContractDevice device(*machine_, rendezvous.rank());
    auto communicator = machine_->Create(rendezvous, options);
    absl::Status status = communicator.status();
    if (status.ok()) {
      ASSERT_TRUE((*communicator)->Allocate({.buckets = Buckets()}).ok());
      Meet(rendezvous);
      if (rendezvous.rank() == 0) machine_->nccl.FailCall(call, 1, FakeNccl::kUnhandledCudaError);
      Meet(rendezvous);
      const auto stream = device.MakeStream();
      SmallReduction reduction;
      (*communicator)->Exchange(0, 0, {}, *stream).IgnoreError();
      (*communicator)->AllReduceSmall(&reduction, *stream).IgnoreError();
      (*communicator)->Publish(0, 0, *stream).IgnoreError();
      status = at_the_end ? stream->Synchronize(stream->Record()) : AwaitTheEnd(**communicator);
    }
    if (at_the_end) {
      EXPECT_TRUE(status.ok()) << status;
    } else {
      EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("nccl"), HasSubstr("unhandled cuda error")));
    }
    Meet(rendezvous);
  });
  machine_->ExpectClean();
}

INSTANTIATE_TEST_SUITE_P(Nccl, EveryCallTest,
                         testing::Values("GetUniqueId", "CommInitRank", "CommGetAsyncError", "GroupStart", "GroupEnd",
                                         "Send", "Recv", "AllToAll", "AllGather", "ReduceScatterSum", "AllReduceSum",
                                         "AllReduceMin", "CommFinalize", "CommDestroy"),
                         [](const auto& call) { return call.param; });

// ---- Creation -------------------------------------------------------------------------------------------------------

TEST_F(NcclCommunicatorFailureTest, ARankWhoseInitializationFailsEndsTheOthersToo) {
  prepare_ = [](NcclMachine& machine) { machine.nccl.SetInitResult(1, FakeNccl::kSystemError); };
  for (const absl::Status& status : CreateAll(3, [](int) { return QuickNccl(); })) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(status.message(), "rank 1: NCCL: unhandled system error (run with NCCL_DEBUG=INFO for details)");
  }
  EXPECT_EQ(machine_->nccl.calls("CommAbort"), 3) << "of communicators that were still being initialized, too";
}

TEST_F(NcclCommunicatorFailureTest, AnInitializationThatDoesNotEndNamesWhoIsNotReady) {
  prepare_ = [](NcclMachine& machine) { machine.nccl.SetInitResult(2, NcclApi::kInProgress); };
  for (const absl::Status& status : CreateAll(3, [](int) { return QuickNccl(kShort); })) {
    EXPECT_EQ(status,
              absl::DeadlineExceededError("CreateNcclCommunicator: NCCL: rank 2 did not become ready within 400ms"));
  }
}

TEST_F(NcclCommunicatorFailureTest, ARankThatNeverCreatesIsNamed) {
  const auto statuses =
      CreateAll(2, [&](Rendezvous&, Rendezvous& own) -> absl::StatusOr<std::unique_ptr<Communicator>> {
        if (own.rank() == 1) return absl::UnknownError("not called");
        NcclOptions options = QuickNccl();
        options.setup_deadline = kShort;
        return CreateNcclCommunicator(machine_->nccl, machine_->device(0), machine_->memory(0), own, options);
      });
  EXPECT_EQ(statuses[0], absl::DeadlineExceededError("CreateNcclCommunicator: rank 1 did not arrive within 400ms"));
}

TEST_F(NcclCommunicatorFailureTest, BadOptionsAreRefusedEverywhereByName) {
  const auto refused = [&](const std::function<void(NcclOptions&)>& change) {
    const auto statuses = CreateAll(2, [&](int rank) {
      NcclOptions options = QuickNccl();
      if (rank == 1) change(options);
      return options;
    });
    EXPECT_EQ(statuses[0], statuses[1]);
    EXPECT_EQ(statuses[0].code(), absl::StatusCode::kInvalidArgument);
    return MessageOf(statuses[0]);
  };
  EXPECT_EQ(refused([](NcclOptions& o) { o.wait_deadline = absl::ZeroDuration(); }),
            "rank 1: wait_deadline = 0 is not positive");
  EXPECT_EQ(refused([](NcclOptions& o) { o.setup_deadline = -absl::Seconds(1); }),
            "rank 1: setup_deadline = -1s is not positive");
  EXPECT_EQ(refused([](NcclOptions& o) { o.heartbeat = absl::ZeroDuration(); }),
            "rank 1: heartbeat = 0 is not positive");
  EXPECT_EQ(refused([](NcclOptions& o) { o.landing_buckets = 1; }), "rank 1: landing_buckets = 1 is below 2");
  EXPECT_EQ(refused([](NcclOptions& o) { o.rank_names = {7}; }), "rank 1: rank_names: 1 names, there are 2 ranks");
}

// R5: before any data moves, with both ranks.
TEST_F(NcclCommunicatorFailureTest, OptionsThatDifferAreRefusedEverywhere) {
  const auto statuses = CreateAll(2, [](int rank) {
    NcclOptions options = QuickNccl();
    if (rank == 1) options.exchange = NcclExchange::kReduceScatter;
    return options;
  });
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status, absl::FailedPreconditionError(
                          "CreateNcclCommunicator: rank 0 has exchange = exact, landing_buckets = 3, NCCL 2.28.9; rank "
                          "1 has exchange = nccl_reduce_scatter, landing_buckets = 3, NCCL 2.28.9"));
  }
}

TEST_F(NcclCommunicatorFailureTest, VersionsOfNcclThatDifferAreRefusedEverywhere) {
  std::unique_ptr<FakeNccl> old;
  prepare_ = [&](NcclMachine& machine) {
    old = std::make_unique<FakeNccl>(machine.cuda, FakeNcclOptions{.all_to_all = false, .version = "2.18.3"});
  };
  const auto statuses = CreateAll(2, [&](Rendezvous&, Rendezvous& own) {
    NcclApi& nccl = own.rank() == 0 ? static_cast<NcclApi&>(machine_->nccl) : *old;
    return CreateNcclCommunicator(nccl, machine_->device(own.rank()), machine_->memory(own.rank()), own, QuickNccl());
  });
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("NCCL 2.28.9;"), HasSubstr("NCCL 2.18.3 without ncclAlltoAll")));
  }
}

TEST_F(NcclCommunicatorFailureTest, TwoRanksOnOneGpuAreRefusedEverywhere) {
  const auto statuses = CreateAll(3, [&](Rendezvous&, Rendezvous& own) {
    const int device = own.rank() == 2 ? 0 : own.rank();
    NcclOptions options = QuickNccl();
    options.rank_names = {4, 5, 6};
    return CreateNcclCommunicator(machine_->nccl, machine_->device(device), machine_->memory(device), own, options);
  });
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(MessageOf(status), HasSubstr("rank 4 and rank 6 use the same GPU, "));
  }
  EXPECT_EQ(machine_->nccl.calls("CommInitRank"), 0) << "NCCL may hang when it is asked to";
}

TEST_F(NcclCommunicatorFailureTest, ADeviceThatIsNotThereIsRefusedEverywhere) {
  const auto statuses = CreateAll(2, [&](Rendezvous&, Rendezvous& own) {
    const int device = own.rank() == 0 ? 0 : 7;
    return CreateNcclCommunicator(machine_->nccl, machine_->device(device), machine_->memory(0), own, QuickNccl());
  });
  for (const absl::Status& status : statuses) EXPECT_THAT(MessageOf(status), HasSubstr("rank 1: "));
}

// ---- Streams and order ----------------------------------------------------------------------------------------------

TEST_F(NcclCommunicatorFailureTest, StreamsOfTheHostAndOfOtherDevicesAreRefused) {
  Run(2, QuickNccl(), [&](Rank& rank) {
    InlineStream host;
    EXPECT_EQ(rank.communicator.Exchange(0, 0, {}, host).code(), absl::StatusCode::kInvalidArgument);
    SmallReduction reduction;
    EXPECT_EQ(rank.communicator.AllReduceSmall(&reduction, host).code(), absl::StatusCode::kInvalidArgument);
    const auto other = NcclContractDevice(*machine_, 1 - rank.rank()).MakeStream();
    EXPECT_EQ(rank.communicator.Publish(0, 0, *other),
              absl::InvalidArgumentError(absl::StrCat("Publish: stream of device ", 1 - rank.rank(),
                                                      ", the communicator is on device ", rank.rank())));
    EXPECT_TRUE(rank.communicator.AsyncStatus().ok());
  });
}

TEST_F(NcclCommunicatorFailureTest, RanksThatIssueInDifferentOrdersAreToldByNccl) {
  problems_ = ElementsAre(HasSubstr(" meets rank "));
  Run(2, QuickNccl(), [](Rank& rank) {
    if (rank.rank() == 0) {
      rank.communicator.Exchange(0, 0, {}, rank.stream).IgnoreError();
    } else {
      rank.communicator.Publish(0, 0, rank.stream).IgnoreError();
    }
    EXPECT_THAT(MessageOf(AwaitTheEnd(rank.communicator)),
                AnyOf(HasSubstr("rank 1 AllGather(64 bf16) meets rank 0 AllToAll(64 bf16)"),
                      HasSubstr("rank 0 AllToAll(64 bf16) meets rank 1 AllGather(64 bf16)")));
  });
}

// ---- Deadlines ------------------------------------------------------------------------------------------------------

// R9: with the names that ranks have in a larger job; those that are late hear of it too.
TEST_F(NcclCommunicatorFailureTest, ADeadlineNamesTheRanksThatDidNotComeToEveryRank) {
  NcclOptions options = QuickNccl(kShort);
  options.rank_names = {10, 11, 12, 13};
  Run(4, options, [](Rank& rank) {
    const absl::Status expected =
        absl::DeadlineExceededError("AwaitSlices of bucket 0, micro-step 0: ranks 11, 13 did not arrive within 400ms");
    const bool comes = rank.rank() % 2 == 0;
    EXPECT_EQ(comes ? rank.ExchangeAndAwait() : AwaitTheEnd(rank.communicator), expected);
    EXPECT_EQ(rank.communicator.AsyncStatus(), expected);
  });
}

// A rank that has made the call has not come yet: its stream has.
TEST_F(NcclCommunicatorFailureTest, ARankWhoseStreamIsBusyHasNotCome) {
  std::atomic<bool> ended = false;
  Run(2, QuickNccl(kShort), [&](Rank& rank) {
    if (rank.rank() == 1) {
      rank.device.Enqueue(rank.stream, "busy", [&] {
        while (!ended.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return absl::OkStatus();
      });
      ASSERT_TRUE(rank.communicator.Exchange(0, 0, {}, rank.stream).ok());
    } else {
      EXPECT_EQ(
          rank.ExchangeAndAwait(),
          absl::DeadlineExceededError("AwaitSlices of bucket 0, micro-step 0: rank 1 did not arrive within 400ms"));
      ended.store(true);
    }
    EXPECT_EQ(AwaitTheEnd(rank.communicator).code(), absl::StatusCode::kDeadlineExceeded);
    Meet(rank.rendezvous);
  });
}

TEST_F(NcclCommunicatorFailureTest, ADeadlineRunsWhileNcclMakesAConnection) {
  nccl_options_.connects_when_needed = true;
  Run(2, QuickNccl(kShort), [](Rank& rank) {
    const absl::Status expected =
        absl::DeadlineExceededError("AwaitSlices of bucket 1, micro-step 2: rank 1 did not arrive within 400ms");
    if (rank.rank() == 0) {
      EXPECT_EQ(rank.communicator.Exchange(1, 2, {}, rank.stream), expected) << "blocks in the call";
    }
    EXPECT_EQ(AwaitTheEnd(rank.communicator), expected);
  });
}

TEST_F(NcclCommunicatorFailureTest, ARankThatNeverAllocatesIsNamed) {
  NcclOptions options = QuickNccl();
  options.setup_deadline = absl::Milliseconds(500);
  machine_ = std::make_unique<NcclMachine>(2);
  machine_->Run([&](Rendezvous& rendezvous) {
    auto communicator = machine_->Create(rendezvous, options);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    if (rendezvous.rank() == 0) {
      EXPECT_EQ((*communicator)->Allocate({.buckets = Buckets()}),
                absl::DeadlineExceededError("Allocate: rank 1 did not arrive within 500ms"));
    } else {
      EXPECT_EQ(CauseOf(AwaitTheEnd(**communicator)), absl::StatusCode::kDeadlineExceeded);
    }
    Meet(rendezvous);
  });
  machine_->ExpectClean();
}

/// A rendezvous whose heartbeats end when `dies`: as when a process is gone.
class MortalRendezvous : public Rendezvous {
 public:
  explicit MortalRendezvous(Rendezvous& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int world_size() const override { return inner_.world_size(); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(absl::string_view what, absl::string_view bytes,
                                                          absl::Duration deadline) override {
    if (dies.load()) inner_.Fail(absl::UnavailableError("killed"));
    return inner_.AllGatherBytes(what, bytes, deadline);
  }
  void Fail(const absl::Status& reason) override { inner_.Fail(reason); }

  std::atomic<bool> dies = false;

 private:
  Rendezvous& inner_;
};

TEST_F(NcclCommunicatorFailureTest, WhoDiesIsNoticedByItsHeartbeat) {
  machine_ = std::make_unique<NcclMachine>(2);
  machine_->Run([&](Rendezvous& rendezvous) {
    MortalRendezvous own(machine_->OwnRendezvous(rendezvous));
    NcclContractDevice device(*machine_, rendezvous.rank());
    auto communicator = CreateNcclCommunicator(machine_->nccl, machine_->device(own.rank()),
                                               machine_->memory(own.rank()), own, QuickNccl());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    ASSERT_TRUE((*communicator)->Allocate({.buckets = Buckets()}).ok());
    const auto stream = device.MakeStream();
    if (rendezvous.rank() == 1) own.dies.store(true);
    Rank rank{**communicator, *stream, device, rendezvous};
    const absl::Status killed = AbortedBy(1, absl::StatusCode::kUnavailable, "failed: killed");
    EXPECT_EQ(rendezvous.rank() == 0 ? rank.ExchangeAndAwait() : AwaitTheEnd(**communicator), killed);
    Meet(rendezvous);
    communicator->reset();
  });
  machine_->ExpectClean();
}

// ---- Ends -----------------------------------------------------------------------------------------------------------

TEST_F(NcclCommunicatorFailureTest, DestructionEndsWhatIsUnderWayAndTellsTheOthers) {
  machine_ = std::make_unique<NcclMachine>(2);
  machine_->Run([&](Rendezvous& rendezvous) {
    NcclContractDevice device(*machine_, rendezvous.rank());
    auto communicator = machine_->Create(rendezvous, QuickNccl());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    ASSERT_TRUE((*communicator)->Allocate({.buckets = Buckets()}).ok());
    const auto stream = device.MakeStream();
    Rank rank{**communicator, *stream, device, rendezvous};
    if (rendezvous.rank() == 0) {
      ASSERT_TRUE((*communicator)->Exchange(0, 0, {}, *stream).ok());
      communicator->reset();
    } else {
      Meet(rendezvous);
      EXPECT_EQ(rank.ExchangeAndAwait(), AbortedBy(0, absl::StatusCode::kAborted, "has left"));
    }
    if (rendezvous.rank() == 0) Meet(rendezvous);
    Meet(rendezvous);
  });
  machine_->ExpectClean();
}

TEST_F(NcclCommunicatorFailureTest, WhoLeavesAfterTheWorkDisturbsNobody) {
  Run(3, QuickNccl(), [](Rank& rank) {
    ASSERT_EQ(rank.ExchangeAndAwait(), absl::OkStatus());
    ASSERT_EQ(rank.communicator.Release(0, 0, rank.stream), absl::OkStatus());
    Meet(rank.rendezvous);
  });
  EXPECT_EQ(machine_->nccl.calls("CommAbort"), 0);
  EXPECT_EQ(machine_->nccl.calls("CommDestroy"), 3);
}

TEST_F(NcclCommunicatorFailureTest, WhoNeedsARankThatHasLeftIsTold) {
  machine_ = std::make_unique<NcclMachine>(2);
  machine_->Run([&](Rendezvous& rendezvous) {
    NcclContractDevice device(*machine_, rendezvous.rank());
    auto communicator = machine_->Create(rendezvous, QuickNccl());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    if (rendezvous.rank() == 1) communicator->reset();
    Meet(rendezvous);
    if (rendezvous.rank() == 0) {
      EXPECT_EQ((*communicator)->Allocate({.buckets = Buckets()}),
                AbortedBy(1, absl::StatusCode::kAborted, "has left"));
    }
    Meet(rendezvous);
  });
  machine_->ExpectClean();
}

}  // namespace
}  // namespace shardstep
