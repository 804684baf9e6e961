#include "shardstep/tests/cuda/fake_cuda.h"

#include <future>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr int kOk = CudaApi::kSuccess;

CudaStreamHandle MakeStream(FakeCuda& cuda) {
  CudaStreamHandle stream = nullptr;
  EXPECT_EQ(cuda.StreamCreate(&stream), kOk);
  return stream;
}

CudaEventHandle MakeEvent(FakeCuda& cuda, bool timing = false) {
  CudaEventHandle event = nullptr;
  EXPECT_EQ(cuda.EventCreate(&event, timing), kOk);
  return event;
}

template <typename T>
T* MakeArray(FakeCuda& cuda, int64_t count) {
  void* pointer = nullptr;
  EXPECT_EQ(cuda.Malloc(&pointer, count * static_cast<int64_t>(sizeof(T))), kOk);
  return static_cast<T*>(pointer);
}

uint32_t* MakeWord(FakeCuda& cuda) {
  void* pointer = nullptr;
  EXPECT_EQ(cuda.HostAlloc(&pointer, sizeof(uint32_t)), kOk);
  *static_cast<uint32_t*>(pointer) = 0;
  return static_cast<uint32_t*>(pointer);
}

int Set(FakeCuda& cuda, CudaStreamHandle stream, int* to, int value) {
  return cuda.Enqueue(stream, "Set", {{to, sizeof(int), true}}, [to, value] { *to = value; });
}

int Copy(FakeCuda& cuda, CudaStreamHandle stream, int* to, const int* from) {
  return cuda.Enqueue(stream, "Copy", {{to, sizeof(int), true}, {from, sizeof(int), false}},
                      [to, from] { *to = *from; });
}

// ---- Streams and events --------------------------------------------------------------------------------------------

TEST(FakeCudaTest, AStreamRunsInOrderWhileTheHostGoesOn) {
  FakeCuda cuda({.delay_seed = 1});
  const CudaStreamHandle stream = MakeStream(cuda);
  std::promise<void> host_went_on;
  std::vector<int> order;
  EXPECT_EQ(cuda.Enqueue(stream, "first", {}, [&] { host_went_on.get_future().wait(); }), kOk);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(cuda.Enqueue(stream, "next", {}, [&order, i] { order.push_back(i); }), kOk);
  host_went_on.set_value();
  EXPECT_EQ(cuda.StreamSynchronize(stream), kOk);
  ASSERT_THAT(order, SizeIs(100));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  EXPECT_EQ(cuda.blocking_calls(), 1);
}

TEST(FakeCudaTest, StreamsRunSideBySideButForEvents) {
  FakeCuda cuda;
  const CudaStreamHandle first = MakeStream(cuda);
  const CudaStreamHandle second = MakeStream(cuda);
  std::promise<void> let_first_go;
  std::promise<void> second_ran;
  int* const value = MakeArray<int>(cuda, 1);
  int seen = 0;
  const CudaEventHandle event = MakeEvent(cuda);
  cuda.Enqueue(first, "wait", {}, [&] { let_first_go.get_future().wait(); });
  Set(cuda, first, value, 7);
  cuda.EventRecord(event, first);
  cuda.Enqueue(second, "free of the first", {}, [&] { second_ran.set_value(); });
  second_ran.get_future().wait();
  EXPECT_EQ(cuda.EventQuery(event), CudaApi::kNotReady);
  EXPECT_EQ(cuda.StreamWaitEvent(second, event), kOk);
  cuda.Enqueue(second, "read", {}, [&] { seen = *value; });
  let_first_go.set_value();
  EXPECT_EQ(cuda.StreamSynchronize(second), kOk);
  EXPECT_EQ(seen, 7);
  EXPECT_EQ(cuda.EventQuery(event), kOk);
}

TEST(FakeCudaTest, AWaitMeansTheLatestRecordAndNoRecordMeansReached) {
  FakeCuda cuda;
  const CudaStreamHandle blocked = MakeStream(cuda);
  const CudaStreamHandle stream = MakeStream(cuda);
  const CudaEventHandle event = MakeEvent(cuda);
  EXPECT_EQ(cuda.StreamWaitEvent(stream, event), kOk);
  EXPECT_EQ(cuda.EventSynchronize(event), kOk);

  std::promise<void> go;
  cuda.EventRecord(event, stream);
  EXPECT_EQ(cuda.StreamWaitEvent(stream, event), kOk);
  cuda.Enqueue(blocked, "wait", {}, [&] { go.get_future().wait(); });
  cuda.EventRecord(event, blocked);  // moves it; the wait above keeps the earlier record
  EXPECT_EQ(cuda.StreamSynchronize(stream), kOk);
  EXPECT_EQ(cuda.EventQuery(event), CudaApi::kNotReady);
  go.set_value();
  EXPECT_EQ(cuda.EventSynchronize(event), kOk);
}

TEST(FakeCudaTest, AWordLetsAStreamGoOnCyclically) {
  FakeCuda cuda;
  const CudaStreamHandle stream = MakeStream(cuda);
  uint32_t* const word = MakeWord(cuda);
  *word = 0xfffffffe;
  int data = 0;
  int seen = 0;
  EXPECT_EQ(cuda.StreamWaitValue(stream, word, 1), kOk);  // three later
  cuda.Enqueue(stream, "read", {}, [&] { seen = data; });
  const CudaEventHandle event = MakeEvent(cuda);
  cuda.EventRecord(event, stream);
  cuda.Signal(word, 0xffffffff);
  EXPECT_EQ(cuda.EventQuery(event), CudaApi::kNotReady);
  data = 5;
  cuda.Signal(word, 1);
  EXPECT_EQ(cuda.StreamWaitValue(stream, word, 0xfffffffe), kOk);  // long past
  EXPECT_EQ(cuda.StreamSynchronize(stream), kOk);
  EXPECT_EQ(seen, 5);
  int* const device_word = MakeArray<int>(cuda, 1);
  EXPECT_EQ(cuda.StreamWaitValue(stream, reinterpret_cast<uint32_t*>(device_word), 1), FakeCuda::kInvalidValue);
}

TEST(FakeCudaTest, DestructionEndsWaitsForWords) {
  FakeCuda cuda;
  uint32_t* const word = MakeWord(cuda);
  EXPECT_EQ(cuda.StreamWaitValue(MakeStream(cuda), word, 1), kOk);
}

TEST(FakeCudaTest, HostFunctionsRunOneAtATimeAndMayCallNothing) {
  FakeCuda cuda({.delay_seed = 3});
  struct Shared {
    FakeCuda* cuda;
    int runs = 0;  // no lock: one at a time
    int error = 0;
  } shared{&cuda};
  std::vector<CudaStreamHandle> streams;
  for (int i = 0; i < 4; ++i) streams.push_back(MakeStream(cuda));
  const auto function = [](void* data) {
    auto* const s = static_cast<Shared*>(data);
    ++s->runs;
    CudaEventHandle event = nullptr;
    s->error = s->cuda->EventCreate(&event, false);
  };
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(cuda.LaunchHostFunction(streams[static_cast<size_t>(i % 4)], function, &shared), kOk);
  }
  EXPECT_EQ(cuda.DeviceSynchronize(), kOk);
  EXPECT_EQ(shared.runs, 100);
  EXPECT_EQ(shared.error, FakeCuda::kNotPermitted);
  EXPECT_THAT(cuda.misuses(), Not(IsEmpty()));
}

TEST(FakeCudaTest, OnlyEventsWithTimingHaveTimes) {
  FakeCuda cuda;
  const CudaStreamHandle stream = MakeStream(cuda);
  const CudaEventHandle begin = MakeEvent(cuda, true);
  const CudaEventHandle end = MakeEvent(cuda, true);
  const CudaEventHandle plain = MakeEvent(cuda);
  for (const CudaEventHandle event : {begin, end, plain}) EXPECT_EQ(cuda.EventRecord(event, stream), kOk);
  EXPECT_EQ(cuda.StreamSynchronize(stream), kOk);
  float ms = -1;
  EXPECT_EQ(cuda.EventElapsedMs(&ms, begin, end), kOk);
  EXPECT_GE(ms, 0);
  EXPECT_EQ(cuda.EventElapsedMs(&ms, begin, plain), FakeCuda::kInvalidResourceHandle);
}

// ---- Memory and devices --------------------------------------------------------------------------------------------

TEST(FakeCudaTest, MemoryKnowsItsDeviceIsLimitedAndStartsAsGarbage) {
  FakeCuda cuda({.devices = 2, .device_memory_bytes = 4096});
  EXPECT_EQ(cuda.SetDevice(1), kOk);
  auto* const memory = MakeArray<unsigned char>(cuda, 4000);
  EXPECT_NE(memory[0], 0);
  CudaPointerInfo info;
  EXPECT_EQ(cuda.PointerGetAttributes(memory + 3999, &info), kOk);
  EXPECT_EQ(info.kind, CudaPointerInfo::kDevice);
  EXPECT_EQ(info.device, 1);
  EXPECT_EQ(cuda.PointerGetAttributes(&info, &info), kOk);
  EXPECT_EQ(info.kind, CudaPointerInfo::kHost);
  EXPECT_EQ(cuda.PointerGetAttributes(MakeWord(cuda), &info), kOk);
  EXPECT_EQ(info.kind, CudaPointerInfo::kPinned);
  int64_t free_bytes = 0;
  int64_t total_bytes = 0;
  EXPECT_EQ(cuda.MemGetInfo(&free_bytes, &total_bytes), kOk);
  EXPECT_EQ(free_bytes, 96);
  void* more = nullptr;
  EXPECT_EQ(cuda.Malloc(&more, 97), CudaApi::kMemoryAllocation);
  EXPECT_EQ(cuda.SetDevice(0), kOk);
  EXPECT_EQ(cuda.Malloc(&more, 97), kOk);
  EXPECT_EQ(cuda.SetDevice(2), FakeCuda::kInvalidDevice);
}

TEST(FakeCudaTest, LeaksAndDoubleFreesAreTold) {
  FakeCuda cuda;
  int* const array = MakeArray<int>(cuda, 10);
  uint32_t* const word = MakeWord(cuda);
  const CudaStreamHandle stream = MakeStream(cuda);
  const CudaEventHandle event = MakeEvent(cuda);
  EXPECT_EQ(cuda.leaks(),
            "1 allocation of pinned memory (4 bytes), 1 allocation of device 0 (40 bytes), 1 stream, 1 event");
  EXPECT_EQ(cuda.Free(word), FakeCuda::kInvalidValue);
  EXPECT_EQ(cuda.Free(array), kOk);
  EXPECT_EQ(cuda.Free(array), FakeCuda::kInvalidValue);
  EXPECT_EQ(cuda.FreeHost(word), kOk);
  EXPECT_EQ(cuda.StreamDestroy(stream), kOk);
  EXPECT_EQ(cuda.StreamDestroy(stream), FakeCuda::kInvalidResourceHandle);
  EXPECT_EQ(cuda.EventDestroy(event), kOk);
  EXPECT_EQ(cuda.EventRecord(event, stream), FakeCuda::kInvalidResourceHandle);
  EXPECT_EQ(cuda.leaks(), "");
  EXPECT_THAT(cuda.misuses(), SizeIs(4));
}

TEST(FakeCudaTest, FreeWaitsForTheDevice) {
  FakeCuda cuda({.delay_seed = 2});
  const CudaStreamHandle stream = MakeStream(cuda);
  int* const array = MakeArray<int>(cuda, 1);
  for (int i = 0; i < 50; ++i) Set(cuda, stream, array, i);
  EXPECT_EQ(cuda.Free(array), kOk);
}

TEST(FakeCudaTest, CopiesAndFillsStayWithinAllocations) {
  FakeCuda cuda;
  const CudaStreamHandle stream = MakeStream(cuda);
  auto* const array = MakeArray<unsigned char>(cuda, 100);
  unsigned char host[101] = {};
  EXPECT_EQ(cuda.MemsetAsync(array, 3, 100, stream), kOk);
  EXPECT_EQ(cuda.MemcpyAsync(host, array, 100, stream), kOk);
  EXPECT_EQ(cuda.StreamSynchronize(stream), kOk);
  EXPECT_EQ(host[99], 3);
  EXPECT_EQ(cuda.MemcpyAsync(array + 1, host, 100, stream), FakeCuda::kInvalidValue);
  EXPECT_EQ(cuda.MemsetAsync(host, 0, 1, stream), FakeCuda::kInvalidValue);
  EXPECT_EQ(cuda.Memcpy(array, host, 101), FakeCuda::kInvalidValue);
  EXPECT_THAT(cuda.misuses(), SizeIs(3));
}

TEST(FakeCudaTest, EnqueuingNeedsTheStreamsDevice) {
  FakeCuda cuda({.devices = 2});
  const CudaStreamHandle stream = MakeStream(cuda);
  std::thread([&] {
    EXPECT_EQ(cuda.Enqueue(stream, "kernel", {}, [] {}), kOk) << "a new thread starts with device 0";
    cuda.SetDevice(1);
    EXPECT_EQ(cuda.Enqueue(stream, "kernel", {}, [] {}), FakeCuda::kInvalidResourceHandle);
    EXPECT_EQ(cuda.EventRecord(MakeEvent(cuda), stream), FakeCuda::kInvalidResourceHandle);
  }).join();
  EXPECT_EQ(cuda.Enqueue(stream, "kernel", {}, [] {}), kOk);
  EXPECT_EQ(cuda.Enqueue(nullptr, "kernel", {}, [] {}), FakeCuda::kInvalidResourceHandle);
}

// ---- Faults --------------------------------------------------------------------------------------------------------

TEST(FakeCudaTest, TheNthCallFailsAndHasNoEffect) {
  FakeCuda cuda;
  cuda.FailCall("Malloc", 2, CudaApi::kMemoryAllocation);
  void* pointer = nullptr;
  EXPECT_EQ(cuda.Malloc(&pointer, 8), kOk);
  EXPECT_EQ(cuda.Malloc(&pointer, 8), CudaApi::kMemoryAllocation);
  EXPECT_EQ(cuda.Malloc(&pointer, 8), kOk);
  EXPECT_EQ(cuda.leaks(), "2 allocations of device 0 (16 bytes)");
  cuda.FailCall("Free", 1, FakeCuda::kIllegalAddress);
  EXPECT_EQ(cuda.Free(pointer), FakeCuda::kIllegalAddress);
  EXPECT_EQ(cuda.leaks(), "1 allocation of device 0 (8 bytes)");
}

TEST(FakeCudaTest, WithoutADriverTheCountIsNotSet) {
  FakeCuda cuda;
  cuda.FailCall("GetDeviceCount", 1, CudaApi::kInsufficientDriver);
  int count = 12345;
  EXPECT_EQ(cuda.GetDeviceCount(&count), CudaApi::kInsufficientDriver);
  EXPECT_EQ(count, 12345);
  EXPECT_EQ(FakeCuda({.devices = 0}).GetDeviceCount(&count), CudaApi::kNoDevice);
  EXPECT_EQ(count, 12345);
}

TEST(FakeCudaTest, AFailedDeviceRunsNothingMoreAndStaysFailed) {
  FakeCuda cuda({.devices = 2});
  const CudaStreamHandle stream = MakeStream(cuda);
  uint32_t* const word = MakeWord(cuda);
  const CudaEventHandle event = MakeEvent(cuda);
  bool ran = false;
  cuda.StreamWaitValue(stream, word, 1);
  cuda.Enqueue(stream, "kernel", {}, [&] { ran = true; });
  cuda.EventRecord(event, stream);
  std::promise<int> waited;
  std::thread waiting([&] { waited.set_value(cuda.EventSynchronize(event)); });
  while (cuda.calls("EventSynchronize") == 0) std::this_thread::yield();
  cuda.FailDevice(0, FakeCuda::kIllegalAddress);
  EXPECT_EQ(waited.get_future().get(), FakeCuda::kIllegalAddress);
  waiting.join();
  EXPECT_FALSE(ran);
  EXPECT_EQ(cuda.Enqueue(stream, "kernel", {}, [] {}), FakeCuda::kIllegalAddress);
  EXPECT_EQ(cuda.DeviceSynchronize(), FakeCuda::kIllegalAddress);
  EXPECT_EQ(cuda.EventDestroy(event), FakeCuda::kIllegalAddress);
  EXPECT_EQ(cuda.SetDevice(1), kOk);
  EXPECT_EQ(cuda.DeviceSynchronize(), kOk);
}

// ---- Graphs --------------------------------------------------------------------------------------------------------

/// Two streams, and what a capture over them does.
class FakeCudaGraphTest : public testing::Test {
 protected:
  FakeCudaGraphTest() : cuda_({.delay_seed = 7, .record = true}) {
    main_ = MakeStream(cuda_);
    side_ = MakeStream(cuda_);
    fork_ = MakeEvent(cuda_);
    join_ = MakeEvent(cuda_);
    a_ = MakeArray<int>(cuda_, 1);
    b_ = MakeArray<int>(cuda_, 1);
  }

  void Fork() {
    EXPECT_EQ(cuda_.EventRecord(fork_, main_), kOk);
    EXPECT_EQ(cuda_.StreamWaitEvent(side_, fork_), kOk);
  }
  void Join() {
    EXPECT_EQ(cuda_.EventRecord(join_, side_), kOk);
    EXPECT_EQ(cuda_.StreamWaitEvent(main_, join_), kOk);
  }
  CudaGraphHandle End() {
    CudaGraphHandle graph = nullptr;
    EXPECT_EQ(cuda_.StreamEndCapture(main_, &graph), kOk);
    return graph;
  }
  int EndError() {
    CudaGraphHandle graph = nullptr;
    return cuda_.StreamEndCapture(main_, &graph);
  }

  FakeCuda cuda_;
  CudaStreamHandle main_ = nullptr;
  CudaStreamHandle side_ = nullptr;
  CudaEventHandle fork_ = nullptr;
  CudaEventHandle join_ = nullptr;
  int* a_ = nullptr;
  int* b_ = nullptr;
};

TEST_F(FakeCudaGraphTest, WhatIsCapturedRunsWithEveryLaunchOnly) {
  EXPECT_EQ(cuda_.StreamBeginCapture(main_), kOk);
  bool capturing = false;
  EXPECT_EQ(cuda_.StreamIsCapturing(main_, &capturing), kOk);
  EXPECT_TRUE(capturing);
  int runs = 0;
  cuda_.Enqueue(main_, "count", {}, [&] { ++runs; });
  Set(cuda_, main_, a_, 4);
  Fork();
  Copy(cuda_, side_, b_, a_);
  Join();
  Copy(cuda_, main_, a_, b_);
  const CudaGraphHandle graph = End();
  EXPECT_EQ(cuda_.StreamIsCapturing(side_, &capturing), kOk);
  EXPECT_FALSE(capturing);
  EXPECT_EQ(cuda_.StreamSynchronize(main_), kOk);
  EXPECT_EQ(runs, 0);
  for (int i = 1; i <= 20; ++i) {
    EXPECT_EQ(cuda_.GraphLaunch(graph, main_), kOk);
    EXPECT_EQ(cuda_.StreamSynchronize(main_), kOk);
    EXPECT_EQ(runs, i);
    EXPECT_EQ(*b_, 4);
  }
  EXPECT_EQ(cuda_.GraphDestroy(graph), kOk);
  EXPECT_EQ(cuda_.GraphLaunch(graph, main_), FakeCuda::kInvalidResourceHandle);
  EXPECT_THAT(cuda_.Problems(), IsEmpty());
  EXPECT_THAT(cuda_.Problems({"wait 0"}), Not(IsEmpty()));
  EXPECT_THAT(cuda_.Problems({"wait 1"}), Not(IsEmpty()));
}

TEST_F(FakeCudaGraphTest, AStreamThatForkedHasToJoin) {
  EXPECT_EQ(cuda_.StreamBeginCapture(main_), kOk);
  Fork();
  Set(cuda_, side_, a_, 1);
  EXPECT_EQ(EndError(), FakeCuda::kStreamCaptureUnjoined);
}

TEST_F(FakeCudaGraphTest, NoWaitCrossesTheBorderOfACapture) {
  const CudaEventHandle before = MakeEvent(cuda_);
  EXPECT_EQ(cuda_.EventRecord(before, side_), kOk);
  EXPECT_EQ(cuda_.StreamBeginCapture(main_), kOk);
  EXPECT_EQ(cuda_.StreamWaitEvent(main_, before), FakeCuda::kStreamCaptureIsolation);
  EXPECT_EQ(EndError(), FakeCuda::kStreamCaptureInvalidated);

  EXPECT_EQ(cuda_.StreamBeginCapture(main_), kOk);
  EXPECT_EQ(cuda_.EventRecord(fork_, main_), kOk);
  End();
  EXPECT_EQ(cuda_.StreamWaitEvent(side_, fork_), FakeCuda::kCapturedEvent);
  EXPECT_EQ(cuda_.EventQuery(fork_), FakeCuda::kCapturedEvent);
  EXPECT_EQ(cuda_.EventRecord(fork_, main_), kOk);  // and it is an event again
  EXPECT_EQ(cuda_.EventSynchronize(fork_), kOk);
}

TEST_F(FakeCudaGraphTest, TwoCapturesDoNotMix) {
  EXPECT_EQ(cuda_.StreamBeginCapture(main_), kOk);
  EXPECT_EQ(cuda_.StreamBeginCapture(side_), kOk);
  EXPECT_EQ(cuda_.EventRecord(fork_, main_), kOk);
  EXPECT_EQ(cuda_.StreamWaitEvent(side_, fork_), FakeCuda::kStreamCaptureMerge);
  EXPECT_EQ(EndError(), FakeCuda::kStreamCaptureInvalidated);
}

TEST_F(FakeCudaGraphTest, ACapturingThreadMayNotBlock) {
  void* pointer = nullptr;
  const std::vector<std::pair<int, std::function<int()>>> calls = {
      {FakeCuda::kStreamCaptureUnsupported, [&] { return cuda_.StreamSynchronize(side_); }},
      {FakeCuda::kStreamCaptureUnsupported, [&] { return cuda_.EventSynchronize(join_); }},
      {FakeCuda::kStreamCaptureUnsupported, [&] { return cuda_.EventQuery(join_); }},
      {FakeCuda::kStreamCaptureUnsupported, [&] { return cuda_.DeviceSynchronize(); }},
      {FakeCuda::kStreamCaptureUnsupported, [&] { return cuda_.Malloc(&pointer, 8); }},
      {FakeCuda::kStreamCaptureUnsupported, [&] { return cuda_.HostAlloc(&pointer, 8); }},
      {FakeCuda::kStreamCaptureImplicit, [&] { return cuda_.Memcpy(a_, b_, 4); }},
  };
  for (const auto& [error, call] : calls) {
    EXPECT_EQ(cuda_.StreamBeginCapture(main_), kOk);
    EXPECT_EQ(call(), error);
    EXPECT_EQ(EndError(), FakeCuda::kStreamCaptureInvalidated);
  }
  EXPECT_EQ(cuda_.StreamBeginCapture(main_), kOk);
  std::thread([&] { EXPECT_EQ(cuda_.Malloc(&pointer, 8), kOk) << "another thread may"; }).join();
  std::thread([&] { EXPECT_EQ(EndError(), FakeCuda::kStreamCaptureWrongThread); }).join();
  End();
}

// ---- The happens-before check --------------------------------------------------------------------------------------

TEST(FakeCudaRecordingTest, AMissingWaitIsARace) {
  FakeCuda cuda({.record = true});
  const CudaStreamHandle producer = MakeStream(cuda);
  const CudaStreamHandle consumer = MakeStream(cuda);
  int* const a = MakeArray<int>(cuda, 2);
  const CudaEventHandle event = MakeEvent(cuda);
  EXPECT_EQ(cuda.MemsetAsync(a, 0, 4, producer), kOk);
  EXPECT_EQ(cuda.EventRecord(event, producer), kOk);
  EXPECT_EQ(cuda.MemsetAsync(a + 1, 0, 4, producer), kOk);  // after the record, and of other memory
  EXPECT_EQ(cuda.StreamWaitEvent(consumer, event), kOk);
  EXPECT_EQ(cuda.MemcpyAsync(a, a, 4, consumer), kOk);
  EXPECT_THAT(cuda.Problems(), IsEmpty());
  EXPECT_THAT(cuda.waits(), ElementsAre("wait 0"));
  EXPECT_THAT(cuda.Problems({"wait 0"}), ElementsAre("MemsetAsync on stream 0 races with MemcpyAsync on stream 1"));
  cuda.Enqueue(consumer, "claims to read too much", {{a, 8, false}}, [] {});
  EXPECT_THAT(cuda.Problems(), ElementsAre("MemsetAsync on stream 0 races with claims to read too much on stream 1"));
}

TEST(FakeCudaRecordingTest, AWaitThatIsIgnoredIsARace) {
  for (const int64_t ignored : {-1, 0, 1}) {
    FakeCuda cuda({.record = true, .ignored_wait = ignored});
    const CudaStreamHandle first = MakeStream(cuda);
    const CudaStreamHandle second = MakeStream(cuda);
    const CudaEventHandle event = MakeEvent(cuda);
    int* const a = MakeArray<int>(cuda, 1);
    cuda.EventRecord(event, first);
    EXPECT_EQ(cuda.StreamWaitEvent(second, event), kOk);  // for nothing
    cuda.Enqueue(first, "claims to write", {{a, 4, true}}, [] {});
    cuda.EventRecord(event, first);
    EXPECT_EQ(cuda.StreamWaitEvent(second, event), kOk);
    cuda.Enqueue(second, "claims to read", {{a, 4, false}}, [] {});
    EXPECT_THAT(cuda.Problems(), SizeIs(ignored == 1 ? 1 : 0));
    cuda.DeviceSynchronize();
    cuda.Enqueue(second, "claims to write later", {{a, 4, true}}, [] {});
    EXPECT_THAT(cuda.Problems(), SizeIs(ignored == 1 ? 1 : 0)) << "the host has waited";
  }
}

TEST(FakeCudaRecordingTest, TheHostOrdersByWhatItWaitsForAndByWords) {
  FakeCuda cuda({.record = true});
  const CudaStreamHandle stream = MakeStream(cuda);
  const CudaEventHandle event = MakeEvent(cuda);
  int* const a = MakeArray<int>(cuda, 1);
  uint32_t* const word = MakeWord(cuda);
  cuda.Enqueue(stream, "write", {{a, 4, true}}, [] {});
  cuda.EventRecord(event, stream);
  EXPECT_EQ(cuda.StreamWaitValue(stream, word, 1), kOk);
  cuda.Enqueue(stream, "write again", {{a, 4, true}}, [] {});
  EXPECT_EQ(cuda.EventSynchronize(event), kOk);
  cuda.HostAccess("host reads", {{a, 4, false}});
  EXPECT_THAT(cuda.Problems(), ElementsAre(HasSubstr("waits forever for signal"),
                                           "write again on stream 0 races with host reads by host thread 0"));
  cuda.Signal(word, 1);
  EXPECT_THAT(cuda.Problems(), IsEmpty());
}

TEST(FakeCudaRecordingTest, PhasesNameWaitsAlikeInEveryStepAndThread) {
  FakeCuda cuda({.record = true});
  const auto step = [&](CudaStreamHandle from, CudaStreamHandle to, CudaEventHandle event) {
    cuda.BeginPhase("step");
    cuda.EventRecord(event, from);
    cuda.StreamWaitEvent(to, event);
    cuda.EventRecord(event, from);
    cuda.StreamWaitEvent(to, event);
  };
  const auto rank = [&] {
    const CudaStreamHandle from = MakeStream(cuda);
    const CudaStreamHandle to = MakeStream(cuda);
    const CudaEventHandle event = MakeEvent(cuda);
    cuda.Enqueue(from, "kernel", {}, [] {});
    for (int i = 0; i < 3; ++i) step(from, to, event);
  };
  std::thread other(rank);
  rank();
  other.join();
  EXPECT_THAT(cuda.waits(), ElementsAre("step wait 0", "step wait 1"));
}

TEST(FakeCudaRecordingTest, HostThreadsAreOrderedWhereTheyMeet) {
  FakeCuda cuda({.record = true});
  int* const a = MakeArray<int>(cuda, 1);
  cuda.HostAccess("mine", {{a, 4, true}});
  std::thread([&] { cuda.HostAccess("other's", {{a, 4, true}}); }).join();
  EXPECT_THAT(cuda.Problems(), SizeIs(1));
  cuda.HostsMeet();
  std::thread([&] { cuda.HostAccess("third's", {{a, 4, true}}); }).join();
  EXPECT_THAT(cuda.Problems(), SizeIs(1));
}

}  // namespace
}  // namespace shardstep
