// Update for the current Highway target. No include guard: included once per target, inside its namespace, after
// cpu_gradients-inl.h and adamw_formula-inl.h.

// AdamWScalars in every lane.
struct VectorScalars {
  V beta1, one_minus_beta1, beta2, one_minus_beta2, lr_weight_decay, step_size, rbc2, epsilon;
};
HWY_INLINE VectorScalars BroadcastScalars(const AdamWScalars& s) {
  return {Broadcast(s.beta1),           Broadcast(s.one_minus_beta1), Broadcast(s.beta2), Broadcast(s.one_minus_beta2),
          Broadcast(s.lr_weight_decay), Broadcast(s.step_size),       Broadcast(s.rbc2),  Broadcast(s.epsilon)};
}

// Two vectors of weights make one full store: a half-filled line that bypasses the caches costs a whole one.
#if HWY_TARGET == HWY_SCALAR
inline constexpr size_t kUpdateVectors = 1;
using WeightsTag = Bf16Tag;
HWY_INLINE hn::Vec<WeightsTag> JoinWeights(const hn::Vec<Bf16Tag> (&parts)[kUpdateVectors]) { return parts[0]; }
#else
inline constexpr size_t kUpdateVectors = 2;
using WeightsTag = hn::ScalableTag<uint16_t>;
HWY_INLINE hn::Vec<WeightsTag> JoinWeights(const hn::Vec<Bf16Tag> (&parts)[kUpdateVectors]) {
  return hn::Combine(WeightsTag(), parts[1], parts[0]);
}
#endif
inline constexpr int64_t kUpdateElements = kUpdateVectors * kFloats;

template <int kSlices>
struct UpdateKernel {
  static HWY_NOINLINE void Run(const UpdateArgs& args, const BlockRun& run, const AdamWScalars& scalars) {
    const int64_t origin = run.segment->shard_begin_element + run.begin;
    const GradientSum<kSlices> gradients(args.slices, args.accumulator, origin);
    float* const master = args.master + origin;
    float* const first_moment = args.first_moment + origin;
    float* const second_moment = args.second_moment + origin;
    const bool stream = Aligned(args.destinations, origin);
    const VectorScalars s = BroadcastScalars(scalars);
    const V scale = Broadcast(args.scalars->scale);

    int64_t i = 0;
    for (; i + kUpdateElements <= run.elements; i += kUpdateElements) {
      hn::Vec<Bf16Tag> weights[kUpdateVectors];
      for (size_t v = 0; v < kUpdateVectors; ++v) {
        const int64_t at = i + static_cast<int64_t>(v * kFloats);
        const AdamWElement<V> x = AdamWUpdate(
            AdamWElement<V>{LoadFloats(master + at), LoadFloats(first_moment + at), LoadFloats(second_moment + at)},
            gradients.Vector(at) * scale, s);
        StoreFloats(x.master, master + at);
        StoreFloats(x.first_moment, first_moment + at);
        StoreFloats(x.second_moment, second_moment + at);
        weights[v] = RoundToBf16(x.master);
      }
      const auto joined = JoinWeights(weights);
      for (Bf16* destination : args.destinations) {
        uint16_t* to = &destination[origin + i].bits;
        if (stream) {
          hn::Stream(joined, WeightsTag(), to);
        } else {
          hn::StoreU(joined, WeightsTag(), to);
        }
      }
    }
    for (; i < run.elements; ++i) {
      const AdamWElement<float> x = AdamWUpdate(AdamWElement<float>{master[i], first_moment[i], second_moment[i]},
                                                gradients.Scalar(i) * args.scalars->scale, scalars);
      master[i] = x.master;
      first_moment[i] = x.first_moment;
      second_moment[i] = x.second_moment;
      for (Bf16* destination : args.destinations) destination[origin + i] = ToBf16(x.master);
    }
  }

 private:
  // Weights are not read by whoever wrote them: they bypass the caches where every destination is aligned.
  static HWY_INLINE bool Aligned(absl::Span<Bf16* const> destinations, int64_t origin) {
    for (const Bf16* destination : destinations) {
      if (reinterpret_cast<uintptr_t>(destination + origin) % (kUpdateElements * sizeof(Bf16)) != 0) return false;
    }
    return true;
  }
};

void UpdateRun(const UpdateArgs& args, const BlockRun& run) {
  DispatchSlices<UpdateKernel>(args.slices.size(), args.accumulator, args, run,
                               args.scalars->groups[run.segment->group]);
  // Whoever sees this launch done must see the weights.
  hwy::FlushStream();
}
