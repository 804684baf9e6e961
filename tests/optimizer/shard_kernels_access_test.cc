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
#include "shardstep/optimizer/shard_kernels.h"
#include "tested_kernels.h"

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
    for (size_t first = 0, end; first < page_rights.size(); first = end) {
      for (end = first + 1; end < page_rights.size() && page_rights[end] == page_rights[first]; ++end) {
      }
      const int rights = page_rights[first] == 0   ? PROT_NONE
                         : page_rights[first] == 1 ? PROT_READ
                                                   : PROT_READ | PROT_WRITE;
      ASSERT_EQ(mprotect(mapping_ + first * kPage, (end - first) * kPage, rights), 0);
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
    return reinterpret_cast<T*>(GuardBytes(data, sizeof(T)));
  }
  absl::Span<const Slice> GuardSlices(absl::Span<const Slice> slices) {
    for (Slice slice : slices) {
      slice.data = GuardBytes(const_cast<void*>(slice.data), SizeBytes(slice.dtype));
      slices_.push_back(slice);
    }
    return slices_;
  }
  absl::Span<void* const> GuardDestinations(absl::Span<void* const> destinations, DType dtype) {
    for (void* destination : destinations) destinations_.push_back(GuardBytes(destination, SizeBytes(dtype)));
    return destinations_;
  }
  SumArgs GuardSum(SumArgs sum) {
    sum.slices = GuardSlices(sum.slices);
    sum.accumulator = Guard(const_cast<float*>(sum.accumulator));
    sum.group_accumulator = Guard(const_cast<float*>(sum.group_accumulator));
    return sum;
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
  std::byte* GuardBytes(void* data, int64_t element_bytes) {
    if (data == nullptr) return nullptr;
    const int64_t size_bytes = start_->array_elements() * element_bytes;
    for (size_t i = 0; i < originals_.size(); ++i) {
      if (originals_[i] == data) return arrays_[i]->data();
    }
    originals_.push_back(data);
    arrays_.push_back(std::make_unique<GuardedArray>(size_bytes));
    std::memcpy(arrays_.back()->data(), data, static_cast<size_t>(size_bytes));
    return arrays_.back()->data();
  }

  KernelCase* start_;
  std::vector<const void*> originals_;
  std::vector<std::unique_ptr<GuardedArray>> arrays_;
  std::vector<Slice> slices_;
  std::vector<void*> destinations_;
};

class AccessTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Targets, AccessTest, ::testing::ValuesIn(TestedKernels::Names()),
                         [](const auto& target) { return target.param; });

struct Outcome {
  std::vector<std::byte> contents;
  double squared_norm = 0;
};

Outcome RunReduce(const std::string& target, const KernelCaseOptions& options, std::byte poison) {
  KernelCase start(options);
  GuardedCase guarded(&start);
  ReduceArgs args = start.Reduce();
  args.sum = guarded.GuardSum(args.sum);
  args.accumulator_out = guarded.Guard(args.accumulator_out);
  args.group_accumulator_out = guarded.Guard(args.group_accumulator_out);
  args.rounded_out = guarded.Guard(args.rounded_out);
  const std::vector<MemoryAccess> accesses = Accesses(args);
  guarded.Protect(accesses, poison);
  EXPECT_TRUE(TestedKernels::Create(target, 2)->Reduce(args).ok());
  return {.contents = guarded.CheckAndTake(accesses), .squared_norm = start.scan.squared_norm.Round()};
}

Outcome RunUpdate(const std::string& target, KernelCaseOptions options, std::byte poison) {
  const std::unique_ptr<TestedKernels> tested = TestedKernels::Create(target, 2);
  options.destinations = std::min(options.destinations, tested->max_destinations());
  KernelCase start(options);
  GuardedCase guarded(&start);
  UpdateArgs args = start.Update();
  args.sum = guarded.GuardSum(args.sum);
  args.master = guarded.Guard(args.master);
  args.remainder = guarded.Guard(args.remainder);
  args.first_moment = guarded.Guard(args.first_moment);
  args.second_moment = guarded.Guard(args.second_moment);
  args.destinations = guarded.GuardDestinations(args.destinations, args.weight_dtype);
  const std::vector<MemoryAccess> accesses = Accesses(args);
  guarded.Protect(accesses, poison);
  EXPECT_TRUE(tested->Update(args).ok());
  return {.contents = guarded.CheckAndTake(accesses)};
}

// Sizes leave padding pages between parameters and partly filled pages at every tail.
std::vector<KernelCaseOptions> Shapes() {
  std::vector<KernelCaseOptions> shapes;
  const std::vector<NamedUpdate> updates = AllUpdates();
  for (const int64_t tail : {0, 1, 7, 8, 15, 16, 31, 33, 255, 1000, 1023}) {
    for (const int slices : {0, 2, 9}) {
      for (const auto use : {AccumulatorUse::kNone, AccumulatorUse::kInPlace, AccumulatorUse::kInAndOut}) {
        const NamedUpdate& update = updates[shapes.size() % updates.size()];
        shapes.push_back({.sizes = {5, 3 * 1024 + tail, 2048 - tail},
                          .slices = Slices(slices, shapes.size() % 7 < 4 ? DType::kBf16 : DType::kFp32),
                          .accumulator = use,
                          .sum_group = 1 + static_cast<int64_t>(shapes.size() % 3),
                          .closes = shapes.size() % 5 < 2,
                          .rounds = shapes.size() % 2 == 0,
                          .kind = update.kind,
                          .weight_dtype = update.weight_dtype,
                          .destinations = 2});
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

// Elements at the end of a page, so aligned to vectors or not.
TEST_P(AccessTest, DigestTouchesOnlyWhatItDeclares) {
  for (const DigestForm form : {DigestForm::kBf16, DigestForm::kFp32, DigestForm::kWidened}) {
    for (const int64_t elements : {1, 55, 56, 57, 111, 112, 113, 120, 1023, 1024, 1025, 3 * 1024, 3 * 1024 + 400}) {
      GuardedArray values(elements * (form == DigestForm::kFp32 ? 4 : 2));
      GuardedArray remainders(elements * 2);
      DigestSum sum;
      const DigestArgs args = {
          .form = form,
          .values = values.data(),
          .remainder = form == DigestForm::kWidened ? reinterpret_cast<uint16_t*>(remainders.data()) : nullptr,
          .elements = elements,
          .sum = &sum};
      const std::vector<MemoryAccess> accesses = Accesses(args);
      for (GuardedArray* const array : {&values, &remainders}) array->Protect(accesses, std::byte{0xff});
      EXPECT_TRUE(TestedKernels::Create(GetParam(), 2)->Digest(args).ok());
      values.CheckAndUnprotect("values");
      remainders.CheckAndUnprotect("remainders");
    }
  }
}

// Bytes that are read and written, but for scan and scalars.
struct Traffic {
  int64_t read_bytes = 0;
  int64_t written_bytes = 0;
};
Traffic TrafficOf(const std::vector<MemoryAccess>& accesses, const KernelCase& work) {
  Traffic traffic;
  for (const MemoryAccess& access : accesses) {
    if (access.begin == &work.scan || access.begin == &work.scalars || access.begin == work.rules.data()) {
      continue;
    }
    (access.write ? traffic.written_bytes : traffic.read_bytes) += access.size_bytes;
  }
  return traffic;
}

TEST(AccessesTest, ReduceListsSegmentsWithoutPadding) {
  KernelCase work({.sizes = {5, 1500},
                   .slices = {{.rank = 0}, {.dtype = DType::kFp32, .rank = 1}},
                   .accumulator = AccumulatorUse::kInPlace,
                   .sum_group = 4,
                   .closes = false,
                   .rounds = true});
  const ReduceArgs reduce = work.Reduce();
  const std::vector<MemoryAccess> accesses = Accesses(reduce);
  const Traffic traffic = TrafficOf(accesses, work);
  EXPECT_EQ(traffic.read_bytes, 1505 * (2 + 4 + 4 + 4));
  EXPECT_EQ(traffic.written_bytes, 1505 * (4 + 4 + 2));
  EXPECT_EQ(std::ranges::count_if(accesses, [&](const auto& a) { return a.begin == reduce.scan && a.write; }), 1);
}

TEST(AccessesTest, UpdateListsWhatItsKindKeeps) {
  for (const NamedUpdate& update : AllUpdates()) {
    KernelCase work({.sizes = {5, 1500},
                     .accumulator = AccumulatorUse::kInPlace,
                     .kind = update.kind,
                     .weight_dtype = update.weight_dtype,
                     .destinations = 2});
    const std::vector<MemoryAccess> accesses = Accesses(work.Update());
    const Traffic traffic = TrafficOf(accesses, work);
    const int64_t state_bytes = MasterBytes(update.kind, update.weight_dtype) + MomentBytes(update.kind);
    const int64_t weight_bytes = SizeBytes(update.weight_dtype);
    const bool has_master = update.weight_dtype == DType::kBf16 && update.kind.master == Master::kFp32;
    EXPECT_EQ(traffic.read_bytes, 1505 * (2 * 2 + 4 + state_bytes + (has_master ? 0 : weight_bytes))) << update.name;
    EXPECT_EQ(traffic.written_bytes, 1505 * (state_bytes + 2 * weight_bytes)) << update.name;
    const auto reads = [&](const void* what) {
      return std::ranges::count_if(accesses, [&](const auto& a) { return a.begin == what && !a.write; });
    };
    EXPECT_EQ(reads(&work.scalars), 1);
    EXPECT_EQ(reads(work.rules.data()), 1);
  }
}

TEST(AccessesTest, DigestListsValuesRemaindersAndSum) {
  const float fp32[3] = {};
  DigestSum sum;
  const DigestArgs whole = {.values = fp32, .elements = 3, .sum = &sum};
  const std::vector<MemoryAccess> accesses = Accesses(whole);
  ASSERT_EQ(accesses.size(), 2u);
  EXPECT_TRUE(accesses[0].begin == fp32 && accesses[0].size_bytes == 12 && !accesses[0].write);
  EXPECT_TRUE(accesses[1].begin == &sum && accesses[1].size_bytes == 32 && accesses[1].write);
  const uint16_t halves[6] = {};
  const DigestArgs split = {
      .form = DigestForm::kWidened, .values = halves, .remainder = halves + 3, .elements = 3, .sum = &sum};
  const std::vector<MemoryAccess> of_split = Accesses(split);
  ASSERT_EQ(of_split.size(), 3u);
  EXPECT_TRUE(of_split[0].begin == halves && of_split[0].size_bytes == 6);
  EXPECT_TRUE(of_split[1].begin == halves + 3 && of_split[1].size_bytes == 6 && !of_split[1].write);
}

TEST(AccessesTest, ZeroAndCopyListTheirBytes) {
  std::byte from[10];
  std::byte to[10];
  const std::vector<MemoryAccess> zero = Accesses(ZeroArgs{.gradient = {to, 7}});
  ASSERT_EQ(zero.size(), 1u);
  EXPECT_TRUE(zero[0].begin == to && zero[0].size_bytes == 7 && zero[0].write);
  const std::vector<MemoryAccess> copy = Accesses(CopyArgs{.from = from, .to = to, .size_bytes = 6});
  ASSERT_EQ(copy.size(), 2u);
  EXPECT_TRUE(copy[0].begin == from && copy[0].size_bytes == 6 && !copy[0].write);
  EXPECT_TRUE(copy[1].begin == to && copy[1].size_bytes == 6 && copy[1].write);
}

}  // namespace
}  // namespace shardstep
