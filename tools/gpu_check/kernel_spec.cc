#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shardstep/tools/gpu_check/kernel_case.h"

namespace shardstep::gpu_check {
namespace {

struct Update {
  UpdateKind kind;
  DType weight_dtype = DType::kBf16;
};

std::vector<Update> AllUpdates() {
  std::vector<Update> updates;
  for (const auto& [rule, momentum] : {std::pair(Rule::kAdamW, true), std::pair(Rule::kSgd, false),
                                       std::pair(Rule::kSgd, true), std::pair(Rule::kLion, true)}) {
    const auto add = [&, rule = rule, momentum = momentum](Master master, Rounding rounding, DType dtype) {
      updates.push_back({.kind = {.rule = rule, .master = master, .rounding = rounding, .momentum = momentum},
                         .weight_dtype = dtype});
    };
    add(Master::kFp32, Rounding::kNearest, DType::kBf16);
    add(Master::kSplit, Rounding::kNearest, DType::kBf16);
    add(Master::kNone, Rounding::kNearest, DType::kBf16);
    add(Master::kNone, Rounding::kStochastic, DType::kBf16);
    add(Master::kFp32, Rounding::kNearest, DType::kFp32);
  }
  return updates;
}

// Gradients of one dtype, or of both; some of them sums that somebody else formed.
std::vector<Slice> SlicesOf(int64_t index, int64_t dtypes) {
  std::vector<Slice> slices;
  const int count = static_cast<int>(index * 7 % 10);
  const bool partial = index % 5 == 3;
  int rank = 0;
  for (int i = 0; i < count; ++i) {
    const bool fp32 = dtypes == 2 ? i % 2 == 1 : dtypes == 1;
    const int ranks = partial && i % 3 == 2 ? 2 : 1;
    slices.push_back({.dtype = fp32 ? DType::kFp32 : DType::kBf16,
                      .rank = rank,
                      .ranks = ranks,
                      .partial = ranks > 1 || (partial && i % 3 == 1)});
    rank += ranks;
  }
  return slices;
}

// Small ones of awkward lengths, then one with all the rest.
std::vector<int64_t> SizesOf(int64_t index, int64_t elements) {
  std::vector<int64_t> sizes;
  for (const int64_t size : {int64_t{1}, 1024 + index % 5, int64_t{77}, 3000 + index % 1024}) {
    if (size >= elements) break;
    sizes.push_back(size);
    elements -= size;
  }
  sizes.push_back(elements);
  return sizes;
}

absl::string_view Name(Values values) {
  switch (values) {
    case Values::kPlain:
      return "plain";
    case Values::kWide:
      return "wide";
    case Values::kAny:
      break;
  }
  return "any";
}

}  // namespace

CaseSpec SpecOf(int64_t index, int64_t elements, uint64_t seed) {
  static const std::vector<Update> kUpdates = AllUpdates();
  const auto updates = static_cast<int64_t>(kUpdates.size());
  const Update& update = kUpdates[static_cast<size_t>(index % updates)];
  static constexpr int64_t kGroups[] = {1, 1, 2, 3};
  return {.sizes = SizesOf(index, elements),
          .kind = update.kind,
          .weight_dtype = update.weight_dtype,
          .nesterov = index / updates % 2 == 1,
          .values = static_cast<Values>(index / updates % 3),
          .slices = SlicesOf(index, index / updates / 3 % 3),
          .accumulators = static_cast<Accumulators>(index / 3 % 4),
          .sum_group = kGroups[index / 7 % 4],
          .first_micro_batch = index % 11,
          .closes = index % 4 != 1,
          .rounds = index % 6 == 2,
          .misalignment_elements = index % 13 == 5 ? 1 : 0,
          .global_begin_element = index % 2 == 0 ? index * 1000003 : (int64_t{1} << 35) - 1000 + index,
          .seed = seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(index)};
}

std::string Describe(const CaseSpec& spec) {
  int64_t elements = 0;
  for (const int64_t size : spec.sizes) elements += size;
  return absl::StrCat(Name(spec.kind.rule), spec.kind.momentum ? "" : " without momentum", ", master ",
                      Name(spec.kind.master), ", rounding ", Name(spec.kind.rounding), ", weights ",
                      Name(spec.weight_dtype), ", ", spec.slices.size(), " slices, groups of ", spec.sum_group,
                      ", accumulators ", static_cast<int>(spec.accumulators), ", values ", Name(spec.values), ", ",
                      elements, " elements, seed ", spec.seed);
}

}  // namespace shardstep::gpu_check
