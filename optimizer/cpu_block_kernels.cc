// Compiled once per Highway target; see hwy/foreach_target.h. Vectors of unknown size (SVE, RVV) cannot be members of
// the structs used here, and those CPUs have a target with fixed size too.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "shardstep/optimizer/cpu_block_kernels.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>  // must precede highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "shardstep/optimizer/cpu_block_kernels.h"
#include "shardstep/optimizer/master_weights.h"
#include "shardstep/optimizer/nonfinite_search.h"
#include "shardstep/optimizer/philox.h"
#include "shardstep/optimizer/sum_schedule.h"

HWY_BEFORE_NAMESPACE();
namespace shardstep {
namespace HWY_NAMESPACE {

#undef SHARDSTEP_FORMULA
#define SHARDSTEP_FORMULA HWY_INLINE
#include "shardstep/optimizer/cpu_vectors-inl.h"
#include "shardstep/optimizer/update_element-inl.h"
// The formulas find it, and the vectors' operators.
#include "shardstep/optimizer/adamw_formula-inl.h"
#include "shardstep/optimizer/lion_formula-inl.h"
#include "shardstep/optimizer/sgd_formula-inl.h"
// In the order in which they need each other.
#include "shardstep/optimizer/cpu_bytes-inl.h"
#include "shardstep/optimizer/cpu_gradients-inl.h"
#include "shardstep/optimizer/cpu_reduce-inl.h"
// The parts of an update.
#include "shardstep/optimizer/cpu_random-inl.h"
#include "shardstep/optimizer/cpu_rules-inl.h"
#include "shardstep/optimizer/cpu_weights-inl.h"
// Together.
#include "shardstep/optimizer/cpu_update-inl.h"

CpuBlockKernels BlockKernels() {
  return {.target = hwy::TargetName(HWY_TARGET),
          .supported = (hwy::SupportedTargets() & HWY_TARGET) != 0,
          .reduce = &ReduceRun,
          .update = &UpdateRun,
          .copy = &CopyBytes,
          .zero = &ZeroBytes};
}

}  // namespace HWY_NAMESPACE
}  // namespace shardstep
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shardstep {
namespace {
HWY_EXPORT(BlockKernels);
}  // namespace

std::vector<CpuBlockKernels> AllCpuBlockKernels() {
  // Highway's table lists every possible target, best first, behind an entry that chooses one; those that were not
  // compiled are null.
  std::vector<CpuBlockKernels> all;
  const auto& table = HWY_DISPATCH_TABLE(BlockKernels);
  for (size_t i = std::size(table) > 1 ? 1 : 0; i < std::size(table); ++i) {
    if (table[i] != nullptr) all.push_back(table[i]());
  }
  return all;
}

}  // namespace shardstep
#endif  // HWY_ONCE
