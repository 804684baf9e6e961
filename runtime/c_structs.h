#ifndef SHARDSTEP_RUNTIME_C_STRUCTS_H_
#define SHARDSTEP_RUNTIME_C_STRUCTS_H_

/// Structs of the C interface to those of C++ and back. Callers may have been compiled with an earlier or a later
/// header than this one, so nothing else looks into a struct of theirs. InvalidArgument names the field, or the struct
/// whose size is none that it ever had, or that has something behind its end as known here which is not 0.
///
/// How a struct may grow: a new field stands behind all others, 0 is its default, and it does not begin in what was
/// padding at the end, which an earlier caller leaves undefined.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "shardstep/comm/dtype.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/job.h"
#include "shardstep/runtime/memory_estimate.h"
#include "shardstep/runtime/optimizer_digests.h"
#include "shardstep/runtime/shardstep.h"
#include "shardstep/runtime/state_kind.h"
#include "shardstep/runtime/step_arguments.h"
#include "shardstep/runtime/step_counters.h"
#include "shardstep/runtime/step_record.h"

namespace shardstep {

absl::StatusOr<JobOptions> FromC(const shardstep_job* job);
absl::StatusOr<std::vector<ParameterSpec>> FromC(const shardstep_parameter* parameters, size_t count);
absl::StatusOr<StepArguments> FromC(const shardstep_step_arguments* arguments);
absl::StatusOr<StepCounters> FromC(const shardstep_counters* counters);

absl::Status ToC(const MemoryEstimate& estimate, shardstep_memory* memory);
absl::Status ToC(void* data, int64_t elements, DType dtype, shardstep_array* array);
/// `why_skipped`: text of the caller's, or nullptr.
absl::Status ToC(const StepRecord& record, const char* why_skipped, shardstep_step_summary* summary);
absl::Status ToC(const StepCounters& values, shardstep_counters* counters);
absl::Status ToC(const OptimizerDigests& values, shardstep_digests* digests);
/// What the last one refuses, beforehand.
absl::Status CheckSize(const shardstep_digests* digests);

/// Arguments that are no structs. `argument` is what errors name; `p` a parameter of `layout`.
absl::StatusOr<const ParameterSpec*> ParameterFromC(const ShardLayout& layout, int32_t p);
absl::StatusOr<bool> FlagFromC(const std::string& argument, int32_t value);
absl::StatusOr<StateKind> StateKindFromC(int32_t state);
absl::StatusOr<std::vector<std::string>> NamesFromC(const char* argument, const char* const* names, size_t count);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_C_STRUCTS_H_
