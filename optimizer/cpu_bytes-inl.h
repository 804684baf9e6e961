// Copies and zeros of many bytes, for the current Highway target. No include guard: included once per target, inside
// its namespace, after cpu_vectors-inl.h.

using ByteTag = hn::ScalableTag<uint8_t>;
inline constexpr auto kBytes = static_cast<int64_t>(hn::MaxLanes(ByteTag()));

// What is shorter is likely to be found in a cache by whoever comes next.
inline constexpr int64_t kPastCachesBytes = 1 << 20;
HWY_INLINE bool PastCaches(int64_t size_bytes) { return HWY_TARGET != HWY_SCALAR && size_bytes >= kPastCachesBytes; }

// Bytes before `to` is aligned.
HWY_INLINE int64_t HeadBytes(const uint8_t* to) {
  return static_cast<int64_t>(-reinterpret_cast<uintptr_t>(to) % static_cast<uintptr_t>(kBytes));
}

void CopyBytes(const void* from, int64_t size_bytes, void* to) {
  if (!PastCaches(size_bytes)) {
    std::copy_n(static_cast<const uint8_t*>(from), size_bytes, static_cast<uint8_t*>(to));
    return;
  }
  const auto* const source = static_cast<const uint8_t*>(from);
  auto* const target = static_cast<uint8_t*>(to);
  int64_t i = HeadBytes(target);
  std::copy_n(source, i, target);
  for (; i + kBytes <= size_bytes; i += kBytes) {
    PrefetchAhead(source + i);
    hn::Stream(hn::LoadU(ByteTag(), source + i), ByteTag(), target + i);
  }
  std::copy_n(source + i, size_bytes - i, target + i);
  hwy::FlushStream();
}

void ZeroBytes(int64_t size_bytes, void* to) {
  auto* const target = static_cast<uint8_t*>(to);
  if (!PastCaches(size_bytes)) {
    std::fill_n(target, size_bytes, uint8_t{0});
    return;
  }
  int64_t i = HeadBytes(target);
  std::fill_n(target, i, uint8_t{0});
  for (; i + kBytes <= size_bytes; i += kBytes) hn::Stream(hn::Zero(ByteTag()), ByteTag(), target + i);
  std::fill_n(target + i, size_bytes - i, uint8_t{0});
  hwy::FlushStream();
}
