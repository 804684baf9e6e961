// The C interface: weights and gradients, the step, groups.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/proto/record.pb.h"
#include "shardstep/runtime/c_interface.h"
#include "shardstep/runtime/c_structs.h"
#include "shardstep/runtime/options_text.h"

namespace shardstep {
namespace {

// The one of both that is there.
absl::Status ArrayToC(absl::Span<const Bf16> bf16, absl::Span<const float> fp32, DType dtype, shardstep_array* array) {
  if (dtype == DType::kFp32) {
    return ToC(const_cast<float*>(fp32.data()), static_cast<int64_t>(fp32.size()), dtype, array);
  }
  return ToC(const_cast<Bf16*>(bf16.data()), static_cast<int64_t>(bf16.size()), dtype, array);
}

absl::StatusOr<BufferView> BufferFromC(void* data, size_t bytes) {
  if (data == nullptr && bytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("data = NULL: of ", bytes, " bytes"));
  }
  return BufferView{static_cast<std::byte*>(data), static_cast<int64_t>(bytes)};
}

absl::Status FinishStepToC(shardstep_optimizer* handle, const void** record, size_t* bytes) {
  SHARDSTEP_ASSIGN_OR_RETURN(handle->record, handle->optimizer->FinishStep());
  handle->why_skipped = handle->record->applied ? "" : WhatWasNotFinite(*handle->record);
  proto::StepRecord message;
  ToProto(*handle->record, &message);
  handle->record_bytes = message.SerializeAsString();
  if (record != nullptr) *record = handle->record_bytes.data();
  if (bytes != nullptr) *bytes = handle->record_bytes.size();
  return absl::OkStatus();
}

absl::StatusOr<GroupOptions> GroupFromC(const char* group_options) {
  return GroupFromText(group_options == nullptr ? "" : group_options);
}

}  // namespace
}  // namespace shardstep

using namespace shardstep;  // NOLINT: the functions below are its own, with C linkage

// ---- Weights and gradients -----------------------------------------------------------------------------------------

shardstep_code shardstep_weights(const shardstep_optimizer* optimizer, int32_t p, shardstep_array* array) {
  return Guard(__func__, optimizer, {{"array", array}}, [=]() -> absl::Status {
    const ShardedOptimizer& sharded = *optimizer->optimizer;
    SHARDSTEP_ASSIGN_OR_RETURN(const ParameterSpec* const parameter, ParameterFromC(sharded.layout(), p));
    return ArrayToC(sharded.weights(p), sharded.fp32_weights(p), parameter->weight_dtype, array);
  });
}

shardstep_code shardstep_gradient(shardstep_optimizer* optimizer, int32_t p, shardstep_array* array) {
  return Guard(__func__, optimizer, {{"array", array}}, [=]() -> absl::Status {
    ShardedOptimizer& sharded = *optimizer->optimizer;
    SHARDSTEP_ASSIGN_OR_RETURN(const ParameterSpec* const parameter, ParameterFromC(sharded.layout(), p));
    return ArrayToC(sharded.gradient(p), sharded.fp32_gradient(p), parameter->gradient_dtype, array);
  });
}

shardstep_code shardstep_bind_gradient(shardstep_optimizer* optimizer, int32_t p, void* data, size_t bytes) {
  return Guard(__func__, optimizer, {}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const BufferView buffer, BufferFromC(data, bytes));
    return optimizer->optimizer->BindGradient(p, buffer);
  });
}

shardstep_code shardstep_bind_weights(shardstep_optimizer* optimizer, int32_t p, void* data, size_t bytes) {
  return Guard(__func__, optimizer, {}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const BufferView buffer, BufferFromC(data, bytes));
    return optimizer->optimizer->BindWeights(p, buffer);
  });
}

// ---- The step ------------------------------------------------------------------------------------------------------

shardstep_code shardstep_weights_ready(shardstep_optimizer* optimizer, int32_t p) {
  return Guard(__func__, optimizer, {}, [=] { return optimizer->optimizer->WeightsReady(p); });
}

shardstep_code shardstep_gradient_writable(shardstep_optimizer* optimizer, int32_t p) {
  return Guard(__func__, optimizer, {}, [=] { return optimizer->optimizer->GradientWritable(p); });
}

shardstep_code shardstep_gradient_ready(shardstep_optimizer* optimizer, int32_t p) {
  return Guard(__func__, optimizer, {}, [=] { return optimizer->optimizer->GradientReady(p); });
}

shardstep_code shardstep_end_micro_step(shardstep_optimizer* optimizer) {
  return Guard(__func__, optimizer, {}, [=] { return optimizer->optimizer->EndMicroStep(); });
}

shardstep_code shardstep_set_micro_steps(shardstep_optimizer* optimizer, int64_t micro_steps) {
  return Guard(__func__, optimizer, {}, [=] { return optimizer->optimizer->SetMicroSteps(micro_steps); });
}

shardstep_code shardstep_step(shardstep_optimizer* optimizer, const shardstep_step_arguments* arguments) {
  return Guard(__func__, optimizer, {{"arguments", arguments}}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const StepArguments given, FromC(arguments));
    return optimizer->optimizer->Step(given);
  });
}

shardstep_code shardstep_finish_step(shardstep_optimizer* optimizer, const void** record, size_t* bytes) {
  return Guard(__func__, optimizer, {}, [=] { return FinishStepToC(optimizer, record, bytes); });
}

shardstep_code shardstep_summarize_step(const shardstep_optimizer* optimizer, shardstep_step_summary* summary) {
  return Guard(__func__, optimizer, {{"summary", summary}}, [=] {
    if (!optimizer->record) return absl::FailedPreconditionError("shardstep_summarize_step: no step was finished yet");
    return ToC(*optimizer->record, optimizer->record->applied ? nullptr : optimizer->why_skipped.c_str(), summary);
  });
}

shardstep_code shardstep_begin_capture(shardstep_optimizer* optimizer) {
  return Guard(__func__, optimizer, {}, [=] { return optimizer->optimizer->BeginCapture(); });
}

shardstep_code shardstep_end_capture(shardstep_optimizer* optimizer) {
  return Guard(__func__, optimizer, {}, [=] { return optimizer->optimizer->EndCapture(); });
}

shardstep_code shardstep_replay(shardstep_optimizer* optimizer, const shardstep_step_arguments* arguments) {
  return Guard(__func__, optimizer, {{"arguments", arguments}}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const StepArguments given, FromC(arguments));
    return optimizer->optimizer->Replay(given);
  });
}

// ---- Groups --------------------------------------------------------------------------------------------------------

shardstep_code shardstep_set_group(shardstep_optimizer* optimizer, int32_t group, const char* group_options) {
  return Guard(__func__, optimizer, {}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const GroupOptions options, GroupFromC(group_options));
    return optimizer->optimizer->SetGroup(group, options);
  });
}

shardstep_code shardstep_add_group(shardstep_optimizer* optimizer, const char* group_options,
                                   const char* const* parameters, size_t count, int32_t* group) {
  return Guard(__func__, optimizer, {{"group", group}}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const GroupOptions options, GroupFromC(group_options));
    SHARDSTEP_ASSIGN_OR_RETURN(const auto names, NamesFromC("parameters", parameters, count));
    SHARDSTEP_ASSIGN_OR_RETURN(*group, optimizer->optimizer->AddGroup(options, names));
    return absl::OkStatus();
  });
}

shardstep_code shardstep_set_frozen(shardstep_optimizer* optimizer, const char* const* parameters, size_t count,
                                    int32_t frozen) {
  return Guard(__func__, optimizer, {}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const auto names, NamesFromC("parameters", parameters, count));
    SHARDSTEP_ASSIGN_OR_RETURN(const bool freeze, FlagFromC("frozen", frozen));
    return optimizer->optimizer->SetFrozen(names, freeze);
  });
}
