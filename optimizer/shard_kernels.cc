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
  // The part of `array`, shard_elements of `element_bytes` each, that belongs to the segment.
  void Read(const Segment& segment, const void* array, int64_t element_bytes) {
    Part(segment, array, element_bytes, /*write=*/false);
  }
  void Write(const Segment& segment, const void* array, int64_t element_bytes) {
    Part(segment, array, element_bytes, /*write=*/true);
  }
  void ReadSums(const Segment& segment, const SumArgs& sum) {
    for (const Slice& slice : sum.slices) Read(segment, slice.data, SizeBytes(slice.dtype));
    Read(segment, sum.accumulator, sizeof(float));
    Read(segment, sum.group_accumulator, sizeof(float));
  }
  std::vector<MemoryAccess> Take() { return std::move(list_); }

 private:
  void Part(const Segment& segment, const void* array, int64_t element_bytes, bool write) {
    if (array == nullptr) return;
    Whole(static_cast<const std::byte*>(array) + segment.shard_begin_element * element_bytes,
          segment.elements * element_bytes, write);
  }
  std::vector<MemoryAccess> list_;
};

// Whether the weights are where the rule reads them.
bool ReadsWeights(const UpdateArgs& args) {
  return args.weight_dtype == DType::kFp32 || args.kind.master != Master::kFp32;
}

}  // namespace

std::vector<MemoryAccess> Accesses(const ReduceArgs& args) {
  AccessList list;
  for (const Segment& segment : args.segments) {
    list.ReadSums(segment, args.sum);
    list.Write(segment, args.accumulator_out, sizeof(float));
    list.Write(segment, args.group_accumulator_out, sizeof(float));
    list.Write(segment, args.rounded_out, sizeof(Bf16));
  }
  list.Whole(args.scan, sizeof(ScanResult), /*write=*/true);
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const UpdateArgs& args) {
  AccessList list;
  for (const Segment& segment : args.segments) {
    list.ReadSums(segment, args.sum);
    for (const float* array : {args.master, args.first_moment, args.second_moment}) {
      list.Read(segment, array, sizeof(float));
      list.Write(segment, array, sizeof(float));
    }
    list.Read(segment, args.remainder, sizeof(uint16_t));
    list.Write(segment, args.remainder, sizeof(uint16_t));
    const int64_t weight_bytes = SizeBytes(args.weight_dtype);
    if (ReadsWeights(args) && !args.destinations.empty()) list.Read(segment, args.destinations[0], weight_bytes);
    for (const void* destination : args.destinations) list.Write(segment, destination, weight_bytes);
  }
  list.Whole(args.scalars, sizeof(UpdateScalars), /*write=*/false);
  list.Whole(args.rules.data(), static_cast<int64_t>(args.rules.size() * sizeof(RuleScalars)), /*write=*/false);
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const ZeroArgs& args) {
  AccessList list;
  list.Whole(args.gradient.data, args.gradient.size_bytes, /*write=*/true);
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const CopyArgs& args) {
  AccessList list;
  list.Whole(args.from, args.size_bytes, /*write=*/false);
  list.Whole(args.to, args.size_bytes, /*write=*/true);
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const DigestArgs& args) {
  AccessList list;
  list.Whole(args.values, args.elements * (args.form == DigestForm::kFp32 ? 4 : 2), /*write=*/false);
  if (args.remainder != nullptr) list.Whole(args.remainder, args.elements * 2, /*write=*/false);
  list.Whole(args.sum, sizeof(DigestSum), /*write=*/true);
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const ContributeWords& words) {
  AccessList list;
  list.Whole(words.order, sizeof(StepOrder), /*write=*/false);
  list.Whole(words.scan, sizeof(ScanResult), /*write=*/true);
  list.Whole(words.exchange_scan, sizeof(ScanResult), /*write=*/true);
  list.Whole(words.reduction, sizeof(SmallReduction), /*write=*/true);
  const int64_t parameters = words.parameter_count;
  list.Whole(words.parameter_scans, parameters * static_cast<int64_t>(sizeof(ScanResult)), /*write=*/true);
  list.Whole(words.parameter_norms, parameters * static_cast<int64_t>(sizeof(ExactSum)), /*write=*/true);
  return list.Take();
}

std::vector<MemoryAccess> Accesses(const DecideWords& words) {
  AccessList list;
  list.Whole(words.order, sizeof(StepOrder), /*write=*/false);
  list.Whole(words.reduction, sizeof(SmallReduction), /*write=*/false);
  list.Whole(words.facts, sizeof(StepFacts), /*write=*/false);
  const int64_t sets = words.settings_count;
  list.Whole(words.settings, sets * static_cast<int64_t>(sizeof(RuleSettings)), /*write=*/false);
  list.Whole(words.scalars, sizeof(UpdateScalars), /*write=*/true);
  list.Whole(words.rules, sets * static_cast<int64_t>(sizeof(RuleScalars)), /*write=*/true);
  list.Whole(words.report, sizeof(StepReport), /*write=*/true);
  return list.Take();
}

}  // namespace shardstep
