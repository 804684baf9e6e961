// The sum of a shard's slices at one place, for the current Highway target. No include guard: included once per target,
// inside its namespace, after cpu_vectors-inl.h.

inline constexpr int kAnySlices = -1;

// s = accumulator or +0, then s = s + slice, slice by slice. kSlices: their number, known to the compiler, without an
// accumulator; or kAnySlices, with or without one. Indices count from `origin` of the shard.
template <int kSlices>
class GradientSum {
 public:
  HWY_INLINE GradientSum(absl::Span<const Slice> slices, const float* /*accumulator*/, int64_t origin) {
    for (int j = 0; j < kSlices; ++j) data_[j] = slices[j].data + origin;
  }
  HWY_INLINE V Vector(int64_t i) const {
    V sum = Broadcast(0.0f);
    for (int j = 0; j < kSlices; ++j) sum = sum + LoadBf16(data_[j] + i);
    return sum;
  }
  HWY_INLINE float Scalar(int64_t i) const {
    float sum = 0.0f;
    for (int j = 0; j < kSlices; ++j) sum = sum + ToFloat(data_[j][i]);
    return sum;
  }

 private:
  const Bf16* data_[kSlices];
};

template <>
class GradientSum<kAnySlices> {
 public:
  HWY_INLINE GradientSum(absl::Span<const Slice> slices, const float* accumulator, int64_t origin)
      : slices_(slices), accumulator_(accumulator == nullptr ? nullptr : accumulator + origin), origin_(origin) {}
  HWY_INLINE V Vector(int64_t i) const {
    V sum = accumulator_ == nullptr ? Broadcast(0.0f) : LoadFloats(accumulator_ + i);
    for (const Slice& slice : slices_) sum = sum + LoadBf16(slice.data + origin_ + i);
    return sum;
  }
  HWY_INLINE float Scalar(int64_t i) const {
    float sum = accumulator_ == nullptr ? 0.0f : accumulator_[i];
    for (const Slice& slice : slices_) sum = sum + ToFloat(slice.data[origin_ + i]);
    return sum;
  }

 private:
  absl::Span<const Slice> slices_;
  const float* accumulator_;
  int64_t origin_;
};

// Calls Kernel<kSlices>::Run(arguments...) with the number of slices made a constant where that is the common case.
template <template <int> class Kernel, typename... Arguments>
HWY_INLINE void DispatchSlices(size_t slices, const float* accumulator, const Arguments&... arguments) {
  if (accumulator != nullptr) return Kernel<kAnySlices>::Run(arguments...);
  switch (slices) {
    case 1:
      return Kernel<1>::Run(arguments...);
    case 2:
      return Kernel<2>::Run(arguments...);
    case 3:
      return Kernel<3>::Run(arguments...);
    case 4:
      return Kernel<4>::Run(arguments...);
    case 5:
      return Kernel<5>::Run(arguments...);
    case 6:
      return Kernel<6>::Run(arguments...);
    case 7:
      return Kernel<7>::Run(arguments...);
    case 8:
      return Kernel<8>::Run(arguments...);
    default:
      return Kernel<kAnySlices>::Run(arguments...);
  }
}
