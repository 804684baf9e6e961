#include "shardstep/runtime/options.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/proto/options.pb.h"

namespace shardstep {
namespace {

constexpr int64_t kMaxGroups = 1024;
constexpr int64_t kMaxBucketBytes = int64_t{1} << 40;
constexpr int64_t kMaxUpdateThreads = 1024;
constexpr double kMaxDeadlineSeconds = 30 * 86400;

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

std::string GroupField(size_t group, absl::string_view field) { return absl::StrCat("group[", group, "].", field); }

absl::Status ValidateGroup(size_t group, const AdamWOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(RequireDecayRate(GroupField(group, "beta1"), options.beta1));
  SHARDSTEP_RETURN_IF_ERROR(RequireDecayRate(GroupField(group, "beta2"), options.beta2));
  SHARDSTEP_RETURN_IF_ERROR(
      Require(options.epsilon <= std::numeric_limits<float>::max() && static_cast<float>(options.epsilon) > 0.0f,
              GroupField(group, "epsilon"), options.epsilon, "positive and finite in fp32"));
  SHARDSTEP_RETURN_IF_ERROR(RequireFactor(GroupField(group, "weight_decay"), options.weight_decay));
  return RequireFactor(GroupField(group, "learning_rate_factor"), options.learning_rate_factor);
}

absl::StatusOr<proto::NonFinite> ToMessage(NonFinitePolicy policy) {
  switch (policy) {
    case NonFinitePolicy::kSkip:
      return proto::SKIP;
    case NonFinitePolicy::kError:
      return proto::ERROR;
    case NonFinitePolicy::kIgnore:
      return proto::IGNORE;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("non_finite = ", static_cast<int>(policy), ": must be SKIP, ERROR or IGNORE"));
}

absl::StatusOr<NonFinitePolicy> FromMessage(proto::NonFinite policy) {
  switch (policy) {
    case proto::SKIP:
      return NonFinitePolicy::kSkip;
    case proto::ERROR:
      return NonFinitePolicy::kError;
    case proto::IGNORE:
      return NonFinitePolicy::kIgnore;
    case proto::NON_FINITE_UNSPECIFIED:
      break;
  }
  return absl::InvalidArgumentError("non_finite = NON_FINITE_UNSPECIFIED: must be SKIP, ERROR or IGNORE");
}

absl::StatusOr<proto::MissingGradient> ToMessage(MissingGradientPolicy policy) {
  switch (policy) {
    case MissingGradientPolicy::kZero:
      return proto::ZERO;
    case MissingGradientPolicy::kRefuse:
      return proto::REFUSE;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("missing_gradient = ", static_cast<int>(policy), ": must be ZERO or REFUSE"));
}

absl::StatusOr<MissingGradientPolicy> FromMessage(proto::MissingGradient policy) {
  switch (policy) {
    case proto::ZERO:
      return MissingGradientPolicy::kZero;
    case proto::REFUSE:
      return MissingGradientPolicy::kRefuse;
    case proto::MISSING_GRADIENT_UNSPECIFIED:
      break;
  }
  return absl::InvalidArgumentError("missing_gradient = MISSING_GRADIENT_UNSPECIFIED: must be ZERO or REFUSE");
}

AdamWOptions FromMessage(const proto::AdamW& message) {
  return {.beta1 = message.beta1(),
          .beta2 = message.beta2(),
          .epsilon = message.epsilon(),
          .weight_decay = message.weight_decay(),
          .learning_rate_factor = message.learning_rate_factor()};
}

}  // namespace

absl::Status ValidateOptions(const OptimizerOptions& options) {
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("number of groups", options.groups.size(), 1, kMaxGroups));
  for (size_t group = 0; group < options.groups.size(); ++group) {
    SHARDSTEP_RETURN_IF_ERROR(ValidateGroup(group, options.groups[group]));
  }
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("bucket_bytes", options.bucket_bytes, 1, kMaxBucketBytes));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("update_threads", options.update_threads, 0, kMaxUpdateThreads));
  SHARDSTEP_RETURN_IF_ERROR(RequireRange("micro_steps", options.micro_steps, 1, kMaxMicroBatches));
  SHARDSTEP_RETURN_IF_ERROR(ToMessage(options.non_finite).status());
  SHARDSTEP_RETURN_IF_ERROR(
      RequireRange("max_consecutive_skips", options.max_consecutive_skips, 1, std::numeric_limits<int64_t>::max()));
  SHARDSTEP_RETURN_IF_ERROR(ToMessage(options.missing_gradient).status());
  SHARDSTEP_RETURN_IF_ERROR(RequireDeadline(absl::ToDoubleSeconds(options.wait_deadline)));
  return RequireRange("keep_checkpoints", options.keep_checkpoints, 1, std::numeric_limits<int32_t>::max());
}

absl::StatusOr<OptimizerOptions> OptionsFromProto(const proto::Optimizer& message) {
  OptimizerOptions options;
  if (message.group_size() > 0) options.groups.clear();
  for (const proto::AdamW& group : message.group()) options.groups.push_back(FromMessage(group));
  options.bucket_bytes = message.bucket_bytes();
  options.update_threads = message.update_threads();
  options.micro_steps = message.micro_steps();
  SHARDSTEP_ASSIGN_OR_RETURN(options.non_finite, FromMessage(message.non_finite()));
  options.max_consecutive_skips = message.max_consecutive_skips();
  SHARDSTEP_ASSIGN_OR_RETURN(options.missing_gradient, FromMessage(message.missing_gradient()));
  options.accumulate_gradients = message.accumulate_gradients();
  // Before it becomes a Duration, which reads NaN as infinite.
  SHARDSTEP_RETURN_IF_ERROR(RequireDeadline(message.wait_deadline_seconds()));
  options.wait_deadline = absl::Seconds(message.wait_deadline_seconds());
  options.keep_checkpoints = message.keep_checkpoints();
  SHARDSTEP_RETURN_IF_ERROR(ValidateOptions(options));
  return options;
}

std::vector<std::string> DescribeOptions(const OptimizerOptions& options) {
  std::vector<std::string> lines;
  const auto add = [&lines](absl::string_view field, const std::string& value) {
    lines.push_back(absl::StrCat(field, " = ", value));
  };
  for (size_t group = 0; group < options.groups.size(); ++group) {
    const AdamWOptions& adamw = options.groups[group];
    add(GroupField(group, "beta1"), Exactly(adamw.beta1));
    add(GroupField(group, "beta2"), Exactly(adamw.beta2));
    add(GroupField(group, "epsilon"), Exactly(adamw.epsilon));
    add(GroupField(group, "weight_decay"), Exactly(adamw.weight_decay));
    add(GroupField(group, "learning_rate_factor"), Exactly(adamw.learning_rate_factor));
  }
  const absl::StatusOr<proto::NonFinite> non_finite = ToMessage(options.non_finite);
  const absl::StatusOr<proto::MissingGradient> missing_gradient = ToMessage(options.missing_gradient);
  add("bucket_bytes", Exactly(options.bucket_bytes));
  add("update_threads", Exactly(int64_t{options.update_threads}));
  add("micro_steps", Exactly(options.micro_steps));
  add("non_finite", non_finite.ok() ? proto::NonFinite_Name(*non_finite) : "?");
  add("max_consecutive_skips", Exactly(options.max_consecutive_skips));
  add("missing_gradient", missing_gradient.ok() ? proto::MissingGradient_Name(*missing_gradient) : "?");
  add("accumulate_gradients", options.accumulate_gradients ? "true" : "false");
  add("wait_deadline_seconds", Exactly(absl::ToDoubleSeconds(options.wait_deadline)));
  add("keep_checkpoints", Exactly(int64_t{options.keep_checkpoints}));
  return lines;
}

}  // namespace shardstep
