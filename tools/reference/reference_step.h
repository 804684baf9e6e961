#ifndef SHARDSTEP_TOOLS_REFERENCE_REFERENCE_STEP_H_
#define SHARDSTEP_TOOLS_REFERENCE_REFERENCE_STEP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// The whole optimizer step as docs/numerics.md states it, unsharded, one scalar loop after the other, sharing no code
/// with the library (it includes none of its headers and is compiled apart): what every sharded step is judged by.
namespace shardstep_reference {

enum class Rule { kAdamW, kSgd, kLion };
/// What is kept of a weight between steps.
enum class Kept { kFp32, kSplit, kNearest, kStochastic };

struct Group {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01, learning_rate_factor = 1.0;
  Rule rule = Rule::kAdamW;
  double momentum = 0;
  bool nesterov = false;
  Kept kept = Kept::kFp32;
};

/// One parameter, all of it. bf16 values are raw bits. Where no master is kept, `master` is the weights as fp32.
/// Moments that a rule has not got are empty.
struct Parameter {
  Group group;
  std::vector<float> master, first_moment, second_moment;
  std::vector<uint16_t> weights;
};

struct StepArguments {
  double learning_rate = 0;
  double divisor = 1;
  std::optional<double> max_norm;
  int64_t sum_group = 1;
  bool round_groups = false;  ///< to bf16: hosts of as many ranks as a group has send their sums so (`host_sum`)
  uint64_t rounding_seed = 1;
};

struct StepResult {
  bool applied = false;
  double norm = 0;
  double clip = 1;
};

/// 128-bit sum of hashes, as 32 hexadecimal digits.
struct Digests {
  std::string weights, master, first_moment, second_moment;
};

/// The gradients of one micro-batch, [parameter][element], bf16 bits.
using MicroBatch = std::vector<std::vector<uint16_t>>;

class Model {
 public:
  /// Zero moments; weights rounded from `master`.
  void Add(const Group& group, std::vector<float> master);
  /// Micro-batches in order; the same one may stand at several places. A step with a non-finite sum changes nothing.
  StepResult Step(const std::vector<const MicroBatch*>& micro_batches, const StepArguments& arguments);
  /// Other settings of parameter p from the next step on; rule and what is kept stay.
  void SetGroup(int p, const Group& group) { parameters_[p].group = group; }
  Digests Digest() const;
  const std::vector<Parameter>& parameters() const { return parameters_; }

 private:
  std::vector<Parameter> parameters_;
  int64_t applied_steps_ = 0;
};

float FromBf16(uint16_t bits);
uint16_t ToBf16(float value);

}  // namespace shardstep_reference

#endif  // SHARDSTEP_TOOLS_REFERENCE_REFERENCE_STEP_H_
