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

using Tag2 = hn::ScalableTag<uint16_t>;
using Tag4 = hn::ScalableTag<uint32_t>;
constexpr auto kLanes2 = static_cast<int64_t>(hn::MaxLanes(Tag2()));
constexpr auto kLanes4 = static_cast<int64_t>(hn::MaxLanes(Tag4()));

// What does not fill a vector.
HWY_NOINLINE void MoveOne(const MemoryStreams& streams, int64_t i, uint32_t nothing) {
  uint32_t seen = nothing;
  for (const uint16_t* array : streams.read2) seen |= array[i];
  for (const float* array : streams.read4) seen |= reinterpret_cast<const uint32_t*>(array)[i];
  for (float* array : streams.keep4) reinterpret_cast<uint32_t*>(array)[i] |= nothing;
  for (uint16_t* array : streams.keep2) array[i] |= static_cast<uint16_t>(nothing);
  for (float* array : streams.write4) reinterpret_cast<uint32_t*>(array)[i] = seen;
  for (uint16_t* array : streams.write2) array[i] = static_cast<uint16_t>(seen);
}

}  // namespace

void MoveRange(const MemoryStreams& streams, int64_t begin, int64_t end, volatile uint32_t* sink) {
  const auto zero2 = hn::Set(Tag2(), static_cast<uint16_t>(*sink));
  const auto zero4 = hn::Set(Tag4(), *sink);
  auto seen2 = zero2;
  auto seen4 = zero4;
  int64_t i = begin;
  // All arrays side by side: prefetchers follow as many, and lose them where they come one after the other.
  for (; i + kLanes2 <= end; i += kLanes2) {
    for (const uint16_t* array : streams.read2) seen2 = hn::Or(seen2, hn::LoadU(Tag2(), array + i));
    for (int64_t half = i; half < i + kLanes2; half += kLanes4) {
      for (const float* array : streams.read4) {
        seen4 = hn::Or(seen4, hn::LoadU(Tag4(), reinterpret_cast<const uint32_t*>(array) + half));
      }
      for (float* array : streams.keep4) {
        auto* const at = reinterpret_cast<uint32_t*>(array) + half;
        hn::StoreU(hn::Or(hn::LoadU(Tag4(), at), zero4), Tag4(), at);
      }
      for (float* array : streams.write4) hn::Stream(seen4, Tag4(), reinterpret_cast<uint32_t*>(array) + half);
    }
    for (uint16_t* array : streams.keep2) {
      hn::StoreU(hn::Or(hn::LoadU(Tag2(), array + i), zero2), Tag2(), array + i);
    }
    for (uint16_t* array : streams.write2) hn::Stream(seen2, Tag2(), array + i);
  }
  for (; i < end; ++i) MoveOne(streams, i, *sink);
  hwy::FlushStream();
  // So that no read is left out.
  if (hn::GetLane(seen2) == 0x1234 && hn::GetLane(seen4) == 0x12345678) *sink = 0;
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
