#ifndef SHARDSTEP_TOOLS_GPU_CHECK_DECISION_CASE_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_DECISION_CASE_H_

#include <string>

#include "shardstep/tools/gpu_check/kernel_target.h"

namespace shardstep::gpu_check {

/// Decision number `index` >= 0: clipped or not, not finite, refused, beyond fp32 once scaled, of all rules, joint.
DecisionCase DecisionOf(int64_t index, uint64_t seed);
/// Empty, or the first word of what is written that differs.
std::string Difference(const DecisionCase& a, const DecisionCase& b);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_DECISION_CASE_H_
