// The rules as the update kernels want them, for the current Highway target. No include guard: included once per
// target, inside its namespace, after cpu_vectors-inl.h and the formulas.
//
// A rule has: which moments it keeps; Scalars<T>, each field T; Make<T>(RuleScalars); Apply(element, g, scalars).

template <typename T>
T Everywhere(float value);
template <>
HWY_INLINE float Everywhere<float>(float value) {
  return value;
}
template <>
HWY_INLINE V Everywhere<V>(float value) {
  return Broadcast(value);
}

struct AdamWRule {
  static constexpr bool kFirstMoment = true;
  static constexpr bool kSecondMoment = true;
  template <typename T>
  struct Scalars {
    T beta1, one_minus_beta1, beta2, one_minus_beta2, lr_weight_decay, step_size, rbc2, epsilon;
  };
  template <typename T>
  static HWY_INLINE Scalars<T> Make(const RuleScalars& scalars) {
    const AdamWScalars& s = scalars.adamw;
    return {Everywhere<T>(s.beta1),
            Everywhere<T>(s.one_minus_beta1),
            Everywhere<T>(s.beta2),
            Everywhere<T>(s.one_minus_beta2),
            Everywhere<T>(s.lr_weight_decay),
            Everywhere<T>(s.step_size),
            Everywhere<T>(s.rbc2),
            Everywhere<T>(s.epsilon)};
  }
  template <typename T>
  static HWY_INLINE UpdateElement<T> Apply(UpdateElement<T> x, T g, const Scalars<T>& s) {
    return AdamWUpdate(x, g, s);
  }
};

template <bool kMomentum>
struct SgdRule {
  static constexpr bool kFirstMoment = kMomentum;
  static constexpr bool kSecondMoment = false;
  template <typename T>
  struct Scalars {
    T momentum, weight_decay, learning_rate;
    bool nesterov;
  };
  template <typename T>
  static HWY_INLINE Scalars<T> Make(const RuleScalars& scalars) {
    const SgdScalars& s = scalars.sgd;
    return {Everywhere<T>(s.momentum), Everywhere<T>(s.weight_decay), Everywhere<T>(s.learning_rate), s.nesterov};
  }
  template <typename T>
  static HWY_INLINE UpdateElement<T> Apply(UpdateElement<T> x, T g, const Scalars<T>& s) {
    if constexpr (kMomentum) {
      return SgdMomentumUpdate(x, g, s);
    } else {
      return SgdUpdate(x, g, s);
    }
  }
};

struct LionRule {
  static constexpr bool kFirstMoment = true;
  static constexpr bool kSecondMoment = false;
  template <typename T>
  struct Scalars {
    T beta1, one_minus_beta1, beta2, one_minus_beta2, lr_weight_decay, learning_rate;
  };
  template <typename T>
  static HWY_INLINE Scalars<T> Make(const RuleScalars& scalars) {
    const LionScalars& s = scalars.lion;
    return {Everywhere<T>(s.beta1),           Everywhere<T>(s.one_minus_beta1), Everywhere<T>(s.beta2),
            Everywhere<T>(s.one_minus_beta2), Everywhere<T>(s.lr_weight_decay), Everywhere<T>(s.learning_rate)};
  }
  template <typename T>
  static HWY_INLINE UpdateElement<T> Apply(UpdateElement<T> x, T g, const Scalars<T>& s) {
    return LionUpdate(x, g, s);
  }
};
