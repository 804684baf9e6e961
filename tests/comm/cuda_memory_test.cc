#include "shardstep/comm/cuda/cuda_memory.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr auto kNow = PageBacking::kOnCreation;

class CudaMemoryTest : public testing::Test {
 protected:
  std::unique_ptr<Memory> Make() {
    absl::StatusOr<std::unique_ptr<Memory>> memory = CreateCudaMemory(device_);
    EXPECT_TRUE(memory.ok()) << memory.status();
    return *std::move(memory);
  }
  ~CudaMemoryTest() override {
    EXPECT_EQ(cuda_.leaks(), "");
    EXPECT_THAT(cuda_.misuses(), IsEmpty());
  }

  FakeCuda cuda_{{.devices = 2, .device_memory_bytes = 1 << 20, .delay_seed = 1}};
  const CudaDeviceRef device_{&cuda_, 1};
};

TEST_F(CudaMemoryTest, AllocatesZerosOnItsDevice) {
  const auto memory = Make();
  const absl::StatusOr<Buffer> buffer = memory->Allocate(5000, "master weights", kNow);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_EQ(buffer->size_bytes(), 5000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->view().data) % 256, 0U);
  CudaPointerInfo info;
  ASSERT_EQ(cuda_.PointerGetAttributes(buffer->view().data, &info), CudaApi::kSuccess);
  EXPECT_EQ(info.kind, CudaPointerInfo::kDevice);
  EXPECT_EQ(info.device, 1);
  std::vector<char> bytes(5000, 'x');
  EXPECT_EQ(memory->Read(buffer->view().data, bytes.data(), 5000), absl::OkStatus());
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0), 5000);
}

TEST_F(CudaMemoryTest, ReadsAndWritesFromAnyThread) {
  const auto memory = Make();
  const absl::StatusOr<Buffer> buffer = memory->Allocate(4 * 256, "state", PageBacking::kOnFirstUse);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::byte* const part = buffer->view().data + 256 * t;
      const std::vector<char> written(256, static_cast<char>('a' + t));
      std::vector<char> read(256);
      for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(memory->Write(written.data(), part, 256), absl::OkStatus());
        EXPECT_EQ(memory->Read(part, read.data(), 256), absl::OkStatus());
        EXPECT_EQ(read, written);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(memory->Read(nullptr, nullptr, 0), absl::OkStatus());
}

TEST_F(CudaMemoryTest, MemoryForBothIsPinnedAndZero) {
  const auto memory = Make();
  const absl::StatusOr<Buffer> buffer = memory->AllocateForBoth(64, "words");
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  CudaPointerInfo info;
  ASSERT_EQ(cuda_.PointerGetAttributes(buffer->view().data, &info), CudaApi::kSuccess);
  EXPECT_EQ(info.kind, CudaPointerInfo::kPinned);
  EXPECT_EQ(std::count(buffer->as<char>(), buffer->as<char>() + 64, 0), 64);
  int value = 7;
  EXPECT_EQ(memory->Write(&value, buffer->view().data, 4), absl::OkStatus());
  EXPECT_EQ(*buffer->as<int>(), 7);
}

TEST_F(CudaMemoryTest, WhatDoesNotFitIsRefusedByNameBeforeItIsAllocated) {
  const auto memory = Make();
  const absl::StatusOr<Buffer> first = memory->Allocate(1 << 19, "gradients", kNow);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(memory->CheckAvailable(1 << 19, "moments"), absl::OkStatus());
  const absl::Status expected =
      absl::ResourceExhaustedError("moments: needs 524289 bytes of device 1, 524288 of its 1048576 are free");
  EXPECT_EQ(memory->CheckAvailable((1 << 19) + 1, "moments"), expected);
  const int64_t mallocs = cuda_.calls("Malloc");
  EXPECT_EQ(memory->Allocate((1 << 19) + 1, "moments", kNow).status(), expected);
  EXPECT_EQ(cuda_.calls("Malloc"), mallocs);

  cuda_.FailCall("Malloc", 1, CudaApi::kMemoryAllocation);  // somebody else was faster
  EXPECT_EQ(memory->Allocate(100, "moments", kNow).status(),
            absl::ResourceExhaustedError(
                "moments: needs 100 bytes of device 1: cudaMalloc: cudaErrorMemoryAllocation: out of memory"));
  cuda_.FailCall("HostAlloc", 1, CudaApi::kMemoryAllocation);
  EXPECT_EQ(
      memory->AllocateForBoth(100, "words").status(),
      absl::ResourceExhaustedError("words: 100 bytes pinned: cudaHostAlloc: cudaErrorMemoryAllocation: out of memory"));
  EXPECT_EQ(memory->Allocate(-1, "moments", kNow).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(memory->AllocateForBoth(-1, "words").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaMemoryTest, NothingIsAllocatedForNoBytes) {
  const auto memory = Make();
  EXPECT_EQ(memory->Allocate(0, "state", kNow)->view().data, nullptr);
  EXPECT_EQ(memory->AllocateForBoth(0, "words")->view().data, nullptr);
}

TEST_F(CudaMemoryTest, NoErrorLeaksAndEachNamesItsCall) {
  const auto memory = Make();
  for (const std::string call : {"SetDevice", "MemGetInfo", "Malloc", "MemsetAsync", "StreamSynchronize"}) {
    cuda_.FailCall(call, 1, FakeCuda::kInvalidValue);
    const absl::Status status = memory->Allocate(100, "state", kNow).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << call;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("state: "), HasSubstr(": cuda" + call)));
  }
  const absl::StatusOr<Buffer> buffer = memory->Allocate(100, "state", kNow);
  ASSERT_TRUE(buffer.ok());
  char host[100];
  for (const std::string call : {"SetDevice", "MemcpyAsync", "StreamSynchronize"}) {
    cuda_.FailCall(call, 1, FakeCuda::kInvalidValue);
    const absl::Status status = memory->Read(buffer->view().data, host, 100);
    EXPECT_THAT(std::string(status.message()), HasSubstr("read of device memory: cuda" + call));
  }
  cuda_.FailCall("StreamCreate", 1, FakeCuda::kInvalidValue);
  EXPECT_EQ(CreateCudaMemory(device_).status().code(), absl::StatusCode::kInternal);
}

TEST_F(CudaMemoryTest, ReachesItsDevicesMemoryAndPinnedMemory) {
  const auto memory = Make();
  const auto other = CreateCudaMemory({&cuda_, 0});
  ASSERT_TRUE(other.ok());
  const absl::StatusOr<Buffer> mine = memory->Allocate(100, "mine", kNow);
  const absl::StatusOr<Buffer> pinned = memory->AllocateForBoth(100, "pinned");
  const absl::StatusOr<Buffer> others = (*other)->Allocate(100, "other's", kNow);
  ASSERT_TRUE(mine.ok() && pinned.ok() && others.ok());
  std::vector<std::byte> host(100);
  EXPECT_TRUE(memory->Reaches(mine->view()));
  EXPECT_TRUE(memory->Reaches(pinned->view()));
  EXPECT_TRUE(memory->Reaches({}));
  EXPECT_FALSE(memory->Reaches(others->view()));
  EXPECT_FALSE(memory->Reaches({host.data(), 100}));
  EXPECT_FALSE(memory->Reaches({mine->view().data + 99, 3000})) << "begins in it and ends elsewhere";
}

TEST_F(CudaMemoryTest, BuffersMayOutliveIt) {
  Buffer buffer;
  {
    const auto memory = Make();
    buffer = *memory->Allocate(100, "state", kNow);
  }
  std::thread([&] { buffer = Buffer(); }).join();  // on a thread whose device is another
}

}  // namespace
}  // namespace shardstep
