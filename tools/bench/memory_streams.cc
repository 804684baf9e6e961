// Compiled once per Highway target; see hwy/foreach_target.h.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "shardstep/tools/bench/memory_streams.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // must precede highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <atomic>

#include "shardstep/tools/bench/memory_streams.h"

HWY_BEFORE_NAMESPACE();
namespace shardstep {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Few enough that a chunk of every array is in the first cache at once.
constexpr int64_t kChunkElements = 512;

template <typename T>
class Mover {
 public:
  using Tag = hn::ScalableTag<T>;
  using Vec = hn::Vec<Tag>;

  HWY_INLINE Mover() : seen_(hn::Zero(Tag())) {}

  HWY_INLINE void Read(const T* from, int64_t elements) {
    ForEach(elements, [&](int64_t i) { seen_ = hn::Or(seen_, hn::LoadU(Tag(), from + i)); });
  }
  // `nothing` is zero, which the compiler does not know.
  HWY_INLINE void Keep(T* array, int64_t elements, T nothing) {
    const Vec zero = hn::Set(Tag(), nothing);
    ForEach(elements, [&](int64_t i) { hn::StoreU(hn::Or(hn::LoadU(Tag(), array + i), zero), Tag(), array + i); });
  }
  HWY_INLINE void Write(T* to, int64_t elements) {
    const bool aligned = reinterpret_cast<uintptr_t>(to) % sizeof(Vec) == 0;
    ForEach(elements, [&](int64_t i) {
      if (aligned) {
        hn::Stream(seen_, Tag(), to + i);
      } else {
        hn::StoreU(seen_, Tag(), to + i);
      }
    });
  }
  HWY_INLINE T Seen() const { return hn::GetLane(seen_); }

 private:
  template <typename Body>
  static HWY_INLINE void ForEach(int64_t elements, const Body& body) {
    constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(Tag()));
    int64_t i = 0;
    for (; i + kLanes <= elements; i += kLanes) body(i);
    // The last lines are moved whole, with what the padding behind them holds.
    if (i < elements) body(std::max<int64_t>(0, elements - kLanes));
  }

  Vec seen_;
};

}  // namespace

void MoveRange(const MemoryStreams& streams, int64_t begin, int64_t end, volatile uint32_t* sink) {
  const auto nothing = static_cast<uint16_t>(*sink);
  Mover<uint16_t> two;
  Mover<uint32_t> four;
  const auto bits = [](const float* array) { return reinterpret_cast<const uint32_t*>(array); };
  for (; begin < end; begin += kChunkElements) {
    const int64_t elements = std::min(kChunkElements, end - begin);
    for (const uint16_t* array : streams.read2) two.Read(array + begin, elements);
    for (const float* array : streams.read4) four.Read(bits(array) + begin, elements);
    for (float* array : streams.keep4) four.Keep(reinterpret_cast<uint32_t*>(array) + begin, elements, nothing);
    for (uint16_t* array : streams.keep2) two.Keep(array + begin, elements, nothing);
    for (float* array : streams.write4) four.Write(reinterpret_cast<uint32_t*>(array) + begin, elements);
    for (uint16_t* array : streams.write2) two.Write(array + begin, elements);
  }
  hwy::FlushStream();
  // So that no read is left out.
  if (two.Seen() == 0x1234 && four.Seen() == 0x12345678) *sink = 0;
}

}  // namespace HWY_NAMESPACE
}  // namespace shardstep
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardstep {
namespace {
HWY_EXPORT(MoveRange);
}  // namespace

int64_t MemoryStreams::bytes_per_element() const {
  return static_cast<int64_t>(2 * read2.size() + 4 * read4.size() + 4 * keep2.size() + 8 * keep4.size() +
                              2 * write2.size() + 4 * write4.size());
}

namespace {

// What a thread takes at a time.
constexpr int64_t kTakeElements = int64_t{32} << 10;

template <typename Body>
void Share(int64_t begin, int64_t elements, WorkerPool& pool, const Body& body) {
  if (elements <= kTakeElements) {
    body(begin, begin + elements);
    return;
  }
  std::atomic<int64_t> next = 0;
  pool.Run([&] {
    for (int64_t at; (at = next.fetch_add(kTakeElements, std::memory_order_relaxed)) < elements;) {
      body(begin + at, begin + std::min(at + kTakeElements, elements));
    }
  });
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void PlainLoop(const MemoryStreams& streams, int64_t begin,
                                                                            int64_t end, float one) {
  const uint16_t* __restrict x = streams.read2[0];
  const uint16_t* __restrict y = streams.read2[1];
  float* __restrict a = streams.keep4[0];
  float* __restrict b = streams.keep4[1];
  float* __restrict c = streams.keep4[2];
  uint16_t* __restrict out = streams.write2[0];
  for (int64_t i = begin; i < end; ++i) {
    out[i] = x[i] ^ y[i];
    a[i] *= one;
    b[i] *= one;
    c[i] *= one;
  }
}

}  // namespace

void Move(const MemoryStreams& streams, int64_t begin, int64_t elements, WorkerPool& pool) {
  Share(begin, elements, pool, [&](int64_t first, int64_t last) {
    volatile uint32_t sink = 0;
    HWY_DYNAMIC_DISPATCH(MoveRange)(streams, first, last, &sink);
  });
}

void MovePlainly(const MemoryStreams& streams, int64_t begin, int64_t elements, WorkerPool& pool) {
  volatile float one = 1;
  Share(begin, elements, pool, [&](int64_t first, int64_t last) { PlainLoop(streams, first, last, one); });
}

}  // namespace shardstep
#endif  // HWY_ONCE
