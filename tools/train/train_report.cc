#include "shardstep/tools/train/train_report.h"

#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shardstep/proto/train.pb.h"

namespace shardstep {

TrainReport::TrainReport(const TrainOptions& options, std::ostream& out, int terminal_columns)
    : options_(options), out_(out), progress_(std::make_unique<ProgressLine>(out, terminal_columns)) {}

absl::Status TrainReport::Open() {
  if (options_.plot_prefix.has_value()) {
    SHARDSTEP_ASSIGN_OR_RETURN(plot_, TrainingPlot::Create(*options_.plot_prefix));
  }
  if (!options_.records_path.has_value()) return absl::OkStatus();
  records_.open(*options_.records_path, options_.resume ? std::ios::app : std::ios::trunc);
  if (records_) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("cannot write ", *options_.records_path));
}

absl::Status TrainReport::Begin(int64_t after_step) {
  after_step_ = after_step;
  begin_ = std::chrono::steady_clock::now();
  return plot_ == nullptr ? absl::OkStatus() : plot_->Begin(after_step);
}

absl::Status TrainReport::Step(const TrainedStep& step) {
  Show(step);
  if (plot_ != nullptr) SHARDSTEP_RETURN_IF_ERROR(plot_->AddStep(step));
  return records_.is_open() ? Record(step) : absl::OkStatus();
}

void TrainReport::Show(const TrainedStep& step) {
  const StepRecord& record = step.record;
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
  const double seconds_per_step = passed.count() / static_cast<double>(record.step - after_step_);
  progress_->Show({.step = record.step,
                   .steps = options_.steps(),
                   .bits_per_byte = step.bits_per_byte,
                   .gradient_norm = record.gradient_norm,
                   .clip_factor = record.clip_factor,
                   .applied = record.applied,
                   .tokens_per_second = step.tokens_per_second,
                   .forward_ms = step.forward_ms,
                   .backward_ms = step.backward_ms,
                   .exposed_step_ms = static_cast<double>(record.exposed_ns) * 1e-6,
                   .eta_seconds = seconds_per_step * static_cast<double>(options_.steps() - record.step)});
  if (record.applied) return;
  progress_->Print(absl::StrFormat("step %d skipped, the %d. in a row and %d in all: %s", record.step,
                                   record.consecutive_skips, record.skipped_steps, WhatWasNotFinite(record)));
}

absl::Status TrainReport::Record(const TrainedStep& step) {
  proto::TrainRecord message;
  ToProto(step.record, message.mutable_step());
  message.set_bits_per_byte(step.bits_per_byte);
  message.set_tokens_per_second(step.tokens_per_second);
  message.set_forward_ms(step.forward_ms);
  message.set_backward_ms(step.backward_ms);
  std::string json;
  google::protobuf::util::JsonPrintOptions print;
  print.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(message, &json, print).ok()) {
    return absl::InternalError("a step record does not convert to JSON");
  }
  records_ << json << '\n' << std::flush;
  if (records_) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat("cannot write ", *options_.records_path));
}

absl::Status TrainReport::HeldOut(int64_t step, double bits_per_byte) {
  progress_->Print(absl::StrFormat("held-out bits per byte: %.4f", bits_per_byte));
  return plot_ == nullptr ? absl::OkStatus() : plot_->AddHeldOut(step, bits_per_byte);
}

void TrainReport::Tell(absl::string_view line) { progress_->Print(line); }

absl::Status TrainReport::End(int64_t step, const OptimizerDigests& digests) {
  // The digest line comes last, and also when drawing fails.
  const absl::Status drawn = plot_ == nullptr ? absl::OkStatus() : plot_->Draw();
  progress_.reset();
  out_ << "digest weights=" << digests.weights.ToHex() << " master=" << digests.master.ToHex()
       << " state=" << digests.first_moment.ToHex() << digests.second_moment.ToHex() << " step=" << step << std::endl;
  return drawn;
}

}  // namespace shardstep
