// The one formula of AdamW, operation by operation as numeric contract 4 orders it: for scalars, for SIMD vectors, for
// devices. No include guard: whoever computes includes this inside the namespace (and the compiler target) of its
// kernels, because a function that is compiled for one target cannot inline operators of another. There must be visible
// before it: update_element-inl.h; operators + - * / and Sqrt of V, each IEEE, none contracted (-ffp-contract=off).

/// `g` is the scaled gradient; `s` has AdamWScalars' fields, each a V.
template <typename V, typename S>
SHARDSTEP_FORMULA UpdateElement<V> AdamWUpdate(UpdateElement<V> x, V g, const S& s) {
  x.first_moment = s.beta1 * x.first_moment + s.one_minus_beta1 * g;
  x.second_moment = s.beta2 * x.second_moment + s.one_minus_beta2 * (g * g);
  x.master = x.master - s.lr_weight_decay * x.master;
  x.master = x.master - s.step_size * (x.first_moment / (Sqrt(x.second_moment) * s.rbc2 + s.epsilon));
  return x;
}
