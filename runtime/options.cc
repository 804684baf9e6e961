#include "shardstep/runtime/options.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>
#include <variant>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/proto/options.pb.h"

namespace shardstep {
namespace {

constexpr int64_t kMaxBucketBytes = int64_t{1} << 40;
constexpr int64_t kMaxUpdateThreads = 1024;
constexpr double kMaxDeadlineSeconds = 30 * 86400;
constexpr int64_t kMinMessageBytes = 4096;
constexpr int64_t kMaxMessageBytes = int64_t{1} << 40;

/// The shortest decimal that reads back as the same double.
std::string Exactly(double value) {
  char text[32];
  const auto result = std::to_chars(text, text + sizeof(text), value);
  return std::string(text, result.ptr);
}
std::string Exactly(int64_t value) { return absl::StrCat(value); }

template <typename T>
absl::Status Require(bool good, absl::string_view field, T value, absl::string_view rule) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " = ", Exactly(value), ": must be ", rule));
}

absl::Status RequireRange(absl::string_view field, int64_t value, int64_t smallest, int64_t largest) {
  return Require(value >= smallest && value <= largest, field, value, absl::StrCat("from ", smallest, " to ", largest));
}

absl::Status RequireFactor(absl::string_view field, double value) {
  return Require(value >= 0 && value <= std::numeric_limits<float>::max(), field, value,
                 "finite in fp32 and not negative");
}

absl::Status RequireDecayRate(absl::string_view field, double value) {
  // 1 after rounding would never forget a gradient, and a second moment that only grows ends in inf.
  return Require(value >= 0 && value < 1 && static_cast<float>(value) < 1.0f, field, value,
                 "in [0, 1), also when rounded to fp32");
}

absl::Status RequireDeadline(double seconds) {
  return Require(seconds > 0 && seconds <= kMaxDeadlineSeconds, "wait_deadline_seconds", seconds,
                 absl::StrCat("positive and at most ", kMaxDeadlineSeconds));
}

// Settings that are good each for itself and contradict each other.
absl::Status ValidateCombinations(const OptimizerOptions& options) {
  const bool local = options.accumulation == Accumulation::kLocal;
  if (local && options.sum_group > 1) {
    return absl::InvalidArgumentError(absl::StrCat("sum_group = ", options.sum_group,
                                                   ": not with accumulation LOCAL, which has its own order of sums"));
  }
  if (local && options.host_sum == HostSum::kRounded) {
    return absl::InvalidArgumentError("host_sum = ROUNDED: not with accumulation LOCAL, whose sums are fp32");
  }
  if (options.host_sum == HostSum::kRounded && options.sum_group > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sum_group = ", options.sum_group, ": not with host_sum ROUNDED, which sums whole hosts"));
  }
  if (options.parameter_norms && options.non_finite == NonFinitePolicy::kIgnore) {
    return absl::InvalidArgumentError("parameter_norms = true: not with non_finite IGNORE, which looks at no norm");
  }
  return absl::OkStatus();
}

/// `status` with `path` before its message: the field of a group.
absl::Status Prefix(const absl::Status& status, absl::string_view path) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, status.message()));
}

// The words of an enumeration and of its message, in one place for both directions and the refusal.
template <typename Value, typename Message>
struct EnumTable {
  absl::string_view field;
  absl::string_view words;
  std::array<std::pair<Value, Message>, 3> rows;
  int count;
  const std::string& (*name)(Message);

  absl::StatusOr<Value> FromMessage(Message message) const {
    for (int i = 0; i < count; ++i) {
      if (rows[i].second == message) return rows[i].first;
    }
    return absl::InvalidArgumentError(absl::StrCat(field, " = ", name(message), ": must be ", words));
  }
  absl::Status Validate(Value value) const {
    for (int i = 0; i < count; ++i) {
      if (rows[i].first == value) return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(field, " = ", static_cast<int>(value), ": must be ", words));
  }
  std::string Word(Value value) const {
    for (int i = 0; i < count; ++i) {
      if (rows[i].first == value) return name(rows[i].second);
    }
    return "?";
  }
};

constexpr EnumTable<NonFinitePolicy, proto::NonFinite> kNonFinite{"non_finite",
                                                                  "SKIP, ERROR or IGNORE",
                                                                  {{{NonFinitePolicy::kSkip, proto::SKIP},
                                                                    {NonFinitePolicy::kError, proto::ERROR},
                                                                    {NonFinitePolicy::kIgnore, proto::IGNORE}}},
                                                                  3,
                                                                  &proto::NonFinite_Name};
constexpr EnumTable<MissingGradientPolicy, proto::MissingGradient> kMissingGradient{
    "missing_gradient",
    "ZERO or REFUSE",
    {{{MissingGradientPolicy::kZero, proto::ZERO}, {MissingGradientPolicy::kRefuse, proto::REFUSE}}},
    2,
    &proto::MissingGradient_Name};
constexpr EnumTable<WeightCopies, proto::Weights> kWeights{
    "weights",
    "SHARED or PRIVATE",
    {{{WeightCopies::kShared, proto::SHARED}, {WeightCopies::kPrivate, proto::PRIVATE}}},
    2,
    &proto::Weights_Name};
constexpr EnumTable<Accumulation, proto::Accumulation> kAccumulation{
    "accumulation",
    "SHARDED or LOCAL",
    {{{Accumulation::kSharded, proto::SHARDED}, {Accumulation::kLocal, proto::LOCAL}}},
    2,
    &proto::Accumulation_Name};
constexpr EnumTable<HostSum, proto::HostSum> kHostSum{
    "host_sum",
    "EXACT or ROUNDED",
    {{{HostSum::kExact, proto::EXACT}, {HostSum::kRounded, proto::ROUNDED}}},
    2,
    &proto::HostSum_Name};
constexpr EnumTable<Master, proto::Master> kMaster{
    "master",
    "FP32, SPLIT or NONE",
    {{{Master::kFp32, proto::FP32}, {Master::kSplit, proto::SPLIT}, {Master::kNone, proto::NONE}}},
    3,
    &proto::Master_Name};
constexpr EnumTable<Rounding, proto::Rounding> kRounding{
    "rounding",
    "NEAREST or STOCHASTIC",
    {{{Rounding::kNearest, proto::NEAREST}, {Rounding::kStochastic, proto::STOCHASTIC}}},
    2,
    &proto::Rounding_Name};

// ---- Groups --------------------------------------------------------------------------------------------------------

std::string GroupField(size_t group, absl::string_view field) { return absl::StrCat("group[", group, "].", field); }

absl::Status ValidateRule(size_t group, const AdamWOptions& o) {
  SHARDSTEP_RETURN_IF_ERROR(RequireDecayRate(GroupField(group, "adamw.beta1"), o.beta1));
  SHARDSTEP_RETURN_IF_ERROR(RequireDecayRate(GroupField(group, "adamw.beta2"), o.beta2));
  SHARDSTEP_RETURN_IF_ERROR(
      Require(o.epsilon <= std::numeric_limits<float>::max() && static_cast<float>(o.epsilon) > 0.0f,
              GroupField(group, "adamw.epsilon"), o.epsilon, "positive and finite in fp32"));
  SHARDSTEP_RETURN_IF_ERROR(RequireFactor(GroupField(group, "adamw.weight_decay"), o.weight_decay));
  return RequireFactor(GroupField(group, "adamw.learning_rate_factor"), o.learning_rate_factor);
}

absl::Status ValidateRule(size_t group, const SgdOptions& o) {
  SHARDSTEP_RETURN_IF_ERROR(RequireDecayRate(GroupField(group, "sgd.momentum"), o.momentum));
  if (o.nesterov && o.momentum == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(GroupField(group, "sgd.nesterov"), " = true: needs a positive momentum"));
  }
  SHARDSTEP_RETURN_IF_ERROR(RequireFactor(GroupField(group, "sgd.weight_decay"), o.weight_decay));
  return RequireFactor(GroupField(group, "sgd.learning_rate_factor"), o.learning_rate_factor);
}

absl::Status ValidateRule(size_t group, const LionOptions& o) {
  SHARDSTEP_RETURN_IF_ERROR(RequireDecayRate(GroupField(group, "lion.beta1"), o.beta1));
  SHARDSTEP_RETURN_IF_ERROR(RequireDecayRate(GroupField(group, "lion.beta2"), o.beta2));
  SHARDSTEP_RETURN_IF_ERROR(RequireFactor(GroupField(group, "lion.weight_decay"), o.weight_decay));
  return RequireFactor(GroupField(group, "lion.learning_rate_factor"), o.learning_rate_factor);
}

std::variant<AdamWOptions, SgdOptions, LionOptions> RuleFromMessage(const proto::Group& message) {
  if (message.has_sgd()) {
    const proto::Sgd& sgd = message.sgd();
    return SgdOptions{.momentum = sgd.momentum(),
                      .nesterov = sgd.nesterov(),
                      .weight_decay = sgd.weight_decay(),
                      .learning_rate_factor = sgd.learning_rate_factor()};
  }
  if (message.has_lion()) {
    const proto::Lion& lion = message.lion();
    return LionOptions{.beta1 = lion.beta1(),
                       .beta2 = lion.beta2(),
                       .weight_decay = lion.weight_decay(),
                       .learning_rate_factor = lion.learning_rate_factor()};
  }
  const proto::AdamW& adamw = message.adamw();
  return AdamWOptions{.beta1 = adamw.beta1(),
                      .beta2 = adamw.beta2(),
                      .epsilon = adamw.epsilon(),
                      .weight_decay = adamw.weight_decay(),
                      .learning_rate_factor = adamw.learning_rate_factor()};
}

absl::StatusOr<GroupOptions> GroupFromMessage(size_t group, const proto::Group& message) {
  GroupOptions options{.rule = RuleFromMessage(message)};
  const absl::StatusOr<Master> master = kMaster.FromMessage(message.master());
  if (!master.ok()) return Prefix(master.status(), GroupField(group, ""));
  const absl::StatusOr<Rounding> rounding = kRounding.FromMessage(message.rounding());
  if (!rounding.ok()) return Prefix(rounding.status(), GroupField(group, ""));
  options.master = *master;
  options.rounding = *rounding;
  return options;
}

using AddLine = absl::FunctionRef<void(absl::string_view field, const std::string& value)>;

void DescribeRule(const AdamWOptions& o, AddLine add) {
  add("adamw.beta1", Exactly(o.beta1));
  add("adamw.beta2", Exactly(o.beta2));
  add("adamw.epsilon", Exactly(o.epsilon));
  add("adamw.weight_decay", Exactly(o.weight_decay));
  add("adamw.learning_rate_factor", Exactly(o.learning_rate_factor));
}

void DescribeRule(const SgdOptions& o, AddLine add) {
  add("sgd.momentum", Exactly(o.momentum));
  add("sgd.nesterov", o.nesterov ? "true" : "false");
  add("sgd.weight_decay", Exactly(o.weight_decay));
  add("sgd.learning_rate_factor", Exactly(o.learning_rate_factor));
}

void DescribeRule(const LionOptions& o, AddLine add) {
  add("lion.beta1", Exactly(o.beta1));
  add("lion.beta2", Exactly(o.beta2));
  add("lion.weight_decay", Exactly(o.weight_decay));
  add("lion.learning_rate_factor", Exactly(o.learning_rate_factor));
}

void DescribeFields(const GroupOptions& options, AddLine add) {
  std::visit([&](const auto& rule) { DescribeRule(rule, add); }, options.rule);
  add("master", kMaster.Word(options.master));
  add("rounding", kRounding.Word(options.rounding));
}

}  // namespace

std::vector<std::string> InexactModes(const OptimizerOptions& options) {
  std::vector<std::string> modes;
  if (options.accumulation == Accumulation::kLocal) modes.push_back("accumulation: LOCAL");
  if (options.host_sum == HostSum::kRounded) modes.push_back("host_sum: ROUNDED");
  return modes;
}

absl::Status ValidateGroup(size_t group, const GroupOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(std::visit([&](const auto& rule) { return ValidateRule(group, rule); }, options.rule));
  SHARDSTEP_RETURN_IF_ERROR(Prefix(kMaster.Validate(options.master), GroupField(group, "")));
  SHARDSTEP_RETURN_IF_ERROR(Prefix(kRounding.Validate(options.rounding), GroupField(group, "")));
  if (options.rounding == Rounding::kNearest || options.master == Master::kNone) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(GroupField(group, "rounding"), " = STOCHASTIC: only where master is NONE"));
}

absl::Status ValidateOptions(const OptimizerOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("number of groups", options.groups.size(), 1, kMaxGroups));
  for (size_t group = 0; group < options.groups.size(); ++group) {
    SHARDSTEP_RETURN_IF_ERROR(ValidateGroup(group, options.groups[group]));
  }
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("bucket_bytes", options.bucket_bytes, 1, kMaxBucketBytes));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("update_threads", options.update_threads, 0, kMaxUpdateThreads));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("micro_steps", options.micro_steps, 1, kMaxMicroBatches));
  SHARDSTEP_RETURN_IF_ERROR(kNonFinite.Validate(options.non_finite));
  SHARDSTEP_RETURN_IF_ERROR(
      RequireRange("max_consecutive_skips", options.max_consecutive_skips, 1, std::numeric_limits<int64_t>::max()));
  SHARDSTEP_RETURN_IF_ERROR(kMissingGradient.Validate(options.missing_gradient));
  SHARDSTEP_RETURN_IF_ERROR(RequireDeadline(absl::ToDoubleSeconds(options.wait_deadline)));
  SHARDSTEP_RETURN_IF_ERROR(
      RequireRange("keep_checkpoints", options.keep_checkpoints, 1, std::numeric_limits<int32_t>::max()));
  SHARDSTEP_RETURN_IF_ERROR(kWeights.Validate(options.weights));
  SHARDSTEP_RETURN_IF_ERROR(kAccumulation.Validate(options.accumulation));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("sum_group", options.sum_group, 1, kMaxMicroBatches));
  SHARDSTEP_RETURN_IF_ERROR(kHostSum.Validate(options.host_sum));
  SHARDSTEP_RETURN_IF_ERROR(
      RequireRange("max_message_bytes", options.max_message_bytes, kMinMessageBytes, kMaxMessageBytes));
  return ValidateCombinations(options);
}

absl::StatusOr<OptimizerOptions> OptionsFromProto(const proto::Optimizer& message) {
  OptimizerOptions options;
  if (message.group_size() > 0) options.groups.clear();
  for (const proto::Group& message_group : message.group()) {
    SHARDSTEP_ASSIGN_OR_RETURN(GroupOptions group, GroupFromMessage(options.groups.size(), message_group));
    options.groups.push_back(std::move(group));
  }
  options.bucket_bytes = message.bucket_bytes();
  options.update_threads = message.update_threads();
  options.micro_steps = message.micro_steps();
  SHARDSTEP_ASSIGN_OR_RETURN(options.non_finite, kNonFinite.FromMessage(message.non_finite()));
  options.max_consecutive_skips = message.max_consecutive_skips();
  SHARDSTEP_ASSIGN_OR_RETURN(options.missing_gradient, kMissingGradient.FromMessage(message.missing_gradient()));
  options.accumulate_gradients = message.accumulate_gradients();
  // Before it becomes a Duration, which reads NaN as infinite.
  SHARDSTEP_RETURN_IF_ERROR(RequireDeadline(message.wait_deadline_seconds()));
  options.wait_deadline = absl::Seconds(message.wait_deadline_seconds());
  options.keep_checkpoints = message.keep_checkpoints();
  SHARDSTEP_ASSIGN_OR_RETURN(options.weights, kWeights.FromMessage(message.weights()));
  SHARDSTEP_ASSIGN_OR_RETURN(options.accumulation, kAccumulation.FromMessage(message.accumulation()));
  options.sum_group = message.sum_group();
  SHARDSTEP_ASSIGN_OR_RETURN(options.host_sum, kHostSum.FromMessage(message.host_sum()));
  options.rounding_seed = message.rounding_seed();
  options.max_message_bytes = message.max_message_bytes();
  options.parameter_norms = message.parameter_norms();
  SHARDSTEP_RETURN_IF_ERROR(ValidateOptions(options));
  return options;
}

std::string DescribeGroup(const GroupOptions& options) {
  std::vector<std::string> fields;
  DescribeFields(options, [&](absl::string_view field, const std::string& value) {
    fields.push_back(absl::StrCat(field, " = ", value));
  });
  return absl::StrJoin(fields, ", ");
}

std::vector<std::string> DescribeOptions(const OptimizerOptions& options) {
  std::vector<std::string> lines;
  const auto add = [&lines](absl::string_view field, const std::string& value) {
    lines.push_back(absl::StrCat(field, " = ", value));
  };
  for (size_t group = 0; group < options.groups.size(); ++group) {
    DescribeFields(options.groups[group],
                   [&](absl::string_view field, const std::string& value) { add(GroupField(group, field), value); });
  }
  add("bucket_bytes", Exactly(options.bucket_bytes));
  add("update_threads", Exactly(int64_t{options.update_threads}));
  add("micro_steps", Exactly(options.micro_steps));
  add("non_finite", kNonFinite.Word(options.non_finite));
  add("max_consecutive_skips", Exactly(options.max_consecutive_skips));
  add("missing_gradient", kMissingGradient.Word(options.missing_gradient));
  add("accumulate_gradients", options.accumulate_gradients ? "true" : "false");
  add("wait_deadline_seconds", Exactly(absl::ToDoubleSeconds(options.wait_deadline)));
  add("keep_checkpoints", Exactly(int64_t{options.keep_checkpoints}));
  add("weights", kWeights.Word(options.weights));
  add("accumulation", kAccumulation.Word(options.accumulation));
  add("sum_group", Exactly(options.sum_group));
  add("host_sum", kHostSum.Word(options.host_sum));
  add("rounding_seed", absl::StrCat(options.rounding_seed));
  add("max_message_bytes", Exactly(options.max_message_bytes));
  add("parameter_norms", options.parameter_norms ? "true" : "false");
  return lines;
}

}  // namespace shardstep
