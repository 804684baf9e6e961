#include "shardstep/runtime/step_record.h"

#include "absl/strings/str_cat.h"
#include "shardstep/proto/record.pb.h"

namespace shardstep {

std::string WhatWasNotFinite(const StepRecord& record) {
  if (!record.non_finite) return "the scaled gradients overflow";
  const NonFinitePlace& place = *record.non_finite;
  return absl::StrCat(place.sum_overflow ? "the sum overflows at" : "non-finite gradient at", " micro-batch ",
                      place.micro_batch, " (rank ", place.rank, "), parameter \"", place.parameter, "\"",
                      place.optimizer.empty() ? "" : absl::StrCat(" of \"", place.optimizer, "\""), ", element ",
                      place.element);
}

void ToProto(const StepRecord& record, proto::StepRecord* message) {
  message->Clear();
  message->set_step(record.step);
  message->set_applied_steps(record.applied_steps);
  message->set_applied(record.applied);
  message->set_consecutive_skips(record.consecutive_skips);
  message->set_skipped_steps(record.skipped_steps);
  message->set_micro_steps(record.micro_steps);
  message->set_micro_batches(record.micro_batches);
  message->set_learning_rate(record.learning_rate);
  if (record.gradient_norm.has_value()) message->set_gradient_norm(*record.gradient_norm);
  message->set_clip_factor(record.clip_factor);
  if (record.non_finite.has_value()) {
    proto::NonFinitePlace& place = *message->mutable_non_finite();
    place.set_micro_batch(record.non_finite->micro_batch);
    place.set_rank(record.non_finite->rank);
    place.set_parameter(record.non_finite->parameter);
    if (!record.non_finite->optimizer.empty()) place.set_optimizer(record.non_finite->optimizer);
    place.set_element(record.non_finite->element);
    place.set_sum_overflow(record.non_finite->sum_overflow);
  }
  message->set_scale_overflow(record.scale_overflow);
  message->set_step_ns(record.step_ns);
  message->set_exposed_ns(record.exposed_ns);
  for (const std::string& mode : record.inexact_modes) message->add_inexact_mode(mode);
  for (const std::string& buffer : record.copied_buffers) message->add_copied_buffer(buffer);
  for (const double norm : record.parameter_norms) message->add_parameter_norm(norm);
}

}  // namespace shardstep
