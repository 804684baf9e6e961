// The C interface: the model as a whole, between steps.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/runtime/c_interface.h"
#include "shardstep/runtime/c_structs.h"

namespace shardstep {
namespace {

absl::Status CheckElements(const char* argument, const void* values, int64_t elements) {
  if (elements < 0) return absl::InvalidArgumentError(absl::StrCat(argument, " = ", elements, ": must be at least 0"));
  if (values == nullptr && elements != 0) {
    return absl::InvalidArgumentError(absl::StrCat("values = NULL: of ", elements, " elements"));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Span<const T> SpanOf(const void* values, int64_t elements) {
  return absl::MakeConstSpan(static_cast<const T*>(values), static_cast<size_t>(elements));
}

absl::Status SetWeightsFromC(ShardedOptimizer& optimizer, const char* parameter, const void* values, int64_t elements) {
  SHARDSTEP_RETURN_IF_ERROR(CheckElements("elements", values, elements));
  const int p = optimizer.layout().FindParameter(parameter);
  // One that is not there is refused on all ranks.
  const bool fp32 = p >= 0 && optimizer.layout().parameter(p).weight_dtype == DType::kFp32;
  return fp32 ? optimizer.SetWeights(parameter, SpanOf<float>(values, elements))
              : optimizer.SetWeights(parameter, SpanOf<Bf16>(values, elements));
}

absl::Status ReadStateToC(ShardedOptimizer& optimizer, const char* parameter, int32_t state, float* values,
                          int64_t room, int64_t* elements) {
  SHARDSTEP_RETURN_IF_ERROR(CheckElements("room", values, room));
  SHARDSTEP_ASSIGN_OR_RETURN(const StateKind kind, StateKindFromC(state));
  const int p = optimizer.layout().FindParameter(parameter);
  if (p >= 0 && room < optimizer.layout().elements(p)) {
    return absl::InvalidArgumentError(
        absl::StrCat("room = ", room, ": \"", parameter, "\" has ", optimizer.layout().elements(p), " elements"));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<float> read, optimizer.ReadState(parameter, kind));
  std::copy(read.begin(), read.end(), values);
  *elements = static_cast<int64_t>(read.size());
  return absl::OkStatus();
}

absl::Status LoadToC(shardstep_optimizer* handle, const char* directory, const void** caller_state, size_t* bytes,
                     const char** warnings) {
  std::vector<std::string> lines;
  absl::StatusOr<std::string> loaded = handle->optimizer->Load(directory, &lines);
  handle->warnings = absl::StrJoin(lines, "\n");
  if (warnings != nullptr) *warnings = handle->warnings.c_str();
  if (!loaded.ok()) return loaded.status();
  handle->caller_state = *std::move(loaded);
  if (caller_state != nullptr) *caller_state = handle->caller_state.data();
  if (bytes != nullptr) *bytes = handle->caller_state.size();
  return absl::OkStatus();
}

}  // namespace
}  // namespace shardstep

using namespace shardstep;  // NOLINT: the functions below are its own, with C linkage

shardstep_code shardstep_initialize(shardstep_optimizer* optimizer, shardstep_fill fill, void* context) {
  return Guard(__func__, optimizer, {{"fill", fill}}, [=] {
    return optimizer->optimizer->Initialize([=](int p, int64_t begin, absl::Span<float> values) {
      fill(context, p, begin, values.data(), static_cast<int64_t>(values.size()));
    });
  });
}

shardstep_code shardstep_set_weights(shardstep_optimizer* optimizer, const char* parameter, const void* values,
                                     int64_t elements) {
  return Guard(__func__, optimizer, {{"parameter", parameter}},
               [=] { return SetWeightsFromC(*optimizer->optimizer, parameter, values, elements); });
}

shardstep_code shardstep_read_state(shardstep_optimizer* optimizer, const char* parameter, int32_t state, float* values,
                                    int64_t room, int64_t* elements) {
  return Guard(__func__, optimizer, {{"parameter", parameter}, {"elements", elements}},
               [=] { return ReadStateToC(*optimizer->optimizer, parameter, state, values, room, elements); });
}

shardstep_code shardstep_set_state(shardstep_optimizer* optimizer, const char* parameter, int32_t state,
                                   const float* values, int64_t elements) {
  return Guard(__func__, optimizer, {{"parameter", parameter}}, [=]() -> absl::Status {
    SHARDSTEP_RETURN_IF_ERROR(CheckElements("elements", values, elements));
    SHARDSTEP_ASSIGN_OR_RETURN(const StateKind kind, StateKindFromC(state));
    return optimizer->optimizer->SetState(parameter, kind, SpanOf<float>(values, elements));
  });
}

shardstep_code shardstep_read_counters(const shardstep_optimizer* optimizer, shardstep_counters* counters) {
  return Guard(__func__, optimizer, {{"counters", counters}},
               [=] { return ToC(optimizer->optimizer->counters(), counters); });
}

shardstep_code shardstep_read_begin_applied_step(const shardstep_optimizer* optimizer, int32_t p,
                                                 int64_t* begin_applied_step) {
  return Guard(__func__, optimizer, {{"begin_applied_step", begin_applied_step}}, [=]() -> absl::Status {
    SHARDSTEP_RETURN_IF_ERROR(ParameterFromC(optimizer->optimizer->layout(), p).status());
    *begin_applied_step = optimizer->optimizer->begin_applied_step(p);
    return absl::OkStatus();
  });
}

shardstep_code shardstep_set_counters(shardstep_optimizer* optimizer, const shardstep_counters* counters,
                                      const int64_t* begin_applied_steps, size_t count) {
  return Guard(__func__, optimizer, {{"counters", counters}}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const StepCounters values, FromC(counters));
    if (begin_applied_steps == nullptr && count != 0) {
      return absl::InvalidArgumentError(absl::StrCat("begin_applied_steps = NULL: of ", count));
    }
    return optimizer->optimizer->SetCounters(values, absl::MakeConstSpan(begin_applied_steps, count));
  });
}

shardstep_code shardstep_compute_digests(shardstep_optimizer* optimizer, shardstep_digests* digests) {
  return Guard(__func__, optimizer, {{"digests", digests}}, [=]() -> absl::Status {
    SHARDSTEP_RETURN_IF_ERROR(CheckSize(digests));
    SHARDSTEP_ASSIGN_OR_RETURN(const OptimizerDigests values, optimizer->optimizer->Digests());
    return ToC(values, digests);
  });
}

shardstep_code shardstep_agree(shardstep_optimizer* optimizer, const char* what, const char* error) {
  return Guard(__func__, optimizer, {{"what", what}}, [=] {
    const bool failed = error != nullptr && *error != '\0';
    return optimizer->optimizer->Agree(what, failed ? absl::InvalidArgumentError(error) : absl::OkStatus());
  });
}

shardstep_code shardstep_save(shardstep_optimizer* optimizer, const char* directory, const void* caller_state,
                              size_t bytes) {
  return Guard(__func__, optimizer, {{"directory", directory}}, [=] {
    if (caller_state == nullptr && bytes != 0) {
      return absl::InvalidArgumentError(absl::StrCat("caller_state = NULL: of ", bytes, " bytes"));
    }
    return optimizer->optimizer->Save(directory, absl::string_view(static_cast<const char*>(caller_state), bytes));
  });
}

shardstep_code shardstep_load(shardstep_optimizer* optimizer, const char* directory, const void** caller_state,
                              size_t* bytes, const char** warnings) {
  return Guard(__func__, optimizer, {{"directory", directory}},
               [=] { return LoadToC(optimizer, directory, caller_state, bytes, warnings); });
}
