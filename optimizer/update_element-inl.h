// What a rule updates at one place. No include guard, for the reason that adamw_formula-inl.h gives; include it before
// the formulas. Rules that keep no such moment leave it alone.

#ifndef SHARDSTEP_FORMULA
#define SHARDSTEP_FORMULA inline
#endif

template <typename V>
struct UpdateElement {
  V master, first_moment, second_moment;
};
