// Reduce for the current Highway target. No include guard: included once per target, inside its namespace, after
// cpu_gradients-inl.h.

inline constexpr int64_t kBlock = ShardLayout::kBlockElements;
inline constexpr int64_t kGroup = 32;  // the norm's lanes; blocks are scanned in groups of as many elements
inline constexpr size_t kVectors = kGroup / kFloats;

// What a block's sums have in common: the 32 lanes of squares, the largest magnitude.
class BlockScan {
 public:
  HWY_INLINE BlockScan() {
    for (auto& lanes : squares_) lanes = hn::Zero(DoubleTag());
  }

  // Lanes [kFloats * v, kFloats * (v + 1)).
  HWY_INLINE void AddToNorm(size_t v, V sums) {
#if HWY_TARGET == HWY_SCALAR
    AddSquares(v, hn::PromoteTo(DoubleTag(), sums.raw));
#else
    const hn::Half<FloatTag> half;
    AddSquares(2 * v, hn::PromoteTo(DoubleTag(), hn::LowerHalf(half, sums.raw)));
    AddSquares(2 * v + 1, hn::PromoteTo(DoubleTag(), hn::UpperHalf(half, sums.raw)));
#endif
  }
  HWY_INLINE void Look(V sums) { max_abs_ = hn::Max(max_abs_, AbsBits(sums)); }

  HWY_INLINE uint32_t MaxAbsBits() const {
    return static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(Int32Tag(), max_abs_)));
  }
  HWY_INLINE double SumOfSquares() const {
    double lanes[kGroup];
    for (size_t i = 0; i < kSquares; ++i) hn::StoreU(squares_[i], DoubleTag(), lanes + i * kDoubles);
    for (int64_t half = kGroup / 2; half > 0; half /= 2) {
      for (int64_t l = 0; l < half; ++l) lanes[l] = lanes[l] + lanes[l + half];
    }
    return lanes[0];
  }

 private:
  static constexpr size_t kDoubles = hn::MaxLanes(DoubleTag());
  static constexpr size_t kSquares = kGroup / kDoubles;

  HWY_INLINE void AddSquares(size_t i, hn::Vec<DoubleTag> wide) {
    squares_[i] = hn::Add(squares_[i], hn::Mul(wide, wide));
  }

  hn::Vec<DoubleTag> squares_[kSquares];
  hn::Vec<Int32Tag> max_abs_ = hn::Zero(Int32Tag());
};

// What Reduce does with the sums, decided once per launch.
struct ReduceTo {
  float* out = nullptr;  // at the block's first element
  bool stream = false;   // `out` bypasses the caches: it is aligned and was not read
  bool look = false;
  bool norm = false;
};

template <int kSlices>
HWY_INLINE void ReduceBlock(const GradientSum<kSlices>& gradients, int64_t elements, const ReduceTo& to,
                            BlockScan* scan) {
  int64_t i = 0;
  for (; i + kGroup <= elements; i += kGroup) {
    for (size_t v = 0; v < kVectors; ++v) {
      const int64_t at = i + static_cast<int64_t>(v * kFloats);
      const V sums = gradients.Vector(at);
      if (to.look) scan->Look(sums);
      if (to.norm) scan->AddToNorm(v, sums);
      if (to.stream) {
        hn::Stream(sums.raw, FloatTag(), to.out + at);
      } else if (to.out != nullptr) {
        StoreFloats(sums, to.out + at);
      }
    }
  }
  if (i == elements) return;
  // The end of a parameter: nothing behind it may be touched. A zero's square changes no lane.
  float tail[kGroup] = {};
  for (int64_t j = i; j < elements; ++j) tail[j - i] = gradients.Scalar(j);
  if (to.out != nullptr) std::copy_n(tail, elements - i, to.out + i);
  for (size_t v = 0; v < kVectors; ++v) {
    const V sums = LoadFloats(tail + v * kFloats);
    if (to.look) scan->Look(sums);
    if (to.norm) scan->AddToNorm(v, sums);
  }
}

template <int kSlices>
struct ReduceKernel {
  static HWY_NOINLINE void Run(const ReduceArgs& args, const BlockRun& run, ScanResult* scan) {
    // FindNonFinite starts from what the accumulator held, which an accumulator_out in the same place overwrites.
    const bool keep = scan != nullptr && args.accumulator_in != nullptr && args.accumulator_in == args.accumulator_out;
    std::array<float, kBlock> kept;
    for (int64_t begin = run.begin; begin < run.begin + run.elements; begin += kBlock) {
      const int64_t elements = std::min(kBlock, run.begin + run.elements - begin);
      const int64_t origin = run.segment->shard_begin_element + begin;
      const float* start = args.accumulator_in == nullptr ? nullptr : args.accumulator_in + origin;
      if (keep) {
        std::copy_n(start, elements, kept.begin());
        start = kept.data();
      }
      const GradientSum<kSlices> gradients(args.slices, args.accumulator_in, origin);
      BlockScan block;
      ReduceBlock(gradients, elements, Target(args, origin, scan), &block);
      if (scan == nullptr) continue;
      const uint32_t max_abs_bits = std::min(block.MaxAbsBits(), kInfinityBits);
      if (max_abs_bits == kInfinityBits) {
        FindNonFinite(args, *run.segment, begin, elements, start, scan);
      } else if (args.take_norm) {
        scan->squared_norm.Add(block.SumOfSquares());
      }
      if (args.take_norm) scan->max_abs_bits = std::max(scan->max_abs_bits, max_abs_bits);
    }
  }

 private:
  static constexpr uint32_t kInfinityBits = 0x7f800000;

  static HWY_INLINE ReduceTo Target(const ReduceArgs& args, int64_t origin, const ScanResult* scan) {
    float* out = args.accumulator_out == nullptr ? nullptr : args.accumulator_out + origin;
    // A sum that was not read from there, and is read next by Update when all buckets are done: no use for a cache.
    const bool aligned = reinterpret_cast<uintptr_t>(out) % (kFloats * sizeof(float)) == 0;
    return {.out = out,
            .stream = out != nullptr && args.accumulator_in != args.accumulator_out && aligned,
            .look = scan != nullptr,
            .norm = scan != nullptr && args.take_norm};
  }
};

void ReduceRun(const ReduceArgs& args, const BlockRun& run, ScanResult* scan) {
  DispatchSlices<ReduceKernel>(args.slices.size(), args.accumulator_in, args, run, scan);
  hwy::FlushStream();
}
