#ifndef SHARDSTEP_RUNTIME_OPTIONS_H_
#define SHARDSTEP_RUNTIME_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/update_rule.h"

namespace shardstep {

namespace proto {
class Optimizer;
}  // namespace proto

enum class WeightCopies { kShared, kPrivate };
enum class Accumulation { kSharded, kLocal };
enum class HostSum { kExact, kRounded };
enum class NonFinitePolicy { kSkip, kError, kIgnore };
enum class MissingGradientPolicy { kZero, kRefuse };

/// proto/options.proto's Optimizer, validated: what the rest of the library works with. Field by field as there.
struct OptimizerOptions {
  std::vector<GroupOptions> groups = std::vector<GroupOptions>(1);
  int64_t bucket_bytes = 32 << 20;
  int update_threads = 0;
  int64_t micro_steps = 1;
  NonFinitePolicy non_finite = NonFinitePolicy::kSkip;
  int64_t max_consecutive_skips = 16;
  MissingGradientPolicy missing_gradient = MissingGradientPolicy::kZero;
  bool accumulate_gradients = false;
  absl::Duration wait_deadline = absl::Seconds(60);
  int keep_checkpoints = 3;
  WeightCopies weights = WeightCopies::kShared;
  Accumulation accumulation = Accumulation::kSharded;
  int64_t sum_group = 1;
  HostSum host_sum = HostSum::kExact;
  uint64_t rounding_seed = 1;
  int64_t max_message_bytes = int64_t{256} << 20;
  bool parameter_norms = false;
};

/// InvalidArgument names the first bad field by its path in the text file ("group[1].beta2 = nan: ...").
absl::Status ValidateOptions(const OptimizerOptions& options);

/// As many as there may be, those that are added later included.
inline constexpr int64_t kMaxGroups = 1024;

/// InvalidArgument names the bad field, as of group number `group`.
absl::Status ValidateGroup(size_t group, const GroupOptions& options);

/// Validated options of a message. Unknown fields were refused when the text was parsed.
absl::StatusOr<OptimizerOptions> OptionsFromProto(const proto::Optimizer& message);

/// The modes that trade bits for bytes or memory, by name; empty: the contract's bits.
std::vector<std::string> InexactModes(const OptimizerOptions& options);

/// "lion.beta1 = 0.9, ...": every field of a group.
std::string DescribeGroup(const GroupOptions& options);

/// One line per field, "name = value", every double exactly: what ranks compare at creation and a manifest keeps.
std::vector<std::string> DescribeOptions(const OptimizerOptions& options);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_OPTIONS_H_
