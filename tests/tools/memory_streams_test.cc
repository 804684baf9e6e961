#include "shardstep/tools/bench/memory_streams.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "hwy/targets.h"
#include "shardstep/comm/buffer.h"

namespace shardstep {
namespace {

constexpr int64_t kElements = 5000;
constexpr std::byte kPoison{0xa5};

// Arrays whose every byte is known before, and looked at afterwards.
class Arrays {
 public:
  template <typename T>
  T* Make(int64_t elements, std::byte (*value)(int64_t byte)) {
    auto buffer = Buffer::Allocate(elements * static_cast<int64_t>(sizeof(T)), "test");
    EXPECT_TRUE(buffer.ok());
    Array& array = arrays_.emplace_back();
    array.buffer = *std::move(buffer);
    array.element_bytes = sizeof(T);
    for (int64_t i = 0; i < array.buffer.size_bytes(); ++i) {
      array.before.push_back(array.buffer.view().data[i] = value(i));
    }
    return array.buffer.as<T>();
  }

  // Bytes that changed outside elements [begin, end) of `array`; and how many of those inside did.
  std::pair<int64_t, int64_t> Changed(const void* array, int64_t begin, int64_t end) const {
    const auto found =
        std::find_if(arrays_.begin(), arrays_.end(), [&](const Array& a) { return a.buffer.view().data == array; });
    int64_t outside = 0, inside = 0;
    for (int64_t i = 0; i < found->buffer.size_bytes(); ++i) {
      if (found->buffer.view().data[i] == found->before[i]) continue;
      const int64_t element = i / found->element_bytes;
      ++(element >= begin && element < end ? inside : outside);
    }
    return {outside, inside};
  }

 private:
  struct Array {
    Buffer buffer;
    int64_t element_bytes = 0;
    std::vector<std::byte> before;
  };
  std::list<Array> arrays_;
};

std::byte Poison(int64_t) { return kPoison; }
std::byte Varied(int64_t byte) { return static_cast<std::byte>(byte * 7 + byte / 256); }
std::byte Zero(int64_t) { return {}; }

struct Counts {
  int read2, read4, keep2, keep4, write2, write4;
};
// As steps have them: any rule, FP32 and SPLIT, gradients and updates; several copies of the weights.
constexpr Counts kCounts[] = {{2, 0, 0, 3, 1, 0}, {0, 1, 1, 2, 1, 0}, {8, 0, 0, 0, 0, 1}, {3, 0, 0, 1, 0, 0},
                              {2, 1, 2, 2, 0, 0}, {1, 0, 2, 0, 3, 0}, {0, 0, 0, 0, 1, 0}, {5, 0, 0, 0, 0, 0},
                              {0, 1, 0, 2, 4, 0}, {1, 0, 1, 1, 1, 1}, {0, 0, 0, 3, 0, 0}, {0, 0, 2, 3, 1, 0}};

// Moves elements [begin, begin + moved): what is kept keeps its bits, all that is written is, and nothing around it.
void ExpectMoves(const Counts& counts, int64_t begin, int64_t moved, WorkerPool& pool, int64_t elements = kElements) {
  SCOPED_TRACE(absl::StrCat(moved, " elements from ", begin, ", read ", counts.read2, " ", counts.read4, ", keep ",
                            counts.keep2, " ", counts.keep4, ", write ", counts.write2, " ", counts.write4));
  Arrays arrays;
  MemoryStreams streams;
  // What is written comes from what is read.
  for (int i = 0; i < counts.read2; ++i) streams.read2.push_back(arrays.Make<uint16_t>(elements, &Zero));
  for (int i = 0; i < counts.read4; ++i) streams.read4.push_back(arrays.Make<float>(elements, &Zero));
  for (int i = 0; i < counts.keep2; ++i) streams.keep2.push_back(arrays.Make<uint16_t>(elements, &Varied));
  for (int i = 0; i < counts.keep4; ++i) streams.keep4.push_back(arrays.Make<float>(elements, &Varied));
  for (int i = 0; i < counts.write2; ++i) streams.write2.push_back(arrays.Make<uint16_t>(elements, &Poison));
  for (int i = 0; i < counts.write4; ++i) streams.write4.push_back(arrays.Make<float>(elements, &Poison));
  Move(streams, {{begin, moved}}, pool);
  const auto expect = [&](const auto& same, int64_t changed_bytes) {
    for (const auto* array : same) {
      EXPECT_EQ(arrays.Changed(array, begin, begin + moved), std::pair(int64_t{0}, changed_bytes));
    }
  };
  expect(streams.read2, 0);
  expect(streams.read4, 0);
  expect(streams.keep2, 0);
  expect(streams.keep4, 0);
  expect(streams.write2, 2 * moved);
  expect(streams.write4, 4 * moved);
}

std::unique_ptr<WorkerPool> Pool(int workers) {
  auto pool = WorkerPool::Create(workers);
  EXPECT_TRUE(pool.ok());
  return *std::move(pool);
}

// Restores the choice of target.
class TargetChoice {
 public:
  explicit TargetChoice(int64_t target) { Choose(target); }
  ~TargetChoice() { Choose(0); }

 private:
  static void Choose(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

TEST(MemoryStreamsTest, TouchesItsElementsOnlyOnEveryTarget) {
  const std::unique_ptr<WorkerPool> alone = Pool(0);
  int targets = 0;
  for (int64_t remaining = hwy::SupportedTargets(); remaining != 0; remaining &= remaining - 1) {
    const int64_t target = remaining & -remaining;
    const TargetChoice choice(target);
    SCOPED_TRACE(hwy::TargetName(target));
    ++targets;
    for (const Counts& counts : kCounts) {
      for (const int64_t moved : {0, 1, 7, 31, 32, 33, 511, 512, 1023, 1027, 2600}) {
        ExpectMoves(counts, 1024, moved, *alone);
      }
    }
  }
  EXPECT_GE(targets, 2);
}

TEST(MemoryStreamsTest, UpToTheEndOfTheArrays) {
  const std::unique_ptr<WorkerPool> alone = Pool(0);
  // A buffer ends where a page does: what is beyond is not ours.
  for (const int64_t elements : {2048, 2051}) {
    for (const Counts& counts : kCounts) ExpectMoves(counts, 0, elements, *alone, elements);
  }
}

TEST(MemoryStreamsTest, SharedAmongThreads) {
  const std::unique_ptr<WorkerPool> pool = Pool(2);
  for (const Counts& counts : kCounts) ExpectMoves(counts, 2048, 200003, *pool, 210000);
}

// Of memory that nobody has used yet.
int64_t UnusedPages(const Buffer& buffer) {
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> used((buffer.size_bytes() + page_bytes - 1) / page_bytes);
  EXPECT_EQ(mincore(buffer.view().data, buffer.size_bytes(), used.data()), 0);
  return std::count(used.begin(), used.end(), 0);
}

// What is kept does not show in values whether it was moved at all.
TEST(MemoryStreamsTest, EveryArrayIsMoved) {
  const std::unique_ptr<WorkerPool> alone = Pool(0);
  for (const Counts& counts : kCounts) {
    std::vector<Buffer> buffers;
    const auto make = [&](int count, auto* pointers) {
      using Element = std::remove_pointer_t<typename std::remove_pointer_t<decltype(pointers)>::value_type>;
      for (int i = 0; i < count; ++i) {
        const int64_t bytes = kElements * static_cast<int64_t>(sizeof(Element));
        auto buffer = Buffer::Allocate(bytes, "test", PageBacking::kOnFirstUse);
        ASSERT_TRUE(buffer.ok());
        pointers->push_back(buffer->as<std::remove_const_t<Element>>());
        EXPECT_GE(UnusedPages(*buffer), 2);
        buffers.push_back(*std::move(buffer));
      }
    };
    MemoryStreams streams;
    make(counts.read2, &streams.read2);
    make(counts.read4, &streams.read4);
    make(counts.keep2, &streams.keep2);
    make(counts.keep4, &streams.keep4);
    make(counts.write2, &streams.write2);
    make(counts.write4, &streams.write4);
    Move(streams, {{0, kElements}}, *alone);
    for (size_t i = 0; i < buffers.size(); ++i) {
      EXPECT_EQ(UnusedPages(buffers[i]), 0) << "array " << i << " of case " << &counts - kCounts;
    }
  }
}

TEST(MemoryStreamsTest, ThePlainLoopKeepsTheSame) {
  const std::unique_ptr<WorkerPool> pool = Pool(1);
  Arrays arrays;
  MemoryStreams streams;
  for (int i = 0; i < 2; ++i) streams.read2.push_back(arrays.Make<uint16_t>(kElements, &Zero));
  // Normal numbers: it multiplies with one.
  for (int i = 0; i < 3; ++i) {
    streams.keep4.push_back(arrays.Make<float>(kElements, [](int64_t byte) { return std::byte(byte % 100 + 1); }));
  }
  streams.write2.push_back(arrays.Make<uint16_t>(kElements, &Poison));
  MovePlainly(streams, {{1024, 3001}}, *pool);
  for (const float* array : streams.keep4) EXPECT_EQ(arrays.Changed(array, 0, 0), std::pair(int64_t{0}, int64_t{0}));
  EXPECT_EQ(arrays.Changed(streams.write2[0], 1024, 1024 + 3001), std::pair(int64_t{0}, int64_t{2 * 3001}));
}

TEST(MemoryStreamsTest, Bytes) {
  const auto bytes = [](const Counts& counts) {
    MemoryStreams streams;
    streams.read2.resize(counts.read2);
    streams.read4.resize(counts.read4);
    streams.keep2.resize(counts.keep2);
    streams.keep4.resize(counts.keep4);
    streams.write2.resize(counts.write2);
    streams.write4.resize(counts.write4);
    return streams.bytes_per_element();
  };
  EXPECT_EQ(bytes({1, 0, 0, 0, 0, 0}), 2);
  EXPECT_EQ(bytes({0, 1, 0, 0, 0, 0}), 4);
  EXPECT_EQ(bytes({0, 0, 1, 0, 0, 0}), 4);
  EXPECT_EQ(bytes({0, 0, 0, 1, 0, 0}), 8);
  EXPECT_EQ(bytes({0, 0, 0, 0, 1, 0}), 2);
  EXPECT_EQ(bytes({0, 0, 0, 0, 0, 1}), 4);
  EXPECT_EQ(bytes({2, 0, 0, 3, 1, 0}), 30);
}

}  // namespace
}  // namespace shardstep
