// Vectors of the current Highway target, as the formula wants them, and bf16 in and out. No include guard:
// included once per target, inside its namespace.
//
// Highway's MulAdd of floats and its bf16 conversions are never used: the one rounds once instead of twice, the others
// truncate or flush denormals.

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using DoubleTag = hn::ScalableTag<double>;
using Uint32Tag = hn::RebindToUnsigned<FloatTag>;
using Int32Tag = hn::RebindToSigned<FloatTag>;
using Bf16Tag = hn::Rebind<uint16_t, FloatTag>;  // as many bf16 as floats
inline constexpr size_t kFloats = hn::MaxLanes(FloatTag());

struct V {
  hn::Vec<FloatTag> raw;
};
HWY_INLINE V operator+(V a, V b) { return {hn::Add(a.raw, b.raw)}; }
HWY_INLINE V operator-(V a, V b) { return {hn::Sub(a.raw, b.raw)}; }
HWY_INLINE V operator*(V a, V b) { return {hn::Mul(a.raw, b.raw)}; }
HWY_INLINE V operator/(V a, V b) { return {hn::Div(a.raw, b.raw)}; }
HWY_INLINE V Sqrt(V a) { return {hn::Sqrt(a.raw)}; }
HWY_INLINE float Sqrt(float a) { return std::sqrt(a); }

HWY_INLINE V Broadcast(float value) { return {hn::Set(FloatTag(), value)}; }
HWY_INLINE V LoadFloats(const float* from) { return {hn::LoadU(FloatTag(), from)}; }
HWY_INLINE void StoreFloats(V v, float* to) { hn::StoreU(v.raw, FloatTag(), to); }
HWY_INLINE V LoadBf16(const Bf16* from) {
  const auto halves = hn::LoadU(Bf16Tag(), &from->bits);
  return {hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(Uint32Tag(), halves)))};
}

HWY_INLINE float ToFloat(float value) { return value; }
using shardstep::ToFloat;

// Of docs/numerics.md: +0 for zeros of both signs, NaN for NaN.
HWY_INLINE V Sign(V a) {
  const FloatTag f32;
  const auto one = hn::CopySign(hn::Set(f32, 1.0f), a.raw);
  const auto sign = hn::IfThenZeroElse(hn::Eq(a.raw, hn::Zero(f32)), one);
  return {hn::IfThenElse(hn::Eq(a.raw, a.raw), sign, a.raw)};
}
HWY_INLINE float Sign(float a) {
  if (a > 0) return 1.0f;
  if (a < 0) return -1.0f;
  return a == 0 ? 0.0f : a;
}

HWY_INLINE hn::Vec<Int32Tag> AbsBits(V v) {
  return hn::And(hn::BitCast(Int32Tag(), v.raw), hn::Set(Int32Tag(), 0x7fffffff));
}

// The upper halves of `v` plus `addend`, unless `v` is NaN: then the canonical NaN.
HWY_INLINE hn::Vec<Bf16Tag> AddAndTruncate(V v, hn::Vec<Uint32Tag> addend) {
  const Int32Tag i32;
  const auto sum = hn::ShiftRight<16>(hn::Add(hn::BitCast(Uint32Tag(), v.raw), addend));
  const auto is_nan = hn::Gt(AbsBits(v), hn::Set(i32, 0x7f800000));
  return hn::DemoteTo(Bf16Tag(), hn::IfThenElse(is_nan, hn::Set(i32, kBf16CanonicalNan), hn::BitCast(i32, sum)));
}

// ToBf16 of comm/bf16.h, lane by lane.
HWY_INLINE hn::Vec<Bf16Tag> RoundToBf16(V v) {
  const Uint32Tag u32;
  const auto tie = hn::And(hn::ShiftRight<16>(hn::BitCast(u32, v.raw)), hn::Set(u32, 1));
  return AddAndTruncate(v, hn::Add(tie, hn::Set(u32, 0x7fff)));
}

// Two vectors of bf16 make one full store: a half-filled line that bypasses the caches costs a whole one.
#if HWY_TARGET == HWY_SCALAR
inline constexpr size_t kPair = 1;
using PairTag = Bf16Tag;
HWY_INLINE hn::Vec<PairTag> JoinPair(const hn::Vec<Bf16Tag> (&parts)[kPair]) { return parts[0]; }
#else
inline constexpr size_t kPair = 2;
using PairTag = hn::ScalableTag<uint16_t>;
HWY_INLINE hn::Vec<PairTag> JoinPair(const hn::Vec<Bf16Tag> (&parts)[kPair]) {
  return hn::Combine(PairTag(), parts[1], parts[0]);
}
#endif
inline constexpr int64_t kPairElements = kPair * kFloats;

// For loads that go through an array; harmless beyond its end. CPUs' own prefetchers stop at the end of a page: on a
// Xeon a pass over several arrays took up to half as long again. 1 to 8 KiB ahead are alike there.
inline constexpr int64_t kPrefetchBytes = 2048;
HWY_INLINE void PrefetchAhead(const void* from) { hwy::Prefetch(static_cast<const char*>(from) + kPrefetchBytes); }

HWY_INLINE bool Aligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

// Past the caches, which `to` must be aligned for, or into them.
HWY_INLINE void StorePair(const hn::Vec<Bf16Tag> (&parts)[kPair], bool past_caches, Bf16* to) {
  if (past_caches) {
    hn::Stream(JoinPair(parts), PairTag(), &to->bits);
  } else {
    hn::StoreU(JoinPair(parts), PairTag(), &to->bits);
  }
}
HWY_INLINE void StoreFloats(V v, bool past_caches, float* to) {
  if (past_caches) {
    hn::Stream(v.raw, FloatTag(), to);
  } else {
    StoreFloats(v, to);
  }
}
