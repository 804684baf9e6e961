#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "checkpoint_test_model.h"

// Every allocation of this program is counted by its size, which is kept in front of it.
namespace {
std::atomic<int64_t> live_bytes{0};
std::atomic<int64_t> peak_bytes{0};
constexpr size_t kPrefix = 16;

void* CountedAllocate(size_t size) {
  char* block = static_cast<char*>(std::malloc(size + kPrefix));
  if (block == nullptr) std::abort();
  *reinterpret_cast<size_t*>(block) = size;
  const int64_t live = live_bytes += static_cast<int64_t>(size);
  int64_t peak = peak_bytes;
  while (live > peak && !peak_bytes.compare_exchange_weak(peak, live)) {
  }
  return block + kPrefix;
}

void CountedFree(void* pointer) {
  if (pointer == nullptr) return;
  char* block = static_cast<char*>(pointer) - kPrefix;
  live_bytes -= static_cast<int64_t>(*reinterpret_cast<size_t*>(block));
  std::free(block);
}
}  // namespace

void* operator new(size_t size) { return CountedAllocate(size); }
void* operator new[](size_t size) { return CountedAllocate(size); }
// The sanitizers' own nothrow forms, which std::stable_sort's buffer comes from, would not call the two above.
void* operator new(size_t size, const std::nothrow_t&) noexcept { return CountedAllocate(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return CountedAllocate(size); }
void operator delete(void* pointer) noexcept { CountedFree(pointer); }
void operator delete[](void* pointer) noexcept { CountedFree(pointer); }
void operator delete(void* pointer, size_t) noexcept { CountedFree(pointer); }
void operator delete[](void* pointer, size_t) noexcept { CountedFree(pointer); }

namespace shardstep {
namespace {

int64_t ExtraBytes(const std::function<void()>& body) {
  const int64_t before = live_bytes;
  peak_bytes = before;
  body();
  return peak_bytes - before;
}

// K4: 12 MB of state, or what an fp32 and a split master share of it, pass through one chunk, in both directions.
TEST(CheckpointMemoryTest, K4ExtraMemoryIsOneChunk) {
  constexpr int64_t kChunkBytes = 256 << 10;
  constexpr int64_t kBesides = 96 << 10;  // manifest, header, names
  TemporaryDirectory directory;
  ThreadRendezvousGroup group(1);
  const std::unique_ptr<Rendezvous> rendezvous = group.Join(0);
  const std::vector<float> zeros(1000 * 1000);
  CheckpointInfo info;
  info.digests.assign(3, DigestOf(0, 0, absl::Span<const float>(zeros)));
  CheckpointPolicy policy;
  policy.chunk_bytes = kChunkBytes;
  for (const Master master : {Master::kFp32, Master::kSplit}) {
    TestModel model = {Spec("w", {1000, 1000})};
    model.groups[0].master = master;
    RankState state(model, 1, 0);
    info.step++;
    info.parameters = model.Infos();
    const CheckpointTarget target = {.parameters = info.parameters};

    const auto load_bytes = [&] {
      return ExtraBytes([&] {
        ASSERT_TRUE(
            LoadCheckpoint(directory.path(), state.layout, state.access, target, *rendezvous, policy, nullptr).ok());
      });
    };
    if (master == Master::kSplit) {
      EXPECT_LE(load_bytes(), kChunkBytes + kBesides) << "of an fp32 master";
    }
    const int64_t save_bytes = ExtraBytes([&] {
      const absl::Status status =
          SaveCheckpoint(directory.path(), state.layout, state.access, info, *rendezvous, policy);
      ASSERT_TRUE(status.ok()) << status;
    });
    EXPECT_GE(save_bytes, kChunkBytes);
    EXPECT_LE(save_bytes, kChunkBytes + kBesides) << Name(master);
    const int64_t loaded_bytes = load_bytes();
    EXPECT_GE(loaded_bytes, kChunkBytes);
    EXPECT_LE(loaded_bytes, kChunkBytes + kBesides) << Name(master);
  }
}

// Reading in logical ranges: of four ranks none reads much more than its quarter, and each chunk once.
class CountingFileSystem : public FileSystem {
 public:
  ssize_t Read(int file, void* data, size_t size, off_t offset) override {
    read_bytes += static_cast<int64_t>(size);
    largest_bytes = std::max(largest_bytes, static_cast<int64_t>(size));
    return FileSystem::Read(file, data, size, offset);
  }
  ssize_t Write(int file, const void* data, size_t size) override {
    write_bytes.push_back(static_cast<int64_t>(size));
    return FileSystem::Write(file, data, size);
  }
  std::vector<int64_t> write_bytes;  // by call
  int64_t read_bytes = 0;
  int64_t largest_bytes = 0;
};

TEST(CheckpointMemoryTest, AShardIsWrittenInChunksOfTheSizeThatTheManifestNames) {
  TemporaryDirectory directory;
  CountingFileSystem file_system;
  ExpectSaved(directory.path(), {.model = {Spec("w", {5000})}, .chunk_bytes = 192, .file_systems = {&file_system}});
  const int64_t shard_bytes =
      static_cast<int64_t>(std::filesystem::file_size(directory / "step-000000000001/shard-0-of-1.safetensors"));
  const auto whole_chunks = static_cast<size_t>(shard_bytes / 192);
  ASSERT_GE(whole_chunks, size_t{3 * 5000 * 4 / 192});
  ASSERT_GT(file_system.write_bytes.size(), whole_chunks);  // at least the manifest follows
  for (size_t i = 0; i < whole_chunks; ++i) ASSERT_EQ(file_system.write_bytes[i], 192) << i;
}

TEST(CheckpointMemoryTest, EachRankReadsWhatItOwns) {
  // Whole buckets of blocks over four ranks; saved by one rank, so each of the four needs many places of one file.
  const std::vector<ParameterSpec> parameters = {Spec("w", {8, 1024})};
  TemporaryDirectory directory;
  ExpectSaved(directory.path(), {.model = parameters, .world_size = 1, .chunk_bytes = 2048});
  CountingFileSystem file_systems[4];
  for (const LoadOutcome& outcome :
       LoadOnAll(directory.path(), 4, 1, parameters,
                 {&file_systems[0], &file_systems[1], &file_systems[2], &file_systems[3]})) {
    ASSERT_TRUE(outcome.equal) << outcome.status;
  }
  const int64_t quarter = 3 * 2048 * 4;
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_LE(file_systems[rank].largest_bytes, 2048);
    // Every owned run may touch one chunk more than it fills; the header and, on rank 0, the manifest come on top.
    EXPECT_LE(file_systems[rank].read_bytes, quarter + 6 * 2048 + 2048 + (rank == 0 ? 2048 : 0));
  }
}

}  // namespace
}  // namespace shardstep
