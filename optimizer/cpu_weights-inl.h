// Where the update kernels read w and what they write, for the current Highway target. No include guard: included once
// per target, inside its namespace, after cpu_random-inl.h.
//
// All have: a constructor for the run that begins at `origin` of the shard; BeginChunk(first, elements); Load(i), of
// the vector at i of the run; Store(i, kPair vectors); LoadOne(i) and StoreOne(i, w), of one element.

// bf16 to every destination. What is not read bypasses the caches where it is aligned.
class Bf16Destinations {
 public:
  HWY_INLINE Bf16Destinations(const UpdateArgs& args, int64_t origin, bool first_is_read)
      : destinations_(args.destinations), origin_(origin), first_is_read_(first_is_read) {
    for (const void* destination : destinations_) {
      aligned_ = aligned_ && Aligned(static_cast<const Bf16*>(destination) + origin, kPairElements * sizeof(Bf16));
    }
  }
  HWY_INLINE const Bf16* first() const { return At(0); }
  HWY_INLINE void Store(int64_t i, const hn::Vec<Bf16Tag> (&weights)[kPair]) const {
    for (size_t d = 0; d < destinations_.size(); ++d) {
      StorePair(weights, aligned_ && !(first_is_read_ && d == 0), At(d) + i);
    }
  }
  HWY_INLINE void StoreOne(int64_t i, Bf16 weight) const {
    for (size_t d = 0; d < destinations_.size(); ++d) At(d)[i] = weight;
  }

 private:
  HWY_INLINE Bf16* At(size_t d) const { return static_cast<Bf16*>(destinations_[d]) + origin_; }

  absl::Span<void* const> destinations_;
  int64_t origin_;
  bool first_is_read_;
  bool aligned_ = true;
};

// FP32 behind bf16.
class Fp32MasterWeights {
 public:
  HWY_INLINE Fp32MasterWeights(const UpdateArgs& args, const BlockRun& /*run*/, int64_t origin)
      : master_(args.master + origin), weights_(args, origin, /*first_is_read=*/false) {}
  HWY_INLINE void BeginChunk(int64_t /*first*/, int64_t /*elements*/) {}
  HWY_INLINE V Load(int64_t i) const {
    PrefetchAhead(master_ + i);
    return LoadFloats(master_ + i);
  }
  HWY_INLINE void Store(int64_t i, const V (&w)[kPair]) const {
    hn::Vec<Bf16Tag> weights[kPair];
    for (size_t v = 0; v < kPair; ++v) {
      StoreFloats(w[v], master_ + i + v * kFloats);
      weights[v] = RoundToBf16(w[v]);
    }
    weights_.Store(i, weights);
  }
  HWY_INLINE float LoadOne(int64_t i) const { return master_[i]; }
  HWY_INLINE void StoreOne(int64_t i, float w) const {
    master_[i] = w;
    weights_.StoreOne(i, ToBf16(w));
  }

 private:
  float* const master_;
  const Bf16Destinations weights_;
};

// SPLIT: Split and Join of master_weights.h, lane by lane.
class SplitMasterWeights {
 public:
  HWY_INLINE SplitMasterWeights(const UpdateArgs& args, const BlockRun& /*run*/, int64_t origin)
      : remainder_(args.remainder + origin), weights_(args, origin, /*first_is_read=*/true) {}
  HWY_INLINE void BeginChunk(int64_t /*first*/, int64_t /*elements*/) {}
  HWY_INLINE V Load(int64_t i) const {
    PrefetchAhead(weights_.first() + i);
    PrefetchAhead(remainder_ + i);
    const Uint32Tag u32;
    const auto weight = hn::PromoteTo(u32, hn::LoadU(Bf16Tag(), &weights_.first()[i].bits));
    const auto remainder = hn::PromoteTo(u32, hn::LoadU(Bf16Tag(), remainder_ + i));
    const auto upper = hn::ShiftLeft<16>(hn::Sub(weight, hn::ShiftRight<15>(remainder)));
    return {hn::BitCast(FloatTag(), hn::Or(upper, remainder))};
  }
  HWY_INLINE void Store(int64_t i, const V (&w)[kPair]) const {
    const Int32Tag i32;
    hn::Vec<Bf16Tag> weights[kPair];
    for (size_t v = 0; v < kPair; ++v) {
      weights[v] = AddAndTruncate(w[v], hn::Set(Uint32Tag(), 0x8000));
      const auto is_nan = hn::Gt(AbsBits(w[v]), hn::Set(i32, 0x7f800000));
      const auto low = hn::And(hn::BitCast(i32, w[v].raw), hn::Set(i32, 0xffff));
      hn::StoreU(hn::DemoteTo(Bf16Tag(), hn::IfThenZeroElse(is_nan, low)), Bf16Tag(), remainder_ + i + v * kFloats);
    }
    weights_.Store(i, weights);
  }
  HWY_INLINE float LoadOne(int64_t i) const {
    return Join({.weight = weights_.first()[i], .remainder = remainder_[i]});
  }
  HWY_INLINE void StoreOne(int64_t i, float w) const {
    const SplitMaster split = Split(w);
    remainder_[i] = split.remainder;
    weights_.StoreOne(i, split.weight);
  }

 private:
  uint16_t* const remainder_;
  const Bf16Destinations weights_;
};

// NONE, to nearest.
class NearestWeights {
 public:
  HWY_INLINE NearestWeights(const UpdateArgs& args, const BlockRun& /*run*/, int64_t origin)
      : weights_(args, origin, /*first_is_read=*/true) {}
  HWY_INLINE void BeginChunk(int64_t /*first*/, int64_t /*elements*/) {}
  HWY_INLINE V Load(int64_t i) const {
    PrefetchAhead(weights_.first() + i);
    return LoadBf16(weights_.first() + i);
  }
  HWY_INLINE void Store(int64_t i, const V (&w)[kPair]) const {
    hn::Vec<Bf16Tag> weights[kPair];
    for (size_t v = 0; v < kPair; ++v) weights[v] = RoundToBf16(w[v]);
    weights_.Store(i, weights);
  }
  HWY_INLINE float LoadOne(int64_t i) const { return ToFloat(weights_.first()[i]); }
  HWY_INLINE void StoreOne(int64_t i, float w) const { weights_.StoreOne(i, ToBf16(w)); }

 private:
  const Bf16Destinations weights_;
};

// NONE, at random.
class StochasticWeights {
 public:
  HWY_INLINE StochasticWeights(const UpdateArgs& args, const BlockRun& run, int64_t origin)
      : scalars_(*args.scalars),
        global_element_(run.segment->global_begin_element + run.begin),
        weights_(args, origin, /*first_is_read=*/true) {}
  HWY_INLINE void BeginChunk(int64_t first, int64_t elements) {
    first_ = first;
    randoms_.Draw(scalars_.seed, scalars_.applied_step, global_element_ + first, elements);
  }
  HWY_INLINE V Load(int64_t i) const {
    PrefetchAhead(weights_.first() + i);
    return LoadBf16(weights_.first() + i);
  }
  HWY_INLINE void Store(int64_t i, const V (&w)[kPair]) const {
    hn::Vec<Bf16Tag> weights[kPair];
    for (size_t v = 0; v < kPair; ++v) {
      const auto random = hn::LoadU(Bf16Tag(), randoms_.at(i - first_) + v * kFloats);
      weights[v] = AddAndTruncate(w[v], hn::PromoteTo(Uint32Tag(), random));
    }
    weights_.Store(i, weights);
  }
  HWY_INLINE float LoadOne(int64_t i) const { return ToFloat(weights_.first()[i]); }
  HWY_INLINE void StoreOne(int64_t i, float w) const {
    weights_.StoreOne(i, RoundStochastically(w, *randoms_.at(i - first_)));
  }

 private:
  const UpdateScalars& scalars_;
  const int64_t global_element_;  // of the run
  int64_t first_ = 0;             // of the chunk
  ChunkRandoms randoms_;
  const Bf16Destinations weights_;
};

// fp32 weights are their own master.
class Fp32Weights {
 public:
  HWY_INLINE Fp32Weights(const UpdateArgs& args, const BlockRun& /*run*/, int64_t origin)
      : destinations_(args.destinations), origin_(origin) {
    for (const void* destination : destinations_) {
      aligned_ = aligned_ && Aligned(static_cast<const float*>(destination) + origin, kFloats * sizeof(float));
    }
  }
  HWY_INLINE void BeginChunk(int64_t /*first*/, int64_t /*elements*/) {}
  HWY_INLINE V Load(int64_t i) const {
    PrefetchAhead(At(0) + i);
    return LoadFloats(At(0) + i);
  }
  HWY_INLINE void Store(int64_t i, const V (&w)[kPair]) const {
    const FloatTag f32;
    const auto nan = hn::BitCast(f32, hn::Set(Uint32Tag(), kCanonicalNan));
    for (size_t v = 0; v < kPair; ++v) {
      const V weights = {hn::IfThenElse(hn::Eq(w[v].raw, w[v].raw), w[v].raw, nan)};
      for (size_t d = 0; d < destinations_.size(); ++d) {
        StoreFloats(weights, aligned_ && d > 0, At(d) + i + v * kFloats);
      }
    }
  }
  HWY_INLINE float LoadOne(int64_t i) const { return At(0)[i]; }
  HWY_INLINE void StoreOne(int64_t i, float w) const {
    const float weight = w == w ? w : FloatFromBits(kCanonicalNan);
    for (size_t d = 0; d < destinations_.size(); ++d) At(d)[i] = weight;
  }

 private:
  static constexpr uint32_t kCanonicalNan = 0x7fc00000;
  HWY_INLINE float* At(size_t d) const { return static_cast<float*>(destinations_[d]) + origin_; }

  absl::Span<void* const> destinations_;
  int64_t origin_;
  bool aligned_ = true;
};
