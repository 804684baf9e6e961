#include "shardstep/comm/buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/host_memory.h"

namespace shardstep {
namespace {

TEST(BufferTest, IsZeroFilledPageAlignedAndResident) {
  for (const int64_t size_bytes : {int64_t{1}, int64_t{4096}, int64_t{100'001}, int64_t{9} << 20}) {
    absl::StatusOr<Buffer> buffer = Buffer::Allocate(size_bytes, "test");
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size_bytes(), size_bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->view().data) % 4096, 0u);
    const auto pages = static_cast<size_t>((size_bytes + 4095) / 4096);
    std::vector<unsigned char> resident(pages);
    ASSERT_EQ(mincore(buffer->view().data, static_cast<size_t>(size_bytes), resident.data()), 0);
    for (size_t page = 0; page < pages; ++page) EXPECT_EQ(resident[page] & 1, 1) << "page " << page << " not touched";
    for (int64_t i = 0; i < size_bytes; ++i) ASSERT_EQ(buffer->as<uint8_t>()[i], 0);
    buffer->as<uint8_t>()[size_bytes - 1] = 1;
  }
}

TEST(BufferTest, BackedOnFirstUseItCostsNothingBefore) {
  constexpr int64_t kBytes = 64 * 4096;  // too small for huge pages
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(kBytes, "test", PageBacking::kOnFirstUse);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  const auto count = [&] {
    std::vector<unsigned char> resident(64);
    EXPECT_EQ(mincore(buffer->view().data, kBytes, resident.data()), 0);
    return std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; });
  };
  EXPECT_EQ(count(), 0);
  buffer->as<uint8_t>()[5 * 4096] = 1;
  EXPECT_EQ(count(), 1);
  EXPECT_EQ(buffer->as<uint8_t>()[kBytes - 1], 0);
}

TEST(BufferTest, EmptyIsAllowedAndNegativeIsNot) {
  absl::StatusOr<Buffer> empty = Buffer::Allocate(0, "nothing");
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->size_bytes(), 0);
  EXPECT_EQ(Buffer::Allocate(-1, "master").status(), absl::InvalidArgumentError("master: size_bytes = -1 is negative"));
}

// O2: too much is an error with a name, not a kill.
TEST(BufferTest, MoreThanThereIsNamesWhatAndHowMuch) {
  const int64_t size_bytes = AvailableMemoryBytes() + (int64_t{1} << 30);
  const absl::Status status = Buffer::Allocate(size_bytes, "first moment").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(testing::StartsWith("first moment: "), testing::HasSubstr(absl::StrCat(size_bytes))));
}

TEST(BufferTest, MovingKeepsTheAddress) {
  Buffer first = *Buffer::Allocate(4096, "a");
  std::byte* const data = first.view().data;
  Buffer second(std::move(first));
  EXPECT_EQ(second.view().data, data);
  EXPECT_EQ(first.view().data, nullptr);
  Buffer third = *Buffer::Allocate(8192, "b");
  third = std::move(second);
  EXPECT_EQ(third.view().data, data);
  EXPECT_EQ(third.size_bytes(), 4096);
}

TEST(HostMemoryTest, PopulatingAHoleIsRefusedByName) {
  const long page_bytes = sysconf(_SC_PAGESIZE);
  void* pages =
      mmap(nullptr, static_cast<size_t>(2 * page_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(munmap(static_cast<char*>(pages) + page_bytes, static_cast<size_t>(page_bytes)), 0);
  const absl::Status status =
      PopulatePages({static_cast<std::byte*>(pages), 2 * page_bytes}, PageAccess::kWrite, "arena");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::StartsWith("arena: "));
  munmap(pages, static_cast<size_t>(page_bytes));
}

}  // namespace
}  // namespace shardstep
