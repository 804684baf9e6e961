// Kernels touch what Accesses() declares and nothing else: pages outside are protected, bytes outside are poisoned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernel_case.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {
namespace {

constexpr int64_t kPage = 4096;

// An array between two guard pages, ending where the second begins.
class GuardedArray {
 public:
  explicit GuardedArray(int64_t size_bytes)
      : size_bytes_(size_bytes), pages_bytes_((size_bytes + kPage - 1) / kPage * kPage) {
    mapping_ = static_cast<std::byte*>(mmap(nullptr, static_cast<size_t>(pages_bytes_ + 2 * kPage),
                                            PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
  ~GuardedArray() { munmap(mapping_, static_cast<size_t>(pages_bytes_ + 2 * kPage)); }
  GuardedArray(const GuardedArray&) = delete;

  std::byte* data() const { return mapping_ + kPage + (pages_bytes_ - size_bytes_); }
  int64_t size_bytes() const { return size_bytes_; }

  // Fills what nobody declared with `poison`, and takes from each page the rights that nobody declared.
  void Protect(const std::vector<MemoryAccess>& accesses, std::byte poison) {
    declared_.assign(static_cast<size_t>(size_bytes_), 0);
    for (const MemoryAccess& access : accesses) {
      const auto* begin = static_cast<const std::byte*>(access.begin);
      if (begin < data() || begin >= data() + size_bytes_) continue;
      ASSERT_LE(begin + access.size_bytes, data() + size_bytes_);
      for (int64_t i = begin - data(); i < begin - data() + access.size_bytes; ++i) {
        declared_[i] = std::max<char>(declared_[i], access.write ? 2 : 1);
      }
    }
    for (int64_t i = 0; i < size_bytes_; ++i) {
      if (declared_[i] == 0) data()[i] = poison;
    }
    before_.assign(data(), data() + size_bytes_);
    std::vector<char> page_rights(static_cast<size_t>(pages_bytes_ / kPage + 2), 0);
    for (int64_t i = 0; i < size_bytes_; ++i) {
      char& rights = page_rights[(data() + i - mapping_) / kPage];
      rights = std::max(rights, declared_[i]);
    }
    for (size_t page = 0; page < page_rights.size(); ++page) {
      const int rights = page_rights[page] == 0   ? PROT_NONE
                         : page_rights[page] == 1 ? PROT_READ
                                                  : PROT_READ | PROT_WRITE;
      ASSERT_EQ(mprotect(mapping_ + page * kPage, kPage, rights), 0);
    }
  }

  // Gives all rights back; every byte that was not declared as written must be as before.
  void CheckAndUnprotect(const char* name) {
    ASSERT_EQ(mprotect(mapping_, static_cast<size_t>(pages_bytes_ + 2 * kPage), PROT_READ | PROT_WRITE), 0);
    for (int64_t i = 0; i < size_bytes_; ++i) {
      if (declared_[i] < 2) {
        ASSERT_EQ(data()[i], before_[i]) << name << " was written at byte " << i;
      }
    }
  }

 private:
  int64_t size_bytes_;
  int64_t pages_bytes_;
  std::byte* mapping_ = nullptr;
  std::vector<char> declared_;  // 0 not at all, 1 read, 2 written
  std::vector<std::byte> before_;
};

// The arrays of a KernelCase, each copied into guarded memory.
class GuardedCase {
 public:
  explicit GuardedCase(KernelCase* start) : start_(start) {}

  template <typename T>
  T* Guard(T* data) {
    if (data == nullptr) return nullptr;
    const int64_t size_bytes = static_cast<int64_t>(start_->master.size() * sizeof(T));
    for (size_t i = 0; i < originals_.size(); ++i) {
      if (originals_[i] == data) return reinterpret_cast<T*>(arrays_[i]->data());
    }
    originals_.push_back(data);
    arrays_.push_back(std::make_unique<GuardedArray>(size_bytes));
    std::memcpy(arrays_.back()->data(), data, static_cast<size_t>(size_bytes));
    return reinterpret_cast<T*>(arrays_.back()->data());
  }
  absl::Span<const Slice> GuardSlices(absl::Span<const Slice> slices) {
    for (const Slice& slice : slices) slices_.push_back({.data = Guard(slice.data), .rank = slice.rank});
    return slices_;
  }
  absl::Span<Bf16* const> GuardDestinations(absl::Span<Bf16* const> destinations) {
    for (Bf16* destination : destinations) destinations_.push_back(Guard(destination));
    return destinations_;
  }

  void Protect(const std::vector<MemoryAccess>& accesses, std::byte poison) {
    for (auto& array : arrays_) array->Protect(accesses, poison);
  }
  // What the arrays hold, without the bytes that were poisoned.
  std::vector<std::byte> CheckAndTake(const std::vector<MemoryAccess>& accesses) {
    for (size_t i = 0; i < arrays_.size(); ++i) arrays_[i]->CheckAndUnprotect(absl::StrCat("array ", i).c_str());
    std::vector<std::byte> contents;
    for (const MemoryAccess& access : accesses) {
      for (const auto& array : arrays_) {
        const auto* begin = static_cast<const std::byte*>(access.begin);
        if (begin < array->data() || begin >= array->data() + array->size_bytes()) continue;
        contents.insert(contents.end(), begin, begin + access.size_bytes);
      }
    }
    return contents;
  }

 private:
  KernelCase* start_;
  std::vector<const void*> originals_;
  std::vector<std::unique_ptr<GuardedArray>> arrays_;
  std::vector<Slice> slices_;
  std::vector<Bf16*> destinations_;
};

std::vector<std::string> Targets() {
  std::vector<std::string> names;
  for (const CpuTarget& target : CpuTargets()) {
    if (target.supported) names.push_back(target.name);
  }
  return names;
}

class AccessTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Targets, AccessTest, ::testing::ValuesIn(Targets()),
                         [](const auto& target) { return target.param; });

struct Outcome {
  std::vector<std::byte> contents;
  double squared_norm = 0;
};

Outcome RunReduce(const std::string& target, const KernelCaseOptions& options, std::byte poison) {
  KernelCase start(options);
  GuardedCase guarded(&start);
  ReduceArgs args = start.Reduce();
  args.slices = guarded.GuardSlices(args.slices);
  args.accumulator_in = guarded.Guard(args.accumulator_in);
  args.accumulator_out = guarded.Guard(args.accumulator_out);
  const std::vector<MemoryAccess> accesses = Accesses(args);
  guarded.Protect(accesses, poison);
  InlineStream stream;
  EXPECT_TRUE((*CreateCpuShardKernels(2, target))->Reduce(args, stream).ok());
  return {.contents = guarded.CheckAndTake(accesses), .squared_norm = start.scan.squared_norm.Round()};
}

Outcome RunUpdate(const std::string& target, const KernelCaseOptions& options, std::byte poison) {
  KernelCase start(options);
  GuardedCase guarded(&start);
  UpdateArgs args = start.Update();
  args.slices = guarded.GuardSlices(args.slices);
  args.accumulator = guarded.Guard(const_cast<float*>(args.accumulator));
  args.master = guarded.Guard(args.master);
  args.first_moment = guarded.Guard(args.first_moment);
  args.second_moment = guarded.Guard(args.second_moment);
  args.destinations = guarded.GuardDestinations(args.destinations);
  const std::vector<MemoryAccess> accesses = Accesses(args);
  guarded.Protect(accesses, poison);
  InlineStream stream;
  EXPECT_TRUE((*CreateCpuShardKernels(2, target))->Update(args, stream).ok());
  return {.contents = guarded.CheckAndTake(accesses)};
}

// Sizes leave padding pages between parameters and partly filled pages at every tail.
std::vector<KernelCaseOptions> Shapes() {
  std::vector<KernelCaseOptions> shapes;
  for (const int64_t tail : {0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 511, 1000, 1023}) {
    for (const int slices : {0, 1, 2, 9}) {
      for (const auto use : {AccumulatorUse::kNone, AccumulatorUse::kInPlace, AccumulatorUse::kInAndOut}) {
        shapes.push_back(
            {.sizes = {5, 3 * 1024 + tail, 2048 - tail}, .slices = slices, .accumulator = use, .destinations = 2});
      }
    }
  }
  // Shared by two threads.
  shapes.push_back({.sizes = {5, 70 * 1024 + 3, 9}, .accumulator = AccumulatorUse::kInPlace, .destinations = 2});
  return shapes;
}

TEST_P(AccessTest, ReduceTouchesOnlyWhatItDeclares) {
  for (const KernelCaseOptions& shape : Shapes()) {
    const Outcome zero = RunReduce(GetParam(), shape, std::byte{0x00});
    const Outcome nan = RunReduce(GetParam(), shape, std::byte{0xff});
    ASSERT_EQ(zero.contents, nan.contents) << "a byte outside was read";
    ASSERT_EQ(zero.squared_norm, nan.squared_norm) << "a byte outside was read";
    if (HasFailure()) return;
  }
}

TEST_P(AccessTest, UpdateTouchesOnlyWhatItDeclares) {
  for (const KernelCaseOptions& shape : Shapes()) {
    const Outcome zero = RunUpdate(GetParam(), shape, std::byte{0x00});
    const Outcome nan = RunUpdate(GetParam(), shape, std::byte{0xff});
    ASSERT_EQ(zero.contents, nan.contents) << "a byte outside was read";
    if (HasFailure()) return;
  }
}

TEST(AccessesTest, ListSegmentsWithoutPadding) {
  KernelCase start({.sizes = {5, 1500}, .slices = 2, .accumulator = AccumulatorUse::kInPlace});
  const ReduceArgs reduce = start.Reduce();
  int64_t read_bytes = 0;
  int64_t written_bytes = 0;
  for (const MemoryAccess& access : Accesses(reduce)) {
    if (access.begin == reduce.scan) continue;
    (access.write ? written_bytes : read_bytes) += access.size_bytes;
  }
  EXPECT_EQ(read_bytes, 1505 * (2 * 2 + 4));
  EXPECT_EQ(written_bytes, 1505 * 4);
  EXPECT_EQ(std::ranges::count_if(Accesses(reduce), [&](const auto& a) { return a.begin == reduce.scan && a.write; }),
            1);

  const UpdateArgs update = start.Update();
  read_bytes = written_bytes = 0;
  bool reads_scalars = false;
  for (const MemoryAccess& access : Accesses(update)) {
    if (access.begin == update.scalars || access.begin == update.scalars->groups.data()) {
      reads_scalars = true;
      EXPECT_FALSE(access.write);
      continue;
    }
    (access.write ? written_bytes : read_bytes) += access.size_bytes;
  }
  EXPECT_TRUE(reads_scalars);
  EXPECT_EQ(read_bytes, 1505 * (2 * 2 + 4 + 12));
  EXPECT_EQ(written_bytes, 1505 * (12 + 2));
}

}  // namespace
}  // namespace shardstep
