#ifndef SHARDSTEP_PYTHON_NATIVE_PYTHON_OPTIMIZER_H_
#define SHARDSTEP_PYTHON_NATIVE_PYTHON_OPTIMIZER_H_

#include <nanobind/nanobind.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "arrays.h"
#include "shardstep/runtime/job.h"
#include "shardstep/runtime/sharded_optimizer.h"

namespace shardstep {

/// A ShardedOptimizer with the job that it is in, and with what of Python it keeps. Methods throw StatusError, or
/// Python's own errors; those that may wait give up the interpreter lock meanwhile.
class PythonOptimizer {
 public:
  /// Collective.
  PythonOptimizer(const JobOptions& job, std::vector<ParameterSpec> parameters, const std::string& options);
  ~PythonOptimizer();

  /// FailedPrecondition once it is closed, Aborted once `fill` has failed.
  ShardedOptimizer& optimizer() const;
  /// Ends the job inside a step, and drops the optimizer, whose memory stays as long as arrays of it do.
  void Close();
  /// Of a call that is a part of a step: throws what it returned, or this rank is inside a step from now on.
  void EnterStep(const absl::Status& returned);
  void LeaveStep() { inside_step_ = false; }

  int64_t BeginAppliedStep(int p) const;
  OutArray Weights(int p, bool as_bits) const;
  OutArray Gradient(int p, bool as_bits) const;
  /// Copies from the host's `address`, where p's gradient lies as in gradient(p), past the caches. InvalidArgument
  /// unless `size_bytes` is its size.
  void CopyGradient(int p, uintptr_t address, int64_t size_bytes) const;
  void BindWeights(int p, nanobind::object array);
  void BindGradient(int p, nanobind::object array);
  /// An error of `fill` ends the job, and is thrown.
  void Initialize(const nanobind::callable& fill);
  void SetWeights(const std::string& parameter, const ReadArray& values);
  void SetState(const std::string& parameter, StateKind kind, const ReadArray& values);
  /// Waits for the weights of all parameters.
  void AllWeightsReady() const;
  /// Collective over the ranks of all `optimizers`, which `job` describes (joint_decision.h). names[i] is that of
  /// optimizers[i].
  static void JoinDecisions(const JobOptions& job, const std::vector<PythonOptimizer*>& optimizers,
                            const std::vector<std::string>& names);

 private:
  struct InJob;  // the job, and the optimizer in it

  const ParameterSpec& Parameter(int p) const;
  OutArray View(int p, DType dtype, const void* bf16, const void* fp32, bool as_bits) const;
  using BindCall = absl::Status (ShardedOptimizer::*)(int p, BufferView buffer);
  void Bind(BindCall call, const char* what, int p, DType dtype, nanobind::object array,
            std::map<int, nanobind::object> InJob::*kept);

  // Destroys it if nobody else has it. With the interpreter lock, which is given up meanwhile.
  static void LetGo(std::shared_ptr<InJob> in_job);

  std::shared_ptr<InJob> in_job_;  // also of arrays; nullptr: closed
  bool inside_step_ = false;
  absl::Status broken_;  // the model is not whole
};

}  // namespace shardstep

#endif  // SHARDSTEP_PYTHON_NATIVE_PYTHON_OPTIMIZER_H_
