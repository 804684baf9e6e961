#ifndef SHARDSTEP_RUNTIME_OPTIONS_H_
#define SHARDSTEP_RUNTIME_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/adamw.h"

namespace shardstep {

namespace proto {
class Optimizer;
}  // namespace proto

enum class NonFinitePolicy { kSkip, kError, kIgnore };
enum class MissingGradientPolicy { kZero, kRefuse };

/// proto/options.proto's Optimizer, validated: what the rest of the library works with. Field by field as there.
struct OptimizerOptions {
  std::vector<AdamWOptions> groups = std::vector<AdamWOptions>(1);
  int64_t bucket_bytes = 32 << 20;
  int update_threads = 0;
  int64_t micro_steps = 1;
  NonFinitePolicy non_finite = NonFinitePolicy::kSkip;
  int64_t max_consecutive_skips = 16;
  MissingGradientPolicy missing_gradient = MissingGradientPolicy::kZero;
  bool accumulate_gradients = false;
  absl::Duration wait_deadline = absl::Seconds(60);
  int keep_checkpoints = 3;
};

/// InvalidArgument names the first bad field by its path in the text file ("group[1].beta2 = nan: ...").
absl::Status ValidateOptions(const OptimizerOptions& options);

/// Validated options of a message. Unknown fields were refused when the text was parsed.
absl::StatusOr<OptimizerOptions> OptionsFromProto(const proto::Optimizer& message);

/// One line per field, "name = value", every double exactly: what ranks compare at creation and a manifest keeps.
std::vector<std::string> DescribeOptions(const OptimizerOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_OPTIONS_H_
