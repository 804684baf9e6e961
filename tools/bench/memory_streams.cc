// Compiled once per Highway target; see hwy/foreach_target.h.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "shardstep/tools/bench/memory_streams.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // must precede highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <atomic>
#include <functional>

#include "shardstep/tools/bench/memory_streams.h"

HWY_BEFORE_NAMESPACE();
namespace shardstep {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// Few enough that a chunk of every array is in the first cache at once.
constexpr int64_t kChunkElements = 512;
// As far ahead as the kernels.
constexpr int64_t kPrefetchBytes = 2048;
// What is kept or written side by side at most: an AdamW step's.
constexpr size_t kMaxKeep4 = 3;
constexpr size_t kMaxKeep2 = 2;
constexpr size_t kMaxWrite2 = 1;

using Tag2 = hn::ScalableTag<uint16_t>;
using Tag4 = hn::ScalableTag<uint32_t>;
constexpr auto kLanes2 = static_cast<int64_t>(hn::MaxLanes(Tag2()));
constexpr auto kLanes4 = static_cast<int64_t>(hn::MaxLanes(Tag4()));

uint32_t* Bits(float* array) { return reinterpret_cast<uint32_t*>(array); }
const uint32_t* Bits(const float* array) { return reinterpret_cast<const uint32_t*>(array); }

void PrefetchAhead(const void* from) { hwy::Prefetch(static_cast<const char*>(from) + kPrefetchBytes); }

// Elements [begin, end), whole vectors; all arrays side by side: prefetchers follow as many, and lose those that are
// written one after the other. `nothing` is zero, which the compiler does not know.
template <size_t kKeep4, size_t kKeep2, size_t kWrite2>
void Change(const MemoryStreams& streams, int64_t begin, int64_t end, uint32_t nothing) {
  const auto zero2 = hn::Set(Tag2(), static_cast<uint16_t>(nothing));
  const auto zero4 = hn::Set(Tag4(), nothing);
  uint32_t* keep4[kKeep4 + 1];
  uint16_t* keep2[kKeep2 + 1];
  uint16_t* write2[kWrite2 + 1];
  for (size_t a = 0; a < kKeep4; ++a) keep4[a] = Bits(streams.keep4[a]);
  for (size_t a = 0; a < kKeep2; ++a) keep2[a] = streams.keep2[a];
  for (size_t a = 0; a < kWrite2; ++a) write2[a] = streams.write2[a];
  for (int64_t i = begin; i < end; i += kLanes2) {
    for (int64_t half = i; half < i + kLanes2; half += kLanes4) {
      for (size_t a = 0; a < kKeep4; ++a) {
        PrefetchAhead(keep4[a] + half);
        hn::StoreU(hn::Or(hn::LoadU(Tag4(), keep4[a] + half), zero4), Tag4(), keep4[a] + half);
      }
    }
    for (size_t a = 0; a < kKeep2; ++a) {
      PrefetchAhead(keep2[a] + i);
      hn::StoreU(hn::Or(hn::LoadU(Tag2(), keep2[a] + i), zero2), Tag2(), keep2[a] + i);
    }
    for (size_t a = 0; a < kWrite2; ++a) hn::Stream(zero2, Tag2(), write2[a] + i);
  }
}

using ChangeFunction = void (*)(const MemoryStreams& streams, int64_t begin, int64_t end, uint32_t nothing);

template <size_t kKeep4, size_t kKeep2>
ChangeFunction ChooseWrite2(size_t write2) {
  return write2 == 0 ? &Change<kKeep4, kKeep2, 0> : &Change<kKeep4, kKeep2, kMaxWrite2>;
}
template <size_t kKeep4>
ChangeFunction ChooseKeep2(size_t keep2, size_t write2) {
  if (keep2 == 0) return ChooseWrite2<kKeep4, 0>(write2);
  return keep2 == 1 ? ChooseWrite2<kKeep4, 1>(write2) : ChooseWrite2<kKeep4, kMaxKeep2>(write2);
}
ChangeFunction Choose(const MemoryStreams& streams) {
  const size_t keep2 = streams.keep2.size();
  const size_t write2 = streams.write2.size();
  switch (streams.keep4.size()) {
    case 0:
      return ChooseKeep2<0>(keep2, write2);
    case 1:
      return ChooseKeep2<1>(keep2, write2);
    case 2:
      return ChooseKeep2<2>(keep2, write2);
    default:
      return ChooseKeep2<kMaxKeep4>(keep2, write2);
  }
}

// Elements [begin, end), whole vectors; of half a line at most: where each load is a whole one, prefetchers lose the
// track.
uint32_t Read(const MemoryStreams& streams, int64_t begin, int64_t end) {
  const hn::CappedTag<uint16_t, 16> tag2;
  const hn::CappedTag<uint32_t, 8> tag4;
  auto seen2 = hn::Zero(tag2);
  auto seen4 = hn::Zero(tag4);
  for (const uint16_t* array : streams.read2) {
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::MaxLanes(tag2))) {
      PrefetchAhead(array + i);
      seen2 = hn::Or(seen2, hn::LoadU(tag2, array + i));
    }
  }
  for (const float* array : streams.read4) {
    for (int64_t i = begin; i < end; i += static_cast<int64_t>(hn::MaxLanes(tag4))) {
      PrefetchAhead(array + i);
      seen4 = hn::Or(seen4, hn::LoadU(tag4, Bits(array) + i));
    }
  }
  return hn::GetLane(seen2) | hn::GetLane(seen4);
}

// The arrays beyond those that Change takes.
void WriteRest(const MemoryStreams& streams, int64_t begin, int64_t end, uint32_t value) {
  const auto value2 = hn::Set(Tag2(), static_cast<uint16_t>(value));
  const auto value4 = hn::Set(Tag4(), value);
  for (size_t a = kMaxWrite2; a < streams.write2.size(); ++a) {
    for (int64_t i = begin; i < end; i += kLanes2) hn::Stream(value2, Tag2(), streams.write2[a] + i);
  }
  for (float* array : streams.write4) {
    for (int64_t i = begin; i < end; i += kLanes4) hn::Stream(value4, Tag4(), Bits(array) + i);
  }
}

// What does not fill a vector.
void MoveOne(const MemoryStreams& streams, int64_t i, uint32_t nothing) {
  uint32_t seen = nothing;
  for (const uint16_t* array : streams.read2) seen |= array[i];
  for (const float* array : streams.read4) seen |= Bits(array)[i];
  for (float* array : streams.keep4) Bits(array)[i] |= nothing;
  for (uint16_t* array : streams.keep2) array[i] |= static_cast<uint16_t>(nothing);
  for (float* array : streams.write4) Bits(array)[i] = seen;
  for (uint16_t* array : streams.write2) array[i] = static_cast<uint16_t>(seen);
}

}  // namespace

void MoveRange(const MemoryStreams& streams, int64_t begin, int64_t end, volatile uint32_t* sink) {
  const uint32_t nothing = *sink;
  const ChangeFunction change = Choose(streams);
  uint32_t seen = 0;
  while (end - begin >= kLanes2) {
    const int64_t chunk_end = begin + std::min(kChunkElements, (end - begin) / kLanes2 * kLanes2);
    seen |= Read(streams, begin, chunk_end);
    change(streams, begin, chunk_end, nothing);
    WriteRest(streams, begin, chunk_end, seen);
    begin = chunk_end;
  }
  for (; begin < end; ++begin) MoveOne(streams, begin, nothing);
  hwy::FlushStream();
  // So that no read is left out.
  if (seen == 0x12345678) *sink = 0;
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
void Share(absl::Span<const ElementRange> ranges, WorkerPool& pool, const Body& body) {
  std::vector<ElementRange> pieces;
  for (const ElementRange& range : ranges) {
    for (int64_t at = 0; at < range.elements; at += kTakeElements) {
      pieces.push_back({range.begin + at, std::min(kTakeElements, range.elements - at)});
    }
  }
  std::atomic<size_t> next = 0;
  const std::function<void()> share = [&] {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces.size();) {
      body(pieces[i].begin, pieces[i].begin + pieces[i].elements);
    }
  };
  if (pieces.size() > 1) {
    pool.Run(share);
  } else {
    share();
  }
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

void Move(const MemoryStreams& streams, absl::Span<const ElementRange> ranges, WorkerPool& pool) {
  Share(ranges, pool, [&](int64_t first, int64_t last) {
    volatile uint32_t sink = 0;
    HWY_DYNAMIC_DISPATCH(MoveRange)(streams, first, last, &sink);
  });
}

void MovePlainly(const MemoryStreams& streams, absl::Span<const ElementRange> ranges, WorkerPool& pool) {
  volatile float one = 1;
  Share(ranges, pool, [&](int64_t first, int64_t last) { PlainLoop(streams, first, last, one); });
}

}  // namespace shardstep
#endif  // HWY_ONCE
