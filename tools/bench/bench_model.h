#ifndef SHARDSTEP_TOOLS_BENCH_BENCH_MODEL_H_
#define SHARDSTEP_TOOLS_BENCH_BENCH_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/shard_layout.h"

namespace shardstep {

/// The parameters of "gpt2-124m", "gpt2-355m" (names, shapes and order of OpenAI's GPT-2 of 12 and 24 layers, output
/// tied to the embedding) or "flat:<count>" (vectors of up to 2^20 elements). InvalidArgument names the model.
absl::StatusOr<std::vector<ParameterSpec>> MakeBenchModel(absl::string_view model);

/// Of all parameters, none of which is tied.
int64_t ElementCount(const std::vector<ParameterSpec>& parameters);

/// What the benchmark fills a model with: made from indices, so that whoever checks a step can make it again. Every
/// micro-batch of a rank has the same gradient, so none is written while time is taken.
float BenchMaster(int parameter, int64_t element);
Bf16 BenchGradient(int rank, int parameter, int64_t element);
/// Of every step of the benchmark.
inline constexpr double kBenchLearningRate = 1e-3;

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_BENCH_BENCH_MODEL_H_
