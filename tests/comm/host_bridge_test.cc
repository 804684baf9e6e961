#include "shardstep/comm/cuda/host_bridge.h"

#include <future>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class HostBridgeTest : public testing::Test {
 protected:
  HostBridgeTest() {
    memory_ = *CreateCudaMemory(device_);
    stream_ = *CudaStream::Create(device_, "exchange");
    bridge_ = *HostBridge::Create(device_, *memory_);
  }
  ~HostBridgeTest() override {
    bridge_.reset();
    stream_.reset();
    memory_.reset();
    EXPECT_EQ(cuda_.leaks(), "");
    EXPECT_THAT(cuda_.misuses(), IsEmpty());
  }

  absl::Status Kernel(const std::string& name, std::vector<MemoryAccess> accesses, std::function<void()> run) {
    return stream_->Enqueue("kernel", [&](CudaStreamHandle handle) {
      return cuda_.Enqueue(handle, name, std::move(accesses), std::move(run));
    });
  }
  absl::Status Drain() { return stream_->Synchronize(stream_->Record()); }

  FakeCuda cuda_{{.devices = 2, .delay_seed = 9, .record = true}};
  const CudaDeviceRef device_{&cuda_, 1};
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<CudaStream> stream_;
  std::unique_ptr<HostBridge> bridge_;
};

TEST_F(HostBridgeTest, WorkIsDoneInTheOrderOfTheStreamWhileTheCallerGoesOn) {
  int value = 0;
  std::vector<int> seen;
  std::promise<void> all_enqueued;
  EXPECT_EQ(Kernel("wait", {}, [&] { all_enqueued.get_future().wait(); }), absl::OkStatus());
  const MemoryAccess write{&value, sizeof(value), true};
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Kernel("produce", {write}, [&value, i] { value = i; }), absl::OkStatus());
    const auto work = [&] {
      cuda_.HostAccess("work", {write});
      seen.push_back(value);
      value = -1;
      return absl::OkStatus();
    };
    EXPECT_EQ(bridge_->Enqueue("send", *stream_, work), absl::OkStatus());
    EXPECT_EQ(Kernel("consume", {write}, [&value] { EXPECT_EQ(value, -1); }), absl::OkStatus());
  }
  EXPECT_EQ(cuda_.calls("Enqueue"), 41);
  all_enqueued.set_value();
  EXPECT_EQ(Drain(), absl::OkStatus());
  ASSERT_EQ(seen.size(), 20U);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], i);
  EXPECT_EQ(bridge_->status(), absl::OkStatus());
  EXPECT_THAT(cuda_.Problems(), IsEmpty());
}

TEST_F(HostBridgeTest, ItMakesNoMoreEventsThanWorksAtATime) {
  const auto nothing = [] { return absl::OkStatus(); };
  EXPECT_EQ(bridge_->Enqueue("send", *stream_, nothing), absl::OkStatus());
  EXPECT_EQ(Drain(), absl::OkStatus());
  const int64_t events = cuda_.calls("EventCreate");
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(bridge_->Enqueue("send", *stream_, nothing), absl::OkStatus());
    EXPECT_EQ(Drain(), absl::OkStatus());
  }
  EXPECT_EQ(cuda_.calls("EventCreate"), events);
}

TEST_F(HostBridgeTest, WorksOfSeveralBridgesMayWaitForEachOther) {
  const auto other_stream = *CudaStream::Create(device_, "publish");
  auto other = *HostBridge::Create(device_, *memory_);
  std::promise<void> other_ran;
  EXPECT_EQ(bridge_->Enqueue("first", *stream_,
                             [&] {
                               other_ran.get_future().wait();
                               return absl::OkStatus();
                             }),
            absl::OkStatus());
  EXPECT_EQ(other->Enqueue("second", *other_stream,
                           [&] {
                             other_ran.set_value();
                             return absl::OkStatus();
                           }),
            absl::OkStatus());
  EXPECT_EQ(Drain(), absl::OkStatus());
  other.reset();
}

TEST_F(HostBridgeTest, WorkThatFailsFailsTheStreamWhichGoesOn) {
  std::vector<std::string> done;
  std::promise<void> all_enqueued;
  std::promise<void> passed;
  EXPECT_EQ(bridge_->Enqueue("send", *stream_,
                             [&] {
                               all_enqueued.get_future().wait();
                               done.push_back("send");
                               return absl::DeadlineExceededError("rank 2 did not arrive");
                             }),
            absl::OkStatus());
  EXPECT_EQ(bridge_->Enqueue("receive", *stream_,
                             [&] {
                               done.push_back("receive");
                               return absl::OkStatus();
                             }),
            absl::OkStatus());
  EXPECT_EQ(Kernel("after", {}, [&] { passed.set_value(); }), absl::OkStatus());
  all_enqueued.set_value();
  passed.get_future().wait();
  const absl::Status expected = absl::DeadlineExceededError("send: rank 2 did not arrive");
  EXPECT_EQ(Drain(), expected);
  EXPECT_EQ(bridge_->status(), expected);
  EXPECT_THAT(done, ElementsAre("send"));
  EXPECT_EQ(bridge_->Enqueue("later", *stream_, [] { return absl::OkStatus(); }), expected);
}

TEST_F(HostBridgeTest, WorkIsNotDoneAfterTheDeviceFailed) {
  std::promise<void> go;
  EXPECT_EQ(Kernel("wait", {}, [&] { go.get_future().wait(); }), absl::OkStatus());
  EXPECT_EQ(bridge_->Enqueue("send", *stream_,
                             [] {
                               ADD_FAILURE() << "done";
                               return absl::OkStatus();
                             }),
            absl::OkStatus());
  cuda_.FailDevice(1, FakeCuda::kIllegalAddress);
  go.set_value();
  bridge_.reset();
  EXPECT_THAT(std::string(stream_->status().message()), HasSubstr("cudaErrorIllegalAddress"));
}

TEST_F(HostBridgeTest, AnyCallThatFailsLeavesTheStreamGoing) {
  for (const std::string call : {"EventCreate", "StreamWaitValue", "EventRecord", "second EventRecord"}) {
    const auto stream = *CudaStream::Create(device_, "stream");
    auto bridge = *HostBridge::Create(device_, *memory_);
    std::promise<void> go;
    bool done = false;
    cuda_.FailCall(call == "second EventRecord" ? "EventRecord" : call, call == "second EventRecord" ? 2 : 1,
                   FakeCuda::kInvalidValue);
    EXPECT_FALSE(bridge
                     ->Enqueue("send", *stream,
                               [&] {
                                 done = true;
                                 return absl::OkStatus();
                               })
                     .ok())
        << call;
    EXPECT_EQ(cuda_.StreamSynchronize(stream->handle()), CudaApi::kSuccess) << call;
    bridge.reset();
    EXPECT_FALSE(done) << call;
  }
}

TEST_F(HostBridgeTest, DestructionFinishesWhatWasEnqueued) {
  int done = 0;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(bridge_->Enqueue("send", *stream_,
                               [&] {
                                 ++done;
                                 return absl::OkStatus();
                               }),
              absl::OkStatus());
  }
  bridge_.reset();
  EXPECT_EQ(done, 10);
}

}  // namespace
}  // namespace shardstep
