// The one formula of SGD, operation by operation as docs/numerics.md states it. Included as adamw_formula-inl.h is, and
// for the same reason. There must be visible before it: update_element-inl.h; operators + - * of V.

/// `g` is the scaled gradient; `s` has SgdScalars' fields, each a V, but for `nesterov`, a bool. Without momentum.
template <typename V, typename S>
SHARDSTEP_FORMULA UpdateElement<V> SgdUpdate(UpdateElement<V> x, V g, const S& s) {
  const V d = g + s.weight_decay * x.master;
  x.master = x.master - s.learning_rate * d;
  return x;
}

template <typename V, typename S>
SHARDSTEP_FORMULA UpdateElement<V> SgdMomentumUpdate(UpdateElement<V> x, V g, const S& s) {
  V d = g + s.weight_decay * x.master;
  x.first_moment = s.momentum * x.first_moment + d;
  d = s.nesterov ? d + s.momentum * x.first_moment : x.first_moment;
  x.master = x.master - s.learning_rate * d;
  return x;
}
