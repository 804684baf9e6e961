// The rules of NCCL, as its fake keeps them.

#include "shardstep/tests/nccl/fake_nccl.h"

#include <functional>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/bf16.h"

namespace shardstep {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// One rank: its communicator, a stream and host memory.
struct Rank {
  FakeCuda& cuda;
  FakeNccl& nccl;
  int rank = 0;
  NcclHandle communicator = nullptr;
  CudaStreamHandle stream = nullptr;
  std::vector<float> from = std::vector<float>(64);
  std::vector<float> to = std::vector<float>(64);

  int State() {
    int state = NcclApi::kSuccess;
    EXPECT_EQ(nccl.CommGetAsyncError(communicator, &state), NcclApi::kSuccess);
    return state;
  }
  int AwaitState() {
    int state = State();
    while (state == NcclApi::kInProgress) {
      std::this_thread::yield();
      state = State();
    }
    return state;
  }
  /// Until NCCL has found something wrong, then aborts.
  std::string AwaitProblem() {
    while (State() != FakeNccl::kInvalidUsage) std::this_thread::yield();
    const std::string text = nccl.ErrorText(FakeNccl::kInvalidUsage, communicator);
    End();
    return text;
  }
  void Synchronize() { ASSERT_EQ(cuda.StreamSynchronize(stream), CudaApi::kSuccess); }
  void End() {
    EXPECT_EQ(nccl.CommAbort(communicator), NcclApi::kSuccess);
    communicator = nullptr;
  }
};

class FakeNcclTest : public testing::Test {
 protected:
  /// `body` as every rank, with an initialized communicator.
  void Run(int world_size, const std::function<void(Rank&)>& body, const FakeNcclOptions& options = {}) {
    cuda_ = std::make_unique<FakeCuda>(FakeCudaOptions{.devices = world_size});
    nccl_ = std::make_unique<FakeNccl>(*cuda_, options);
    NcclId id;
    ASSERT_EQ(nccl_->GetUniqueId(&id), NcclApi::kSuccess);
    std::vector<std::thread> threads;
    for (int r = 0; r < world_size; ++r) {
      threads.emplace_back([&, r] {
        Rank rank{*cuda_, *nccl_, r};
        ASSERT_EQ(cuda_->SetDevice(r), CudaApi::kSuccess);
        ASSERT_EQ(cuda_->StreamCreate(&rank.stream), CudaApi::kSuccess);
        ASSERT_EQ(nccl_->CommInitRank(&rank.communicator, world_size, id, r), NcclApi::kInProgress);
        ASSERT_EQ(rank.AwaitState(), NcclApi::kSuccess);
        for (size_t i = 0; i < rank.from.size(); ++i)
          rank.from[i] = static_cast<float>(100 * r) + static_cast<float>(i);
        body(rank);
        if (rank.communicator != nullptr) {
          EXPECT_EQ(nccl_->CommFinalize(rank.communicator), NcclApi::kInProgress);
          EXPECT_EQ(rank.AwaitState(), NcclApi::kSuccess);
          EXPECT_EQ(nccl_->CommDestroy(rank.communicator), NcclApi::kSuccess);
        }
        EXPECT_EQ(cuda_->StreamDestroy(rank.stream), CudaApi::kSuccess);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(nccl_->live(), 0);
  }

  std::unique_ptr<FakeCuda> cuda_;
  std::unique_ptr<FakeNccl> nccl_;
};

TEST_F(FakeNcclTest, CollectivesMoveWhatTheirNamesSay) {
  Run(2, [](Rank& r) {
    const auto other = static_cast<float>(100 * (1 - r.rank));
    ASSERT_EQ(r.nccl.AllToAll(r.from.data(), r.to.data(), 1, DType::kFp32, r.communicator, r.stream), 0);
    r.Synchronize();
    EXPECT_EQ(r.to[static_cast<size_t>(1 - r.rank)], other + static_cast<float>(r.rank));
    ASSERT_EQ(r.nccl.AllGather(r.from.data(), r.to.data(), 2, DType::kFp32, r.communicator, r.stream), 0);
    r.Synchronize();
    EXPECT_THAT(std::vector<float>(r.to.begin(), r.to.begin() + 4), ElementsAre(0, 1, 100, 101));
    ASSERT_EQ(r.nccl.ReduceScatterSum(r.from.data(), r.to.data(), 2, DType::kFp32, r.communicator, r.stream), 0);
    r.Synchronize();
    EXPECT_EQ(r.to[0], r.rank == 0 ? 100 : 104);
    int64_t sum = r.rank + 5;
    uint64_t least = r.rank == 0 ? ~uint64_t{0} : 7;
    ASSERT_EQ(r.nccl.GroupStart(), 0);
    ASSERT_EQ(r.nccl.AllReduceSum(&sum, &sum, 1, r.communicator, r.stream), 0);
    ASSERT_EQ(r.nccl.AllReduceMin(&least, &least, 1, r.communicator, r.stream), 0);
    ASSERT_EQ(r.nccl.GroupEnd(), 0);
    r.Synchronize();
    EXPECT_EQ(sum, 11);
    EXPECT_EQ(least, 7u);
  });
  EXPECT_THAT(nccl_->problems(), IsEmpty());
}

TEST_F(FakeNcclTest, SumsOfBf16RoundAtEveryHopOfTheRing) {
  Run(3, [](Rank& r) {
    std::vector<Bf16> from(3, ToBf16(r.rank == 1 ? 256.0f : 1.0f));
    Bf16 to;
    ASSERT_EQ(r.nccl.ReduceScatterSum(from.data(), &to, 1, DType::kBf16, r.communicator, r.stream), 0);
    r.Synchronize();
    // The shard of rank r begins at rank r + 1: 256 + 1 rounds to 256, twice; 1 + 1 comes first only for rank 1.
    EXPECT_EQ(ToFloat(to), r.rank == 1 ? 258.0f : 256.0f);
  });
}

TEST_F(FakeNcclTest, AnOperationIsDoneWhenAllStreamsHaveComeThere) {
  std::atomic<bool> opened = false;
  Run(2, [&](Rank& r) {
    if (r.rank == 1) {
      r.cuda.Enqueue(r.stream, "busy", {}, [&] {
        while (!opened.load()) std::this_thread::yield();
      });
    }
    ASSERT_EQ(r.nccl.AllGather(r.from.data(), r.to.data(), 2, DType::kFp32, r.communicator, r.stream), 0);
    if (r.rank == 0) {
      CudaEventHandle event = nullptr;
      ASSERT_EQ(r.cuda.EventCreate(&event, false), 0);
      ASSERT_EQ(r.cuda.EventRecord(event, r.stream), 0);
      EXPECT_EQ(r.cuda.EventQuery(event), CudaApi::kNotReady);
      opened.store(true);
      EXPECT_EQ(r.cuda.EventSynchronize(event), 0);
      EXPECT_EQ(r.cuda.EventDestroy(event), 0);
    }
    r.Synchronize();
  });
}

TEST_F(FakeNcclTest, MessagesOfAGroupMatchInTheirOrder) {
  Run(2, [](Rank& r) {
    ASSERT_EQ(r.nccl.GroupStart(), 0);
    for (int i = 0; i < 2; ++i) {
      ASSERT_EQ(r.nccl.Send(&r.from[static_cast<size_t>(i)], 1, DType::kFp32, 1 - r.rank, r.communicator, r.stream), 0);
      ASSERT_EQ(r.nccl.Recv(&r.to[static_cast<size_t>(i)], 1, DType::kFp32, 1 - r.rank, r.communicator, r.stream), 0);
    }
    ASSERT_EQ(r.nccl.GroupEnd(), 0);
    r.Synchronize();
    const auto other = static_cast<float>(100 * (1 - r.rank));
    EXPECT_EQ(r.to[0], other);
    EXPECT_EQ(r.to[1], other + 1);
  });
  EXPECT_THAT(nccl_->problems(), IsEmpty());
}

TEST_F(FakeNcclTest, SendsOutsideOfAGroupDeadlock) {
  Run(2, [](Rank& r) {
    ASSERT_EQ(r.nccl.Send(r.from.data(), 4, DType::kFp32, 1 - r.rank, r.communicator, r.stream), 0);
    ASSERT_EQ(r.nccl.Recv(r.to.data(), 4, DType::kFp32, 1 - r.rank, r.communicator, r.stream), 0);
    EXPECT_THAT(r.AwaitProblem(), HasSubstr("deadlock"));
  });
  EXPECT_THAT(nccl_->problems(),
              ElementsAre("deadlock: rank 0 Send(to rank 1, 4 fp32), rank 1 Send(to rank 0, 4 fp32)"));
}

TEST_F(FakeNcclTest, CollectivesThatDifferAreToldByName) {
  Run(2, [](Rank& r) {
    if (r.rank == 0) {
      ASSERT_EQ(r.nccl.AllToAll(r.from.data(), r.to.data(), 8, DType::kFp32, r.communicator, r.stream), 0);
    } else {
      ASSERT_EQ(r.nccl.AllGather(r.from.data(), r.to.data(), 8, DType::kBf16, r.communicator, r.stream), 0);
    }
    EXPECT_THAT(r.AwaitProblem(), HasSubstr("meets"));
  });
  EXPECT_THAT(nccl_->problems(), ElementsAre("rank 1 AllGather(8 bf16) meets rank 0 AllToAll(8 fp32)"));
}

TEST_F(FakeNcclTest, CountsAndTypesOfMessagesHaveToAgree) {
  Run(2, [](Rank& r) {
    if (r.rank == 0) {
      ASSERT_EQ(r.nccl.Send(r.from.data(), 8, DType::kFp32, 1, r.communicator, r.stream), 0);
    } else {
      ASSERT_EQ(r.nccl.Recv(r.to.data(), 4, DType::kFp32, 0, r.communicator, r.stream), 0);
    }
    EXPECT_THAT(r.AwaitProblem(), HasSubstr("meets"));
  });
  EXPECT_THAT(nccl_->problems(), ElementsAre("rank 0 Send(to rank 1, 8 fp32) meets rank 1 Recv(from rank 0, 4 fp32)"));
}

TEST_F(FakeNcclTest, WhatOverlapsIsInPlaceOrWrong) {
  Run(2, [](Rank& r) {
    float* const own = r.to.data() + r.rank * 4;
    EXPECT_EQ(r.nccl.AllGather(own, r.to.data(), 4, DType::kFp32, r.communicator, r.stream), 0);
    r.Synchronize();
    if (r.rank == 0) {
      EXPECT_EQ(r.nccl.AllGather(own + 1, r.to.data(), 4, DType::kFp32, r.communicator, r.stream),
                FakeNccl::kInvalidArgument);
    }
    EXPECT_THAT(r.AwaitProblem(), HasSubstr("rank 0 AllGather(4 fp32): overlaps"));
  });
}

TEST_F(FakeNcclTest, AbortsFreeTheOwnStreamOnly) {
  Run(2, [](Rank& r) {
    if (r.rank == 0) {
      ASSERT_EQ(r.nccl.AllGather(r.from.data(), r.to.data(), 4, DType::kFp32, r.communicator, r.stream), 0);
      r.End();
      r.Synchronize();
      EXPECT_EQ(r.to[0], 0.0f) << "nothing has moved";
    } else {
      r.End();
    }
  });
  EXPECT_THAT(nccl_->problems(), IsEmpty());
}

TEST_F(FakeNcclTest, NothingIsCalledAfterTheEnd) {
  Run(1, [](Rank& r) {
    const NcclHandle gone = r.communicator;
    r.End();
    EXPECT_EQ(r.nccl.CommAbort(gone), FakeNccl::kInvalidArgument);
    int state = 0;
    EXPECT_EQ(r.nccl.CommGetAsyncError(gone, &state), FakeNccl::kInvalidArgument);
  });
  EXPECT_THAT(nccl_->problems(),
              ElementsAre("CommAbort of rank 0 after its end", "CommGetAsyncError of rank 0 after its end"));
}

TEST_F(FakeNcclTest, AnErrorInAGroupLeavesNothingOfIt) {
  Run(1, [](Rank& r) {
    r.nccl.FailCall("AllGather", 1, FakeNccl::kInternalError);
    ASSERT_EQ(r.nccl.GroupStart(), 0);
    int64_t sum = 3;
    EXPECT_EQ(r.nccl.AllReduceSum(&sum, &sum, 1, r.communicator, r.stream), 0);
    EXPECT_EQ(r.nccl.AllGather(r.from.data(), r.to.data(), 4, DType::kFp32, r.communicator, r.stream),
              FakeNccl::kInternalError);
    EXPECT_EQ(r.nccl.GroupEnd(), FakeNccl::kInternalError);
    EXPECT_EQ(r.State(), NcclApi::kSuccess);
  });
  EXPECT_EQ(nccl_->calls("AllReduceSum"), 1);
}

}  // namespace
}  // namespace shardstep
