// The one formula of Lion, operation by operation as docs/numerics.md states it. Included as adamw_formula-inl.h is,
// and for the same reason. There must be visible before it: update_element-inl.h; operators + - * of V; Sign of V: 1,
// -1, +0 for zeros of both signs, NaN for NaN.

/// `g` is the scaled gradient; `s` has LionScalars' fields, each a V.
template <typename V, typename S>
SHARDSTEP_FORMULA UpdateElement<V> LionUpdate(UpdateElement<V> x, V g, const S& s) {
  const V c = s.beta1 * x.first_moment + s.one_minus_beta1 * g;
  x.master = x.master - s.lr_weight_decay * x.master;
  x.master = x.master - s.learning_rate * Sign(c);
  x.first_moment = s.beta2 * x.first_moment + s.one_minus_beta2 * g;
  return x;
}
