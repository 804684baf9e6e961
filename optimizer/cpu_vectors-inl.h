// Vectors of the current Highway target, as the formula wants them, and bf16 in and out. No include guard:
// included once per target, inside its namespace.
//
// Highway's MulAdd and its bf16 conversions are never used: the one rounds once instead of twice, the others truncate
// or flush denormals.

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

HWY_INLINE hn::Vec<Int32Tag> AbsBits(V v) {
  return hn::And(hn::BitCast(Int32Tag(), v.raw), hn::Set(Int32Tag(), 0x7fffffff));
}

// ToBf16 of comm/bf16.h, lane by lane.
HWY_INLINE hn::Vec<Bf16Tag> RoundToBf16(V v) {
  const Uint32Tag u32;
  const Int32Tag i32;
  const auto bits = hn::BitCast(u32, v.raw);
  const auto tie = hn::And(hn::ShiftRight<16>(bits), hn::Set(u32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(tie, hn::Set(u32, 0x7fff))));
  const auto is_nan = hn::Gt(AbsBits(v), hn::Set(i32, 0x7f800000));
  return hn::DemoteTo(Bf16Tag(), hn::IfThenElse(is_nan, hn::Set(i32, kBf16CanonicalNan), hn::BitCast(i32, rounded)));
}
