#ifndef SHARDSTEP_RUNTIME_STEP_RECORD_H_
#define SHARDSTEP_RUNTIME_STEP_RECORD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shardstep {

namespace proto {
class StepRecord;
}  // namespace proto

/// The first inf or NaN of a step, ordered by micro-batch, parameter, element.
struct NonFinitePlace {
  int64_t micro_batch = 0;
  int rank = 0;  ///< where several optimizers decide together, of the ranks of all of them
  std::string parameter;
  std::string optimizer;  ///< whose parameter it is, where several decide together (joint_decision.h)
  int64_t element = 0;
  bool sum_overflow = false;  ///< every slice was finite, their sum was not
};

/// What one step did; identical on every rank but for the times. proto/record.proto says what each field means.
struct StepRecord {
  int64_t step = 0;
  int64_t applied_steps = 0;
  bool applied = false;
  int64_t consecutive_skips = 0;
  int64_t skipped_steps = 0;
  int64_t micro_steps = 0;
  int64_t micro_batches = 0;
  double learning_rate = 0;
  std::optional<double> gradient_norm;
  double clip_factor = 1;
  std::optional<NonFinitePlace> non_finite;
  bool scale_overflow = false;
  int64_t step_ns = 0;
  int64_t exposed_ns = 0;
  std::vector<std::string> inexact_modes;
  std::vector<std::string> copied_buffers;
  std::vector<double> parameter_norms;
};

/// Of a step that was skipped: "non-finite gradient at micro-batch 7 (rank 1), parameter "head", element 12".
std::string WhatWasNotFinite(const StepRecord& record);

void ToProto(const StepRecord& record, proto::StepRecord* message);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STEP_RECORD_H_
