// RandomBits16 of consecutive elements, for the current Highway target. No include guard: included once per target,
// inside its namespace.

// Philox4x32(seed, applied_step, draw) for draws [first_draw, first_draw + draws), 8 pieces of 16 bits each, in order.
// Up to kDrawsAtOnce - 1 draws more are written. Counters are in 64-bit lanes, of which only the lower words count: so
// one instruction makes a product's both halves.
#if HWY_TARGET == HWY_SCALAR
inline constexpr int64_t kDrawsAtOnce = 1;
HWY_INLINE void DrawRandoms(uint64_t seed, uint64_t applied_step, uint64_t first_draw, uint16_t* to) {
  const std::array<uint32_t, 4> words = Philox4x32(seed, applied_step, first_draw);
  for (size_t i = 0; i < words.size(); ++i) {
    to[2 * i] = static_cast<uint16_t>(words[i]);
    to[2 * i + 1] = static_cast<uint16_t>(words[i] >> 16);
  }
}
#else
using Uint64Tag = hn::ScalableTag<uint64_t>;
using Counter = hn::Vec<Uint64Tag>;
inline constexpr int64_t kDrawsAtOnce = hn::MaxLanes(Uint64Tag());

HWY_INLINE Counter LowProduct(Counter a, Counter b) {
  const hn::ScalableTag<uint32_t> u32;
  return hn::MulEven(hn::BitCast(u32, a), hn::BitCast(u32, b));
}

HWY_INLINE void DrawRandoms(uint64_t seed, uint64_t applied_step, uint64_t first_draw, uint16_t* to) {
  const Uint64Tag u64;
  const auto set = [u64](uint64_t value) { return hn::Set(u64, value); };
  const Counter draw = hn::Add(set(first_draw), hn::Iota(u64, 0));
  Counter c0 = draw;
  Counter c1 = hn::ShiftRight<32>(draw);
  Counter c2 = set(applied_step);
  Counter c3 = set(applied_step >> 32);
  const std::array<uint32_t, 2> key = WordsOf(seed);
  for (uint32_t round = 0; round < kPhiloxRounds; ++round) {
    const Counter product0 = LowProduct(c0, set(kPhiloxMultipliers[0]));
    const Counter product1 = LowProduct(c2, set(kPhiloxMultipliers[1]));
    c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), c1), set(key[0] + round * kPhiloxWeyl[0]));
    c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), c3), set(key[1] + round * kPhiloxWeyl[1]));
    c1 = product1;
    c3 = product0;
  }
  const Counter low_word = set(0xffffffffu);
  hn::StoreInterleaved2(hn::Or(hn::And(c0, low_word), hn::ShiftLeft<32>(c1)),
                        hn::Or(hn::And(c2, low_word), hn::ShiftLeft<32>(c3)), u64, reinterpret_cast<uint64_t*>(to));
}
#endif

// The randoms of the elements of one chunk.
class ChunkRandoms {
 public:
  HWY_INLINE void Draw(uint64_t seed, int64_t applied_step, int64_t first_element, int64_t elements) {
    const int64_t first_draw = first_element / kRandomsPerDraw;
    offset_ = first_element % kRandomsPerDraw;
    for (int64_t d = 0; d * kRandomsPerDraw < offset_ + elements; d += kDrawsAtOnce) {
      DrawRandoms(seed, static_cast<uint64_t>(applied_step), static_cast<uint64_t>(first_draw + d),
                  randoms_ + d * kRandomsPerDraw);
    }
  }
  // Of element `i` of the chunk and on.
  HWY_INLINE const uint16_t* at(int64_t i) const { return randoms_ + offset_ + i; }

 private:
  int64_t offset_ = 0;
  alignas(64) uint16_t randoms_[kChunkElements + kRandomsPerDraw * (1 + kDrawsAtOnce)];
};
