#include "shardstep/optimizer/shard_kernels.h"

#include <algorithm>

namespace shardstep {
namespace {

// Collects ranges; null pointers are arguments that are not there.
class AccessList {
 public:
  void Whole(const void* begin, int64_t size_bytes, bool write) {
    if (begin != nullptr && size_bytes > 0) list_.push_back({.begin = begin, .size_bytes = size_bytes, .write = write});
  }
  template <typename T>
  void Read(const Segment& segment, const T* array) {
    Part(segment, array, /*write=*/false);
  }
  template <typename T>
  void Write(const Segment& segment, T* array) {
    Part(segment, array, /*write=*/true);
  }
  std::vector<MemoryAccess> Take() { return std::move(list_); }

 private:
  template <typename T>
  void Part(const Segment& segment, const T* array, bool write) {
    if (array == nullptr) return;
    Whole(array + segment.shard_begin_element, segment.elements * static_cast<int64_t>(sizeof(T)), write);
  }
  std::vector<MemoryAccess> list_;
};

}  // namespace

void ScanResult::Merge(const ScanResult& other) {
  squared_norm.Merge(other.squared_norm);
  max_abs_bits = std::max(max_abs_bits, other.max_abs_bits);
  first_nonfinite = std::min(first_nonfinite, other.first_nonfinite);
  first_overflow = std::min(first_overflow, other.first_overflow);
}

std::vector<MemoryAccess> Accesses(const ReduceArgs& args) {
  AccessList list;
  for (const Segment& segment : args.segments) {
    for (const Slice& slice : args.slices) list.Read(segment, slice.data);
    list.Read(segment, args.accumulator_in);
    list.Write(segment, args.accumulator_out);
  }
  list.Whole(args.scan, sizeof(ScanResult), /*write=*/true);
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const UpdateArgs& args) {
  AccessList list;
  for (const Segment& segment : args.segments) {
    for (const Slice& slice : args.slices) list.Read(segment, slice.data);
    list.Read(segment, args.accumulator);
    for (float* array : {args.master, args.first_moment, args.second_moment}) {
      list.Read(segment, array);
      list.Write(segment, array);
    }
    for (Bf16* destination : args.destinations) list.Write(segment, destination);
  }
  if (args.scalars != nullptr) {
    list.Whole(args.scalars, sizeof(UpdateScalars), /*write=*/false);
    list.Whole(args.scalars->groups.data(), static_cast<int64_t>(args.scalars->groups.size() * sizeof(AdamWScalars)),
               /*write=*/false);
  }
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const ZeroArgs& args) {
  AccessList list;
  list.Whole(args.gradient.data(), static_cast<int64_t>(args.gradient.size() * sizeof(Bf16)), /*write=*/true);
  return list.Take();
}

}  // namespace shardstep
