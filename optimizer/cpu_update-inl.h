// Update for the current Highway target. No include guard: included once per target, inside its namespace, after
// cpu_gradients-inl.h, cpu_rules-inl.h and cpu_weights-inl.h.

// One rule with one kind of weights. A moment that is not kept is never touched.
template <typename UpdateRule, typename Weights>
class UpdateKernel {
 public:
  static HWY_NOINLINE void Run(const UpdateArgs& args, const SumSchedule& schedule, const BlockRun& run) {
    const int64_t origin = run.segment->shard_begin_element + run.begin;
    const RuleScalars& scalars = args.rules[run.segment->scalars];
    UpdateKernel kernel(args, run, origin);
    const auto vector_scalars = UpdateRule::template Make<V>(scalars);
    const V scale = Broadcast(args.scalars->scale);
    const SumFunction sum = ChooseSum(schedule);
    alignas(64) float buffer[kChunkElements];
    for (int64_t begin = 0; begin < run.elements; begin += kChunkElements) {
      const int64_t elements = std::min(kChunkElements, run.elements - begin);
      const float* sums = sum(schedule, origin + begin, elements, buffer, nullptr);
      kernel.weights_.BeginChunk(begin, elements);
      int64_t i = begin;
      for (; i + kPairElements <= begin + elements; i += kPairElements) {
        kernel.UpdatePair(i, sums + (i - begin), scale, vector_scalars);
      }
      if (i < begin + elements) {
        const auto tail_scalars = UpdateRule::template Make<float>(scalars);
        for (; i < begin + elements; ++i) kernel.UpdateOne(i, sums[i - begin] * args.scalars->scale, tail_scalars);
      }
    }
  }

 private:
  HWY_INLINE UpdateKernel(const UpdateArgs& args, const BlockRun& run, int64_t origin)
      : weights_(args, run, origin),
        first_moment_(UpdateRule::kFirstMoment ? args.first_moment + origin : nullptr),
        second_moment_(UpdateRule::kSecondMoment ? args.second_moment + origin : nullptr) {}

  HWY_INLINE void UpdatePair(int64_t i, const float* sums, V scale,
                             const typename UpdateRule::template Scalars<V>& scalars) const {
    V masters[kPair];
    for (size_t v = 0; v < kPair; ++v) {
      const int64_t at = i + static_cast<int64_t>(v * kFloats);
      if constexpr (UpdateRule::kFirstMoment) PrefetchAhead(first_moment_ + at);
      if constexpr (UpdateRule::kSecondMoment) PrefetchAhead(second_moment_ + at);
      UpdateElement<V> x = {.master = weights_.Load(at)};
      if constexpr (UpdateRule::kFirstMoment) x.first_moment = LoadFloats(first_moment_ + at);
      if constexpr (UpdateRule::kSecondMoment) x.second_moment = LoadFloats(second_moment_ + at);
      x = UpdateRule::Apply(x, LoadFloats(sums + v * kFloats) * scale, scalars);
      if constexpr (UpdateRule::kFirstMoment) StoreFloats(x.first_moment, first_moment_ + at);
      if constexpr (UpdateRule::kSecondMoment) StoreFloats(x.second_moment, second_moment_ + at);
      masters[v] = x.master;
    }
    weights_.Store(i, masters);
  }

  HWY_INLINE void UpdateOne(int64_t i, float g, const typename UpdateRule::template Scalars<float>& scalars) const {
    UpdateElement<float> x = {.master = weights_.LoadOne(i)};
    if constexpr (UpdateRule::kFirstMoment) x.first_moment = first_moment_[i];
    if constexpr (UpdateRule::kSecondMoment) x.second_moment = second_moment_[i];
    x = UpdateRule::Apply(x, g, scalars);
    if constexpr (UpdateRule::kFirstMoment) first_moment_[i] = x.first_moment;
    if constexpr (UpdateRule::kSecondMoment) second_moment_[i] = x.second_moment;
    weights_.StoreOne(i, x.master);
  }

  Weights weights_;
  float* const first_moment_;
  float* const second_moment_;
};

using UpdateFunction = void (*)(const UpdateArgs& args, const SumSchedule& schedule, const BlockRun& run);

template <typename UpdateRule>
UpdateFunction ChooseWeights(const UpdateArgs& args) {
  if (args.weight_dtype == DType::kFp32) return &UpdateKernel<UpdateRule, Fp32Weights>::Run;
  switch (args.kind.master) {
    case Master::kFp32:
      return &UpdateKernel<UpdateRule, Fp32MasterWeights>::Run;
    case Master::kSplit:
      return &UpdateKernel<UpdateRule, SplitMasterWeights>::Run;
    case Master::kNone:
      break;
  }
  return args.kind.rounding == Rounding::kNearest ? &UpdateKernel<UpdateRule, NearestWeights>::Run
                                                  : &UpdateKernel<UpdateRule, StochasticWeights>::Run;
}

inline UpdateFunction ChooseUpdate(const UpdateArgs& args) {
  switch (args.kind.rule) {
    case Rule::kAdamW:
      break;
    case Rule::kSgd:
      return args.kind.momentum ? ChooseWeights<SgdRule<true>>(args) : ChooseWeights<SgdRule<false>>(args);
    case Rule::kLion:
      return ChooseWeights<LionRule>(args);
  }
  return ChooseWeights<AdamWRule>(args);
}

void UpdateRun(const UpdateArgs& args, const SumSchedule& schedule, const BlockRun& run) {
  ChooseUpdate(args)(args, schedule, run);
  // Whoever sees this launch done must see the weights.
  hwy::FlushStream();
}
