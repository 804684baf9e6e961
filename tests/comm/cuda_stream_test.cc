#include "shardstep/comm/cuda/cuda_stream.h"

#include <future>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class CudaStreamTest : public testing::Test {
 protected:
  std::unique_ptr<CudaStream> Make(const char* name = "update") {
    absl::StatusOr<std::unique_ptr<CudaStream>> stream = CudaStream::Create(device_, name);
    EXPECT_TRUE(stream.ok()) << stream.status();
    return *std::move(stream);
  }
  absl::Status Run(CudaStream& stream, std::function<void()> function) {
    return stream.Enqueue(
        "kernel", [&](CudaStreamHandle handle) { return cuda_.Enqueue(handle, "kernel", {}, std::move(function)); });
  }

  FakeCuda cuda_{{.devices = 2, .delay_seed = 5}};
  const CudaDeviceRef device_{&cuda_, 1};  // never the one that a thread starts with
};

TEST_F(CudaStreamTest, EventsOrderStreamsAndTheHost) {
  const auto first = Make("first");
  const auto second = Make("second");
  std::promise<void> go;
  int value = 0;
  int seen = 0;
  EXPECT_TRUE(Run(*first, [&] {
                go.get_future().wait();
                value = 3;
              }).ok());
  const Event written = first->Record();
  second->Wait(written);
  EXPECT_TRUE(Run(*second, [&] { seen = value; }).ok());
  const Event read = second->Record();
  EXPECT_FALSE(second->IsReached(read));
  EXPECT_FALSE(first->IsReached(written));
  EXPECT_TRUE(first->IsReached(Event{}));
  go.set_value();
  EXPECT_EQ(second->Synchronize(read), absl::OkStatus());
  EXPECT_EQ(seen, 3);
  EXPECT_TRUE(first->IsReached(written));
}

TEST_F(CudaStreamTest, ItWaitsForNothingThatItNeedNot) {
  const auto first = Make();
  const auto second = Make();
  first->Wait(Event{});
  first->Wait(first->Record());
  EXPECT_EQ(cuda_.calls("StreamWaitEvent"), 0);
  EXPECT_EQ(first->Synchronize(Event{}), absl::OkStatus());
  EXPECT_EQ(cuda_.blocking_calls(), 0);
  const Event event = second->Record();
  second->Settle();
  first->Wait(event);
  EXPECT_EQ(second->Synchronize(event), absl::OkStatus());
  EXPECT_TRUE(second->IsReached(event));
  EXPECT_EQ(cuda_.calls("StreamWaitEvent") + cuda_.blocking_calls() + cuda_.calls("EventQuery"), 0);
  first->Wait(second->Record());
  EXPECT_EQ(cuda_.calls("StreamWaitEvent"), 1);
}

TEST_F(CudaStreamTest, ATicketOlderThanTheRingWaitsForALaterOne) {
  const auto first = Make();
  const auto second = Make();
  int value = 0;
  int seen = 0;
  EXPECT_TRUE(Run(*first, [&] { value = 1; }).ok());
  const Event old = first->Record();
  std::promise<void> go;
  EXPECT_TRUE(Run(*first, [&] { go.get_future().wait(); }).ok());
  for (int i = 1; i < CudaStream::kEvents; ++i) first->Record();
  EXPECT_EQ(first->Synchronize(old), absl::OkStatus()) << "its own event still";
  first->Record();  // takes its event
  EXPECT_FALSE(first->IsReached(old));
  second->Wait(old);
  EXPECT_TRUE(Run(*second, [&] { seen = value; }).ok());
  go.set_value();
  EXPECT_EQ(second->Synchronize(second->Record()), absl::OkStatus());
  EXPECT_EQ(seen, 1);
}

TEST_F(CudaStreamTest, EveryThreadMayUseItWhateverItsDevice) {
  const auto stream = Make();
  int runs = 0;
  std::thread([&] {
    EXPECT_EQ(Run(*stream, [&] { ++runs; }), absl::OkStatus());
    const Event event = stream->Record();
    std::thread([&] { EXPECT_EQ(stream->Synchronize(event), absl::OkStatus()); }).join();
  }).join();
  EXPECT_EQ(runs, 1);
  EXPECT_THAT(cuda_.misuses(), IsEmpty());
}

TEST_F(CudaStreamTest, TheFirstErrorStaysAndNothingMoreIsEnqueued) {
  const auto stream = Make();
  EXPECT_EQ(stream->Enqueue("launch of Update", [](CudaStreamHandle) { return FakeCuda::kIllegalAddress; }),
            absl::InternalError(
                "update: launch of Update: cudaErrorIllegalAddress: an illegal memory access was encountered"));
  bool ran = false;
  const absl::Status later = Run(*stream, [&] { ran = true; });
  EXPECT_EQ(later, stream->status());
  stream->Fail(absl::AbortedError("another"));
  const int64_t records = cuda_.calls("EventRecord");
  const Event event = stream->Record();
  EXPECT_EQ(cuda_.calls("EventRecord"), records);
  EXPECT_TRUE(stream->IsReached(event));
  EXPECT_EQ(stream->Synchronize(event), later);
  stream->Call("note", [&] { ran = true; });
  EXPECT_EQ(cuda_.DeviceSynchronize(), CudaApi::kSuccess);
  EXPECT_FALSE(ran);

  const auto other = Make("other");
  other->Wait(event);
  EXPECT_EQ(other->status(), later) << "whoever waits for it has its error";
}

TEST_F(CudaStreamTest, NoFunctionIsCalledAfterAFailure) {
  bool called = false;
  std::promise<void> go;
  {
    const auto stream = Make();
    EXPECT_EQ(Run(*stream, [&] { go.get_future().wait(); }), absl::OkStatus());
    stream->Call("note", [&] { called = true; });
    stream->Fail(absl::AbortedError("rank 1 failed"));
    go.set_value();
  }
  EXPECT_FALSE(called);
}

TEST_F(CudaStreamTest, ADeviceThatFailsIsTheStreamsError) {
  const auto stream = Make();
  const Event event = stream->Record();
  cuda_.FailDevice(1, FakeCuda::kIllegalAddress);
  EXPECT_THAT(std::string(stream->Synchronize(event).message()), HasSubstr("cudaErrorIllegalAddress"));
  EXPECT_FALSE(stream->status().ok());
}

TEST_F(CudaStreamTest, OnlyItsOwnKindIsWaitedFor) {
  const auto stream = Make();
  const auto wrong = Make();
  ThreadStream host;
  EXPECT_EQ(stream->Synchronize(wrong->Record()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(stream->status().ok());
  wrong->Wait(host.Record());
  EXPECT_EQ(wrong->status().code(), absl::StatusCode::kInternal);
  const auto elsewhere = CudaStream::Create({&cuda_, 0}, "elsewhere");
  ASSERT_TRUE(elsewhere.ok());
  stream->Wait((*elsewhere)->Record());
  EXPECT_EQ(stream->status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(AsCudaStream(host, "Reduce").status(), absl::InvalidArgumentError("Reduce: needs a CUDA stream"));
  EXPECT_EQ(*AsCudaStream(*stream, "Reduce"), stream.get());
}

TEST_F(CudaStreamTest, AViewLeavesTheCallersStreamAlone) {
  CudaStreamHandle handle = nullptr;
  ASSERT_EQ(cuda_.SetDevice(1), CudaApi::kSuccess);
  ASSERT_EQ(cuda_.StreamCreate(&handle), CudaApi::kSuccess);
  {
    const auto view = CudaStream::View(device_, handle, "compute");
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ((*view)->handle(), handle);
    EXPECT_EQ((*view)->Synchronize((*view)->Record()), absl::OkStatus());
  }
  EXPECT_EQ(cuda_.leaks(), "1 stream");
  for (const uintptr_t default_stream : {0, 1, 2}) {
    EXPECT_EQ(CudaStream::View(device_, reinterpret_cast<CudaStreamHandle>(default_stream), "compute").status(),
              absl::InvalidArgumentError("compute: a stream made by cudaStreamCreate is needed, not a default stream"));
  }
  const absl::Status wrong_device = CudaStream::View({&cuda_, 0}, handle, "compute").status();
  EXPECT_EQ(wrong_device.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong_device.message()), HasSubstr("not a stream of device 0"));
  EXPECT_EQ(cuda_.leaks(), "1 stream");
}

TEST_F(CudaStreamTest, CallsAreMadeInOrderAndBeforeTheStreamGoes) {
  std::vector<int> order;
  {
    const auto stream = Make();
    for (int i = 0; i < 100; ++i) {
      stream->Call("note", [&order, i] { order.push_back(i); });
      if (i == 50) {
        EXPECT_EQ(stream->Synchronize(stream->Record()), absl::OkStatus());
      }
    }
  }
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST_F(CudaStreamTest, FunctionsGoOnceCalledButForCapturedOnes) {
  const auto stream = Make();
  const auto token = std::make_shared<int>(0);
  stream->Call("note", [token] { ++*token; });
  EXPECT_EQ(stream->Synchronize(stream->Record()), absl::OkStatus());
  stream->Call("next", [] {});
  EXPECT_EQ(token.use_count(), 1);

  EXPECT_EQ(stream->Synchronize(stream->Record()), absl::OkStatus());
  ASSERT_EQ(cuda_.StreamBeginCapture(stream->handle()), CudaApi::kSuccess);
  stream->Call("in a graph", [token] { ++*token; });
  CudaGraphHandle graph = nullptr;
  ASSERT_EQ(cuda_.StreamEndCapture(stream->handle(), &graph), CudaApi::kSuccess);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(cuda_.GraphLaunch(graph, stream->handle()), CudaApi::kSuccess);
    EXPECT_EQ(stream->Synchronize(stream->Record()), absl::OkStatus());
    stream->Call("next", [] {});
    EXPECT_EQ(token.use_count(), 2);
  }
  EXPECT_EQ(stream->Synchronize(stream->Record()), absl::OkStatus());
  EXPECT_EQ(*token, 4);
  EXPECT_EQ(cuda_.GraphDestroy(graph), CudaApi::kSuccess);
}

TEST_F(CudaStreamTest, SettleMakesAStepFitToBeCaptured) {
  const auto main = Make("main");
  const auto side = Make("side");
  const Event before = side->Record();
  ASSERT_EQ(cuda_.DeviceSynchronize(), CudaApi::kSuccess);
  const auto step = [&](const Event& last) {
    main->Wait(last);
    const Event forked = main->Record();
    side->Wait(forked);
    const Event done = side->Record();
    main->Wait(done);
    return done;
  };
  side->Settle();
  main->Settle();
  ASSERT_EQ(cuda_.StreamBeginCapture(main->handle()), CudaApi::kSuccess);
  const Event inside = step(before);
  CudaGraphHandle graph = nullptr;
  EXPECT_EQ(cuda_.StreamEndCapture(main->handle(), &graph), CudaApi::kSuccess);
  EXPECT_EQ(main->status(), absl::OkStatus());
  side->Settle();
  main->Settle();
  step(inside);
  EXPECT_EQ(main->Synchronize(main->Record()), absl::OkStatus());
  EXPECT_EQ(cuda_.GraphDestroy(graph), CudaApi::kSuccess);

  // Without it the runtime refuses.
  const Event unsettled = side->Record();
  ASSERT_EQ(cuda_.StreamBeginCapture(main->handle()), CudaApi::kSuccess);
  step(unsettled);
  EXPECT_THAT(std::string(main->status().message()), HasSubstr("cudaStreamWaitEvent"));
  EXPECT_NE(cuda_.StreamEndCapture(main->handle(), &graph), CudaApi::kSuccess);
}

TEST_F(CudaStreamTest, NoPathOfCreationLeaks) {
  const std::pair<const char*, int> faults[] = {
      {"SetDevice", 1}, {"StreamCreate", 1}, {"EventCreate", 1}, {"EventCreate", 500}};
  for (const auto& [call, nth] : faults) {
    cuda_.FailCall(call, nth, CudaApi::kMemoryAllocation);
    const absl::Status status = CudaStream::Create(device_, "update").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << call;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("update: cuda", call))) << call;
    EXPECT_EQ(cuda_.leaks(), "") << call;
  }
  EXPECT_THAT(cuda_.misuses(), IsEmpty());
}

}  // namespace
}  // namespace shardstep
