// The sums of a shard's slices, for the current Highway target. No include guard: included once per target, inside its
// namespace, after cpu_vectors-inl.h.

// Elements that are summed before something is done with the sums: few enough to stay in the first cache.
inline constexpr int64_t kChunkElements = 512;

// Sums elements [origin, origin + elements) of the shard, and returns where the s are: `sums`, which has room for as
// many, or an array of the schedule. `group`, where not nullptr, gets p.
using SumFunction = const float* (*)(const SumSchedule& schedule, int64_t origin, int64_t elements, float* sums,
                                     float* group);

// One element, for what does not fill a vector.
inline void SumElement(const SumSchedule& schedule, int64_t index, float* sum, float* group) {
  float s = schedule.accumulator == nullptr ? 0.0f : schedule.accumulator[index];
  float p = schedule.group_accumulator == nullptr ? 0.0f : schedule.group_accumulator[index];
  if (schedule.begins_with_end) {
    s = s + p;
    p = 0.0f;
  }
  for (const Addition& addition : schedule.additions) {
    const float value = addition.dtype == DType::kFp32 ? static_cast<const float*>(addition.data)[index]
                                                       : ToFloat(static_cast<const Bf16*>(addition.data)[index]);
    if (!addition.to_group) {
      s = s + value;
      continue;
    }
    p = p + value;
    if (addition.ends_group) {
      s = s + p;
      p = 0.0f;
    }
  }
  *sum = s;
  if (group != nullptr) *group = p;
}

HWY_NOINLINE void SumTail(const SumSchedule& schedule, int64_t origin, int64_t begin, int64_t end, float* sums,
                          float* group) {
  for (int64_t i = begin; i < end; ++i) {
    SumElement(schedule, origin + i, sums + i, group == nullptr ? nullptr : group + i);
  }
}

// All of it is in the accumulator.
const float* SumNothing(const SumSchedule& schedule, int64_t origin, int64_t elements, float* /*sums*/,
                        float* /*group*/) {
  const float* const sums = schedule.accumulator + origin;
  for (int64_t i = 0; i < elements; i += kFloats) PrefetchAhead(sums + i);
  return sums;
}

// Of an array that is only read. Half a line at a time: where each load is a whole one, prefetchers lose the track.
HWY_INLINE V LoadOnce(const Bf16* from) { return LoadBf16(from); }
HWY_INLINE V LoadOnce(const float* from) {
#if HWY_TARGET == HWY_AVX3
  const hn::Half<FloatTag> half;
  return {hn::Combine(FloatTag(), hn::LoadU(half, from + kFloats / 2), hn::LoadU(half, from))};
#else
  return LoadFloats(from);
#endif
}

// The common case: kSlices slices of one type T, no groups.
template <typename T, int kSlices, bool kAccumulator>
const float* SumAlike(const SumSchedule& schedule, int64_t origin, int64_t elements, float* sums, float* /*group*/) {
  const T* data[kSlices];
  for (int j = 0; j < kSlices; ++j) data[j] = static_cast<const T*>(schedule.additions[j].data) + origin;
  const float* const accumulator = kAccumulator ? schedule.accumulator + origin : nullptr;
  int64_t i = 0;
  for (; i + static_cast<int64_t>(kFloats) <= elements; i += kFloats) {
    if (kAccumulator) PrefetchAhead(accumulator + i);
    V sum = kAccumulator ? LoadFloats(accumulator + i) : Broadcast(0.0f);
    for (int j = 0; j < kSlices; ++j) {
      PrefetchAhead(data[j] + i);
      sum = sum + LoadOnce(data[j] + i);
    }
    StoreFloats(sum, sums + i);
  }
  if (i < elements) SumTail(schedule, origin, i, elements, sums, nullptr);
  return sums;
}

// kVectors vectors at once, so that what each slice is has to be asked only once for all of them.
template <size_t kVectors>
HWY_INLINE void SumVectors(const SumSchedule& schedule, int64_t index, float* sums, float* group) {
  V s[kVectors];
  V p[kVectors];
  const auto load = [index](const float* array, V(&to)[kVectors]) {
    for (size_t v = 0; v < kVectors; ++v) {
      if (array != nullptr) PrefetchAhead(array + index + v * kFloats);
      to[v] = array == nullptr ? Broadcast(0.0f) : LoadFloats(array + index + v * kFloats);
    }
  };
  const auto end_group = [&s, &p] {
    for (size_t v = 0; v < kVectors; ++v) {
      s[v] = s[v] + p[v];
      p[v] = Broadcast(0.0f);
    }
  };
  load(schedule.accumulator, s);
  load(schedule.group_accumulator, p);
  if (schedule.begins_with_end) end_group();
  for (const Addition& addition : schedule.additions) {
    V values[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      const int64_t at = index + static_cast<int64_t>(v * kFloats);
      PrefetchAhead(static_cast<const char*>(addition.data) + at * SizeBytes(addition.dtype));
      values[v] = addition.dtype == DType::kFp32 ? LoadOnce(static_cast<const float*>(addition.data) + at)
                                                 : LoadOnce(static_cast<const Bf16*>(addition.data) + at);
    }
    if (addition.to_group) {
      for (size_t v = 0; v < kVectors; ++v) p[v] = p[v] + values[v];
      if (addition.ends_group) end_group();
    } else {
      for (size_t v = 0; v < kVectors; ++v) s[v] = s[v] + values[v];
    }
  }
  for (size_t v = 0; v < kVectors; ++v) {
    StoreFloats(s[v], sums + v * kFloats);
    if (group != nullptr) StoreFloats(p[v], group + v * kFloats);
  }
}

// Any slices.
const float* SumAny(const SumSchedule& schedule, int64_t origin, int64_t elements, float* sums, float* group) {
  constexpr size_t kVectors = 4;
  constexpr auto kStep = static_cast<int64_t>(kVectors * kFloats);
  int64_t i = 0;
  for (; i + kStep <= elements; i += kStep) {
    SumVectors<kVectors>(schedule, origin + i, sums + i, group == nullptr ? nullptr : group + i);
  }
  for (; i + static_cast<int64_t>(kFloats) <= elements; i += kFloats) {
    SumVectors<1>(schedule, origin + i, sums + i, group == nullptr ? nullptr : group + i);
  }
  if (i < elements) SumTail(schedule, origin, i, elements, sums, group);
  return sums;
}

template <typename T, bool kAccumulator>
SumFunction ChooseAlike(size_t slices) {
  constexpr SumFunction kFunctions[] = {&SumAlike<T, 1, kAccumulator>, &SumAlike<T, 2, kAccumulator>,
                                        &SumAlike<T, 3, kAccumulator>, &SumAlike<T, 4, kAccumulator>,
                                        &SumAlike<T, 5, kAccumulator>, &SumAlike<T, 6, kAccumulator>,
                                        &SumAlike<T, 7, kAccumulator>, &SumAlike<T, 8, kAccumulator>};
  return slices <= std::size(kFunctions) ? kFunctions[slices - 1] : &SumAny;
}

inline SumFunction ChooseSum(const SumSchedule& schedule) {
  const std::vector<Addition>& additions = schedule.additions;
  if (!schedule.plain) return &SumAny;
  if (additions.empty()) return schedule.accumulator == nullptr ? &SumAny : &SumNothing;
  const DType dtype = additions[0].dtype;
  for (const Addition& addition : additions) {
    if (addition.dtype != dtype) return &SumAny;
  }
  const bool accumulator = schedule.accumulator != nullptr;
  if (dtype == DType::kFp32) {
    return accumulator ? ChooseAlike<float, true>(additions.size()) : ChooseAlike<float, false>(additions.size());
  }
  return accumulator ? ChooseAlike<Bf16, true>(additions.size()) : ChooseAlike<Bf16, false>(additions.size());
}
