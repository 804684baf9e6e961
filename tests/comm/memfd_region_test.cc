#include "shardstep/comm/shm/memfd_region.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardstep {
namespace {

class MemfdRegionTest : public testing::Test {
 protected:
  const std::unique_ptr<RegionProvider> provider_ = MakeMemfdRegionProvider();
};

TEST_F(MemfdRegionTest, AnotherProcessSeesAndChangesTheSameMemory) {
  auto owned = provider_->Create(10'000, PageBacking::kOnCreation, "weights");
  ASSERT_TRUE(owned.ok()) << owned.status();
  for (int64_t i = 0; i < 10'000; ++i) ASSERT_EQ((*owned)->view().as<uint8_t>()[i], 0);
  (*owned)->view().as<uint8_t>()[9'999] = 42;
  const std::string handle = (*owned)->Export(1);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto opened = provider_->Open(handle, 10'000, PageAccess::kWrite, PageBacking::kOnCreation, "weights");
    if (!opened.ok() || (*opened)->view().as<uint8_t>()[9'999] != 42) _exit(1);
    (*opened)->view().as<uint8_t>()[0] = 43;
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ((*owned)->view().as<uint8_t>()[0], 43);
}

TEST_F(MemfdRegionTest, AnOpenedRegionOutlivesItsOwner) {
  auto owned = provider_->Create(4096, PageBacking::kOnCreation, "arena");
  ASSERT_TRUE(owned.ok());
  (*owned)->view().as<uint8_t>()[5] = 6;
  auto opened = provider_->Open((*owned)->Export(1), 4096, PageAccess::kRead, PageBacking::kOnCreation, "arena");
  ASSERT_TRUE(opened.ok()) << opened.status();
  owned->reset();
  EXPECT_EQ((*opened)->view().as<uint8_t>()[5], 6);
}

TEST_F(MemfdRegionTest, HandlesThatDoNotFitAreRefusedByName) {
  auto owned = provider_->Create(4096, PageBacking::kOnCreation, "arena");
  ASSERT_TRUE(owned.ok());
  const std::string handle = (*owned)->Export(1);
  const absl::Status size =
      provider_->Open(handle, 8192, PageAccess::kRead, PageBacking::kOnCreation, "arena of rank 3").status();
  EXPECT_EQ(size.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(size.message()), testing::StartsWith("arena of rank 3: /proc/"));
  owned->reset();
  EXPECT_EQ(provider_->Open(handle, 4096, PageAccess::kRead, PageBacking::kOnCreation, "arena").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(provider_->Open("nonsense", 4096, PageAccess::kRead, PageBacking::kOnCreation, "arena").status().code(),
            absl::StatusCode::kInternal);
}

TEST_F(MemfdRegionTest, AReusedDescriptorIsNotMistakenForTheRegion) {
  auto first = provider_->Create(4096, PageBacking::kOnCreation, "first");
  const std::string stale = (*first)->Export(1);
  first->reset();
  auto second = provider_->Create(4096, PageBacking::kOnCreation, "second");  // the same descriptor number
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(provider_->Open(stale, 4096, PageAccess::kRead, PageBacking::kOnCreation, "first").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// Blocks of the file are memory, whoever maps it.
TEST_F(MemfdRegionTest, BackedOnFirstUseItCostsNothingBefore) {
  constexpr int64_t kBytes = 64 * 4096;
  for (const PageBacking backing : {PageBacking::kOnCreation, PageBacking::kOnFirstUse}) {
    auto owned = provider_->Create(kBytes, backing, "arena");
    ASSERT_TRUE(owned.ok()) << owned.status();
    const std::string handle = (*owned)->Export(1);
    auto opened = provider_->Open(handle, kBytes, PageAccess::kRead, backing, "arena");
    ASSERT_TRUE(opened.ok()) << opened.status();
    const int descriptor = std::stoi(handle.substr(handle.find(' ') + 1));
    const auto used_bytes = [&] {
      struct stat file {};
      EXPECT_EQ(fstat(descriptor, &file), 0);
      return int64_t{file.st_blocks} * 512;
    };
    EXPECT_EQ(used_bytes(), backing == PageBacking::kOnCreation ? kBytes : 0);
    (*owned)->view().as<uint8_t>()[5 * 4096] = 7;
    EXPECT_EQ((*opened)->view().as<uint8_t>()[5 * 4096], 7);
    EXPECT_EQ(used_bytes(), backing == PageBacking::kOnCreation ? kBytes : 4096);
  }
}

TEST_F(MemfdRegionTest, TheSizeIsSealed) {
  auto owned = provider_->Create(4096, PageBacking::kOnCreation, "arena");
  ASSERT_TRUE(owned.ok());
  const std::string handle = (*owned)->Export(1);
  const size_t space = handle.find(' ');
  const int descriptor = std::stoi(handle.substr(space + 1));
  EXPECT_NE(ftruncate(descriptor, 0), 0) << "a peer could make every access end in SIGBUS";
}

// O2: the limit on file size ends in an error, not in SIGXFSZ.
TEST_F(MemfdRegionTest, TooLittleIsResourceExhausted) {
  const int64_t size_bytes = AvailableMemoryBytes() + (int64_t{1} << 30);
  const absl::Status status =
      provider_->Create(size_bytes, PageBacking::kOnCreation, "gradient arena of rank 1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::AllOf(testing::StartsWith("gradient arena of rank 1: "),
                                                            testing::HasSubstr(absl::StrCat(size_bytes))));
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status limited = provider_->Create(8192, PageBacking::kOnCreation, "arena").status();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(limited.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(limited.message()), testing::HasSubstr("ulimit -f"));
}

}  // namespace
}  // namespace shardstep
