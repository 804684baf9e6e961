// Reduce for the current Highway target. No include guard: included once per target, inside its namespace, after
// cpu_gradients-inl.h.

inline constexpr int64_t kBlock = ShardLayout::kBlockElements;
inline constexpr int64_t kLanes = 32;  // of the norm
inline constexpr int32_t kInfinityBits = 0x7f800000;
static_assert(kBlock % kChunkElements == 0 && kChunkElements % kLanes == 0 && kLanes % kFloats == 0);

// Where sums are asked for. What was not read from there, and is read next by Update when all buckets are done or by
// another rank, is of no use for a cache.
struct SumsTo {
  HWY_INLINE SumsTo() = default;
  HWY_INLINE SumsTo(float* to, bool was_read)
      : out(to), past_caches(!was_read && Aligned(to, kFloats * sizeof(float))) {}

  float* out = nullptr;
  bool past_caches = false;
};

HWY_INLINE void StoreSums(const float* sums, int64_t elements, const SumsTo& to) {
  int64_t i = 0;
  for (; i + static_cast<int64_t>(kFloats) <= elements; i += kFloats) {
    StoreFloats(LoadFloats(sums + i), to.past_caches, to.out + i);
  }
  std::copy(sums + i, sums + elements, to.out + i);
}

// What a block's sums have in common: the 32 lanes of squares, the largest magnitude.
class BlockScan {
 public:
  HWY_INLINE BlockScan() {
    for (auto& lanes : squares_) lanes = hn::Zero(DoubleTag());
  }

  // Sums of the block, from a multiple of kLanes on; `elements` is one too. They go to `to` as well, unless it is
  // nowhere. Whether all of them are finite.
  template <bool kNorm>
  HWY_INLINE bool Scan(const float* sums, int64_t elements, const SumsTo& to) {
    auto max_abs = hn::Zero(Int32Tag());
    for (int64_t i = 0; i < elements; i += kLanes) {
      for (size_t v = 0; v < kLanes / kFloats; ++v) {
        const int64_t at = i + static_cast<int64_t>(v * kFloats);
        const V values = LoadFloats(sums + at);
        max_abs = hn::Max(max_abs, AbsBits(values));
        if (kNorm) AddToNorm(v, values);
        if (to.out != nullptr) StoreFloats(values, to.past_caches, to.out + at);
      }
    }
    max_abs_ = hn::Max(max_abs_, max_abs);
    return hn::AllTrue(Int32Tag(), hn::Lt(max_abs, hn::Set(Int32Tag(), kInfinityBits)));
  }

#if HWY_TARGET != HWY_SCALAR
  // The same for a block whose sums nobody wants: of kSlices bf16 slices from +0, without leaving registers. A pair of
  // vectors holds even and odd elements, as they come apart from 32-bit lanes without a shuffle; so one block is
  // scanned in one of both ways. That sums do not begin at +0 changes the sign of zeros only.
  template <int kSlices>
  HWY_INLINE bool ScanSlices(const Bf16* const (&slices)[kSlices], int64_t elements) {
    in_pairs_ = true;
    auto max_abs = hn::Zero(Int32Tag());
    for (int64_t i = 0; i < elements; i += kLanes) {
      for (int j = 0; j < kSlices; ++j) PrefetchAhead(slices[j] + i);
      for (size_t pair = 0; pair < kLanes / kPairElements; ++pair) {
        const int64_t at = i + static_cast<int64_t>(pair * kPairElements);
        V even, odd;
        Split(slices[0] + at, &even, &odd);
        for (int j = 1; j < kSlices; ++j) {
          V next_even, next_odd;
          Split(slices[j] + at, &next_even, &next_odd);
          even = even + next_even;
          odd = odd + next_odd;
        }
        max_abs = hn::Max(max_abs, hn::Max(AbsBits(even), AbsBits(odd)));
        AddToNorm(2 * pair, even);
        AddToNorm(2 * pair + 1, odd);
      }
    }
    max_abs_ = hn::Max(max_abs_, max_abs);
    return hn::AllTrue(Int32Tag(), hn::Lt(max_abs, hn::Set(Int32Tag(), kInfinityBits)));
  }
#endif

  HWY_INLINE int32_t MaxAbsBits() const {
    return std::min(hn::GetLane(hn::MaxOfLanes(Int32Tag(), max_abs_)), kInfinityBits);
  }
  HWY_INLINE double SumOfSquares() const {
    double stored[kLanes];
    for (size_t i = 0; i < kSquares; ++i) hn::StoreU(squares_[i], DoubleTag(), stored + i * kDoubles);
    double lanes[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) lanes[in_pairs_ ? LaneOf(l) : l] = stored[l];
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (int64_t l = 0; l < half; ++l) lanes[l] = lanes[l] + lanes[l + half];
    }
    return lanes[0];
  }

 private:
  static constexpr size_t kDoubles = hn::MaxLanes(DoubleTag());
  static constexpr size_t kSquares = kLanes / kDoubles;

  // Which lane's the stored one is, where vectors hold even and odd elements of a pair.
  static HWY_INLINE int64_t LaneOf(int64_t stored) {
    constexpr auto kVector = static_cast<int64_t>(kFloats);
    const int64_t vector = stored / kVector;
    return vector / 2 * 2 * kVector + 2 * (stored % kVector) + vector % 2;
  }
#if HWY_TARGET != HWY_SCALAR
  static HWY_INLINE void Split(const Bf16* from, V* even, V* odd) {
    const hn::Half<PairTag> half;
    // Half a line at a time, as LoadOnce.
    const auto pair = hn::BitCast(
        Uint32Tag(), hn::Combine(PairTag(), hn::LoadU(half, &from[kFloats].bits), hn::LoadU(half, &from[0].bits)));
    even->raw = hn::BitCast(FloatTag(), hn::ShiftLeft<16>(pair));
    odd->raw = hn::BitCast(FloatTag(), hn::And(pair, hn::Set(Uint32Tag(), 0xffff0000u)));
  }
#endif

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
  HWY_INLINE void AddSquares(size_t i, hn::Vec<DoubleTag> wide) {
    // The square of an fp32 number is exact in double, so one rounding is as many as two.
    squares_[i] = hn::MulAdd(wide, wide, squares_[i]);
  }

  hn::Vec<DoubleTag> squares_[kSquares];
  hn::Vec<Int32Tag> max_abs_ = hn::Zero(Int32Tag());
  bool in_pairs_ = false;
};

// Elements [begin, begin + elements) of each of the schedule's slices; whether all sums are finite.
using SliceScan = bool (*)(const SumSchedule& schedule, int64_t origin, int64_t elements, BlockScan* block);

#if HWY_TARGET == HWY_SCALAR
inline SliceScan ChooseSliceScan(const ReduceArgs& /*args*/, const SumSchedule& /*schedule*/) { return nullptr; }
#else
template <int kSlices>
bool ScanSlices(const SumSchedule& schedule, int64_t origin, int64_t elements, BlockScan* block) {
  const int64_t whole = elements / kLanes * kLanes;
  const Bf16* slices[kSlices];
  for (int j = 0; j < kSlices; ++j) slices[j] = static_cast<const Bf16*>(schedule.additions[j].data) + origin;
  const bool finite = block->ScanSlices<kSlices>(slices, whole);
  if (whole == elements) return finite;
  // The end of a parameter: a zero's square changes no lane.
  alignas(64) Bf16 ends[kSlices][kLanes] = {};
  for (int j = 0; j < kSlices; ++j) {
    std::copy_n(slices[j] + whole, elements - whole, ends[j]);
    slices[j] = ends[j];
  }
  return block->ScanSlices<kSlices>(slices, kLanes) && finite;
}

// Where the norm is all that is wanted, of a few bf16 slices; else nullptr.
inline SliceScan ChooseSliceScan(const ReduceArgs& args, const SumSchedule& schedule) {
  constexpr SliceScan kScans[] = {&ScanSlices<1>, &ScanSlices<2>, &ScanSlices<3>, &ScanSlices<4>};
  const std::vector<Addition>& additions = schedule.additions;
  const bool wants_sums =
      args.accumulator_out != nullptr || args.group_accumulator_out != nullptr || args.rounded_out != nullptr;
  if (args.scan == nullptr || !args.take_norm || wants_sums || !schedule.plain || schedule.accumulator != nullptr ||
      additions.empty() || additions.size() > std::size(kScans)) {
    return nullptr;
  }
  for (const Addition& addition : additions) {
    if (addition.dtype != DType::kBf16) return nullptr;
  }
  return kScans[additions.size() - 1];
}
#endif

HWY_INLINE void StoreRounded(const float* sums, int64_t elements, Bf16* out) {
  const bool past_caches = Aligned(out, kPairElements * sizeof(Bf16));
  int64_t i = 0;
  for (; i + kPairElements <= elements; i += kPairElements) {
    hn::Vec<Bf16Tag> rounded[kPair];
    for (size_t v = 0; v < kPair; ++v) rounded[v] = RoundToBf16(LoadFloats(sums + i + v * kFloats));
    StorePair(rounded, past_caches, out + i);
  }
  for (; i < elements; ++i) out[i] = ToBf16(sums[i]);
}

// The blocks of one run.
class ReduceKernel {
 public:
  HWY_INLINE ReduceKernel(const ReduceArgs& args, const SumSchedule& schedule, const BlockRun& run, ScanResult* scan)
      : args_(args),
        schedule_(schedule),
        segment_(*run.segment),
        sum_(ChooseSum(schedule)),
        slice_scan_(ChooseSliceScan(args, schedule)),
        scan_(scan) {}

  // Elements [begin, begin + elements) of the segment.
  HWY_INLINE void Block(int64_t begin, int64_t elements) {
    BlockScan block;
    for (int64_t i = 0; i < elements; i += kChunkElements) {
      Chunk(begin + i, std::min(kChunkElements, elements - i), &block);
    }
    if (scan_ == nullptr || !args_.take_norm) return;
    const int32_t max_abs_bits = block.MaxAbsBits();
    scan_->max_abs_bits = std::max(scan_->max_abs_bits, static_cast<uint32_t>(max_abs_bits));
    if (max_abs_bits < kInfinityBits) scan_->squared_norm.Add(block.SumOfSquares() * segment_.norm_weight);
  }

 private:
  HWY_INLINE void Chunk(int64_t begin, int64_t elements, BlockScan* block) {
    const int64_t origin = segment_.shard_begin_element + begin;
    if (slice_scan_ != nullptr) {
      if (!slice_scan_(schedule_, origin, elements, block)) FindNonFinite(schedule_, segment_, begin, elements, scan_);
      return;
    }
    const float* sums = sum_(schedule_, origin, elements, sums_, schedule_.open_at_end ? group_ : nullptr);
    float* const out = args_.accumulator_out == nullptr ? nullptr : args_.accumulator_out + origin;
    const bool in_place = args_.accumulator_out == schedule_.accumulator;
    // Nothing is written yet where the search reads.
    const bool stores = out != nullptr && !in_place && scan_ != nullptr && elements % kLanes == 0;
    if (scan_ != nullptr && !Look(&sums, elements, stores ? SumsTo(out, false) : SumsTo(), block)) {
      FindNonFinite(schedule_, segment_, begin, elements, scan_);
    }
    if (out != nullptr && !stores) StoreSums(sums, elements, SumsTo(out, in_place));
    if (args_.group_accumulator_out != nullptr) {
      const bool was_read = args_.group_accumulator_out == schedule_.group_accumulator;
      StoreSums(group_, elements, SumsTo(args_.group_accumulator_out + origin, was_read));
    }
    if (args_.rounded_out != nullptr) StoreRounded(sums, elements, args_.rounded_out + origin);
  }

  // Whether the sums are finite, and what is open in the end.
  HWY_INLINE bool Look(const float** sums, int64_t elements, const SumsTo& to, BlockScan* block) {
    // The end of a parameter: a zero's square changes no lane.
    const int64_t whole_lanes = (elements + kLanes - 1) / kLanes * kLanes;
    if (elements < whole_lanes) {
      if (*sums != sums_) std::copy_n(*sums, elements, sums_);
      std::fill(sums_ + elements, sums_ + whole_lanes, 0.0f);
      std::fill(group_ + elements, group_ + whole_lanes, 0.0f);
      *sums = sums_;
    }
    bool finite =
        args_.take_norm ? block->Scan<true>(*sums, whole_lanes, to) : block->Scan<false>(*sums, whole_lanes, to);
    if (schedule_.open_at_end) finite = BlockScan().Scan<false>(group_, whole_lanes, SumsTo()) && finite;
    return finite;
  }

  const ReduceArgs& args_;
  const SumSchedule& schedule_;
  const Segment& segment_;
  const SumFunction sum_;
  const SliceScan slice_scan_;
  ScanResult* const scan_;
  alignas(64) float sums_[kChunkElements];
  alignas(64) float group_[kChunkElements];
};

void ReduceRun(const ReduceArgs& args, const SumSchedule& schedule, const BlockRun& run, ScanResult* scan) {
  ReduceKernel kernel(args, schedule, run, scan);
  for (int64_t i = 0; i < run.elements; i += kBlock) kernel.Block(run.begin + i, std::min(kBlock, run.elements - i));
  hwy::FlushStream();
}
