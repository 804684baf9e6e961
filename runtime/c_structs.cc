#include "shardstep/runtime/c_structs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/version.h"

namespace shardstep {
namespace {

// No header's struct is as large: what is there is no size, but memory that nobody has set.
constexpr size_t kMaxStructBytes = 4096;

// Of a struct of the interface: its name, what its first field besides the size ends at, and its _INIT.
template <typename T>
struct Traits;
#define SHARDSTEP_STRUCT(type, first_field, init)                                                  \
  template <>                                                                                      \
  struct Traits<type> {                                                                            \
    static constexpr const char* kName = #type;                                                    \
    static constexpr size_t kLeastBytes = offsetof(type, first_field) + sizeof(type::first_field); \
    static type Init() { return init; }                                                            \
  }
SHARDSTEP_STRUCT(shardstep_job, meet, SHARDSTEP_JOB_INIT);
SHARDSTEP_STRUCT(shardstep_parameter, name, SHARDSTEP_PARAMETER_INIT);
SHARDSTEP_STRUCT(shardstep_memory, weights_shared_bytes, SHARDSTEP_MEMORY_INIT);
SHARDSTEP_STRUCT(shardstep_array, data, SHARDSTEP_ARRAY_INIT);
SHARDSTEP_STRUCT(shardstep_step_arguments, learning_rate, SHARDSTEP_STEP_ARGUMENTS_INIT);
SHARDSTEP_STRUCT(shardstep_step_summary, step, SHARDSTEP_STEP_SUMMARY_INIT);
SHARDSTEP_STRUCT(shardstep_counters, step, SHARDSTEP_COUNTERS_INIT);
SHARDSTEP_STRUCT(shardstep_digests, weights, SHARDSTEP_DIGESTS_INIT);
#undef SHARDSTEP_STRUCT

// `given` may be shorter than a T.
template <typename T>
size_t SizeOf(const T* given) {
  size_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  return size;
}

template <typename T>
absl::Status CheckSizeOf(const T* given) {
  const size_t size = SizeOf(given);
  if (size >= Traits<T>::kLeastBytes && size <= kMaxStructBytes && size % alignof(T) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(Traits<T>::kName, ".size = ", size, ": must be sizeof(", Traits<T>::kName, ")"));
}

// What the caller's header did not have is as in _INIT.
template <typename T>
absl::StatusOr<T> Read(const T* given) {
  SHARDSTEP_RETURN_IF_ERROR(CheckSizeOf(given));
  const size_t size = SizeOf(given);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (size > sizeof(T) && std::any_of(bytes + sizeof(T), bytes + size, [](unsigned char byte) { return byte != 0; })) {
    return absl::InvalidArgumentError(
        absl::StrCat(Traits<T>::kName, ".size = ", size, ": of a later header than this library, ", kVersion,
                     ", which does not know the fields behind byte ", sizeof(T), ", and one of them is not 0"));
  }
  T values = Traits<T>::Init();
  std::memcpy(&values, bytes, std::min(size, sizeof(T)));
  return values;
}

template <typename T>
absl::Status Write(const T& values, T* given) {
  SHARDSTEP_RETURN_IF_ERROR(CheckSizeOf(given));
  const size_t size = SizeOf(given);
  auto* bytes = reinterpret_cast<unsigned char*>(given);
  const size_t known = std::min(size, sizeof(T));
  std::memcpy(bytes + sizeof(size), reinterpret_cast<const unsigned char*>(&values) + sizeof(size),
              known - sizeof(size));
  std::fill(bytes + known, bytes + size, static_cast<unsigned char>(0));
  return absl::OkStatus();
}

absl::Status Refuse(const std::string& argument, int32_t value, absl::string_view must_be) {
  return absl::InvalidArgumentError(absl::StrCat(argument, " = ", value, ": must be ", must_be));
}

absl::StatusOr<JobMeeting> MeetingFromC(int32_t meeting) {
  switch (meeting) {
    case SHARDSTEP_MEET_ALONE:
      return JobMeeting::kAlone;
    case SHARDSTEP_MEET_TCP:
      return JobMeeting::kTcp;
    case SHARDSTEP_MEET_MPI:
      return JobMeeting::kMpi;
  }
  return Refuse("job.meet", meeting, "a shardstep_meeting");
}

absl::StatusOr<GpuTransport> TransportFromC(int32_t transport) {
  switch (transport) {
    case SHARDSTEP_TRANSPORT_NCCL:
      return GpuTransport::kNccl;
    case SHARDSTEP_TRANSPORT_NCCL_TWO_LEVELS:
      return GpuTransport::kNcclTwoLevels;
    case SHARDSTEP_TRANSPORT_NCCL_REDUCE_SCATTER:
      return GpuTransport::kNcclReduceScatter;
    case SHARDSTEP_TRANSPORT_STAGED:
      return GpuTransport::kStaged;
  }
  return Refuse("job.gpu_transport", transport, "a shardstep_transport");
}

absl::StatusOr<DType> DTypeFromC(const std::string& field, int32_t dtype) {
  if (dtype == SHARDSTEP_BF16) return DType::kBf16;
  if (dtype == SHARDSTEP_FP32) return DType::kFp32;
  return Refuse(field, dtype, "SHARDSTEP_BF16 or SHARDSTEP_FP32");
}

std::string OrEmpty(const char* text) { return text == nullptr ? "" : text; }

// `field` is how errors call it: "parameters[3]".
absl::StatusOr<ParameterSpec> SpecFromC(const std::string& field, const shardstep_parameter& parameter) {
  if (parameter.name == nullptr) return absl::InvalidArgumentError(absl::StrCat(field, ".name = NULL: is needed"));
  if (parameter.shape == nullptr && parameter.dimensions != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ".shape = NULL: has ", parameter.dimensions, " dimensions (\"", parameter.name, "\")"));
  }
  ParameterSpec spec{.name = parameter.name, .shape = {}};
  if (parameter.dimensions != 0) spec.shape.assign(parameter.shape, parameter.shape + parameter.dimensions);
  spec.group = parameter.group;
  SHARDSTEP_ASSIGN_OR_RETURN(spec.weight_dtype,
                             DTypeFromC(absl::StrCat(field, ".weight_dtype"), parameter.weight_dtype));
  SHARDSTEP_ASSIGN_OR_RETURN(spec.gradient_dtype,
                             DTypeFromC(absl::StrCat(field, ".gradient_dtype"), parameter.gradient_dtype));
  SHARDSTEP_ASSIGN_OR_RETURN(spec.frozen, FlagFromC(absl::StrCat(field, ".frozen"), parameter.frozen));
  spec.tied_to = OrEmpty(parameter.tied_to);
  spec.norm_weight = parameter.norm_weight;
  return spec;
}

}  // namespace

// ---- From C --------------------------------------------------------------------------------------------------------

absl::StatusOr<JobOptions> FromC(const shardstep_job* job) {
  SHARDSTEP_ASSIGN_OR_RETURN(const shardstep_job given, Read(job));
  JobOptions options{.id = OrEmpty(given.id), .rank = given.rank, .world_size = given.world_size};
  SHARDSTEP_ASSIGN_OR_RETURN(options.meet, MeetingFromC(given.meet));
  SHARDSTEP_ASSIGN_OR_RETURN(options.gpu_transport, TransportFromC(given.gpu_transport));
  if (given.device != nullptr) options.device = given.device;
  options.compute_stream = given.compute_stream;
  options.host_address = OrEmpty(given.host_address);
  if (!std::isfinite(given.deadline_seconds) || given.deadline_seconds < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("job.deadline_seconds = ", given.deadline_seconds, ": must be finite and at least 0"));
  }
  if (given.deadline_seconds > 0) options.deadline = absl::Seconds(given.deadline_seconds);
  return options;
}

absl::StatusOr<std::vector<ParameterSpec>> FromC(const shardstep_parameter* parameters, size_t count) {
  if (parameters == nullptr && count != 0) {
    return absl::InvalidArgumentError(absl::StrCat("parameters = NULL: of ", count));
  }
  std::vector<ParameterSpec> specs;
  const auto* bytes = reinterpret_cast<const unsigned char*>(parameters);
  for (size_t i = 0; i < count; ++i) {
    // One follows another by the size that the caller's header gave them.
    const auto* place = reinterpret_cast<const shardstep_parameter*>(bytes + i * SizeOf(parameters));
    const std::string field = absl::StrCat("parameters[", i, "]");
    const absl::StatusOr<shardstep_parameter> parameter = Read(place);
    if (!parameter.ok()) return Annotate(parameter.status(), field);
    if (SizeOf(place) != SizeOf(parameters)) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ".size = ", SizeOf(place), ": that of parameters[0] is ", SizeOf(parameters)));
    }
    SHARDSTEP_ASSIGN_OR_RETURN(specs.emplace_back(), SpecFromC(field, *parameter));
  }
  return specs;
}

absl::StatusOr<StepArguments> FromC(const shardstep_step_arguments* arguments) {
  SHARDSTEP_ASSIGN_OR_RETURN(const shardstep_step_arguments given, Read(arguments));
  const auto unless_zero = [](double value) { return value == 0 ? std::nullopt : std::make_optional(value); };
  return StepArguments{.learning_rate = given.learning_rate,
                       .micro_batches = given.micro_batches,
                       .divisor = unless_zero(given.divisor),
                       .max_norm = unless_zero(given.max_norm)};
}

absl::StatusOr<StepCounters> FromC(const shardstep_counters* counters) {
  SHARDSTEP_ASSIGN_OR_RETURN(const shardstep_counters given, Read(counters));
  return StepCounters{.step = given.step,
                      .applied_steps = given.applied_steps,
                      .skipped_steps = given.skipped_steps,
                      .consecutive_skips = given.consecutive_skips};
}

absl::StatusOr<const ParameterSpec*> ParameterFromC(const ShardLayout& layout, int32_t p) {
  if (p >= 0 && p < layout.parameter_count()) return &layout.parameter(p);
  return absl::InvalidArgumentError(absl::StrCat("p = ", p, ": must be in [0, ", layout.parameter_count(), ")"));
}

absl::StatusOr<bool> FlagFromC(const std::string& argument, int32_t value) {
  if (value != 0 && value != 1) return Refuse(argument, value, "0 or 1");
  return value == 1;
}

absl::StatusOr<StateKind> StateKindFromC(int32_t state) {
  switch (state) {
    case SHARDSTEP_MASTER:
      return StateKind::kMaster;
    case SHARDSTEP_FIRST_MOMENT:
      return StateKind::kFirstMoment;
    case SHARDSTEP_SECOND_MOMENT:
      return StateKind::kSecondMoment;
  }
  return Refuse("state", state, "a shardstep_state");
}

absl::StatusOr<std::vector<std::string>> NamesFromC(const char* argument, const char* const* names, size_t count) {
  if (names == nullptr && count != 0) return absl::InvalidArgumentError(absl::StrCat(argument, " = NULL: of ", count));
  std::vector<std::string> copies;
  for (size_t i = 0; i < count; ++i) {
    if (names[i] == nullptr) return absl::InvalidArgumentError(absl::StrCat(argument, "[", i, "] = NULL: is needed"));
    copies.emplace_back(names[i]);
  }
  return copies;
}

// ---- To C ----------------------------------------------------------------------------------------------------------

absl::Status ToC(const MemoryEstimate& estimate, shardstep_memory* memory) {
  return Write({.size = 0,
                .weights_shared_bytes = estimate.weights_shared_bytes,
                .weights_private_bytes = estimate.weights_private_bytes,
                .gradient_bytes = estimate.gradient_bytes,
                .local_sum_bytes = estimate.local_sum_bytes,
                .master_bytes = estimate.master_bytes,
                .state_bytes = estimate.state_bytes,
                .accumulator_bytes = estimate.accumulator_bytes,
                .transit_bytes = estimate.transit_bytes},
               memory);
}

absl::Status ToC(void* data, int64_t elements, DType dtype, shardstep_array* array) {
  return Write(
      {.size = 0, .data = data, .elements = elements, .dtype = dtype == DType::kFp32 ? SHARDSTEP_FP32 : SHARDSTEP_BF16},
      array);
}

absl::Status ToC(const StepRecord& record, const char* why_skipped, shardstep_step_summary* summary) {
  return Write({.size = 0,
                .step = record.step,
                .applied_steps = record.applied_steps,
                .applied = record.applied ? 1 : 0,
                .has_gradient_norm = record.gradient_norm ? 1 : 0,
                .gradient_norm = record.gradient_norm.value_or(0),
                .clip_factor = record.clip_factor,
                .step_ns = record.step_ns,
                .exposed_ns = record.exposed_ns,
                .why_skipped = why_skipped},
               summary);
}

absl::Status ToC(const StepCounters& values, shardstep_counters* counters) {
  return Write({.size = 0,
                .step = values.step,
                .applied_steps = values.applied_steps,
                .skipped_steps = values.skipped_steps,
                .consecutive_skips = values.consecutive_skips},
               counters);
}

absl::Status ToC(const OptimizerDigests& values, shardstep_digests* digests) {
  shardstep_digests texts = SHARDSTEP_DIGESTS_INIT;
  const auto put = [](const Digest& digest, char(&text)[33]) {
    const std::string hex = digest.ToHex();
    std::copy_n(hex.begin(), std::min(hex.size(), sizeof(text) - 1), text);
  };
  put(values.weights, texts.weights);
  put(values.master, texts.master);
  put(values.first_moment, texts.first_moment);
  put(values.second_moment, texts.second_moment);
  return Write(texts, digests);
}

absl::Status CheckSize(const shardstep_digests* digests) { return CheckSizeOf(digests); }

}  // namespace shardstep
