// What shardstep_train is judged by: the same model, data and schedule, without ranks, buckets, streams or kernels. One
// process computes every micro-batch of a step, and the unsharded scalar reference updates the weights. Takes
// shardstep_train's flags and prints its digest line.
#include <algorithm>
#include <iostream>
#include <memory>
#include <vector>

#include "shardstep/tools/reference/reference_group.h"
#include "shardstep/tools/train/corpus.h"
#include "shardstep/tools/train/learning_rate.h"
#include "shardstep/tools/train/model.h"
#include "shardstep/tools/train/train_options.h"

namespace shardstep {
namespace {

shardstep_reference::Model InitialModel(const TrainOptions& options, const std::vector<ParameterSpec>& parameters) {
  shardstep_reference::Model reference;
  for (size_t p = 0; p < parameters.size(); ++p) {
    int64_t elements = 1;
    for (const int64_t extent : parameters[p].shape) elements *= extent;
    std::vector<float> master(elements);
    FillInitial(options.model, options.seed, static_cast<int>(p), 0, absl::MakeSpan(master));
    reference.Add(ReferenceGroup(options.optimizer.groups[parameters[p].group]), std::move(master));
  }
  return reference;
}

std::vector<uint8_t> Windows(const TrainOptions& options, const Corpus& corpus, int64_t step, int64_t micro_batch) {
  std::vector<uint8_t> windows;
  for (int64_t i = 0; i < options.sequences; ++i) {
    const auto window =
        corpus.TrainingWindow({.seed = options.seed, .step = step, .micro_batch = micro_batch, .sequence = i});
    windows.insert(windows.end(), window.begin(), window.end());
  }
  return windows;
}

absl::Status Train(const TrainOptions& options) {
  SHARDSTEP_ASSIGN_OR_RETURN(const Corpus corpus, Corpus::Open(options.data_path, options.model.context));
  SHARDSTEP_RETURN_IF_ERROR(SetComputeThreads(options.compute_threads));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Model<Bf16>> model,
                             Model<Bf16>::Create(options.model, options.sequences, FastestMatmulRoute()));
  const std::vector<ParameterSpec> parameters = ModelParameters(options.model);
  shardstep_reference::Model reference = InitialModel(options, parameters);
  std::vector<shardstep_reference::MicroBatch> gradients(options.micro_batches);
  std::vector<const shardstep_reference::MicroBatch*> micro_batches;
  for (auto& micro_batch : gradients) {
    for (const auto& parameter : reference.parameters()) micro_batch.emplace_back(parameter.master.size());
    micro_batches.push_back(&micro_batch);
  }
  for (int64_t step = 1; step <= options.steps(); ++step) {
    for (int64_t j = 0; j < options.micro_batches; ++j) {
      ParameterHooks<Bf16> hooks;
      hooks.weights = [&](int p) {
        const std::vector<uint16_t>& weights = reference.parameters()[p].weights;
        return absl::MakeConstSpan(reinterpret_cast<const Bf16*>(weights.data()), weights.size());
      };
      hooks.gradient = [&](int p) {
        return absl::MakeSpan(reinterpret_cast<Bf16*>(gradients[j][p].data()), gradients[j][p].size());
      };
      SHARDSTEP_RETURN_IF_ERROR(model->Gradients(Windows(options, corpus, step, j), hooks).status());
      if (options.poison_step == step && j == 0) gradients[0][0][0] = 0x7fc0;
    }
    reference.Step(micro_batches, {.learning_rate = LearningRate(options.learning_rate, step),
                                   .divisor = static_cast<double>(options.micro_batches),
                                   .max_norm = options.max_norm,
                                   .sum_group = options.optimizer.sum_group,
                                   .rounding_seed = options.optimizer.rounding_seed});
  }
  const shardstep_reference::Digests digests = reference.Digest();
  std::cout << "digest weights=" << digests.weights << " master=" << digests.master << " state=" << digests.first_moment
            << digests.second_moment << " step=" << options.steps() << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  const auto command_line = shardstep::ParseCommandLine({argv + 1, static_cast<size_t>(argc - 1)});
  absl::Status status = command_line.status();
  if (status.ok()) {
    const auto options = shardstep::ReadTrainOptions(*command_line);
    status = options.ok() ? shardstep::Train(*options) : options.status();
  }
  if (!status.ok()) std::cerr << "reference_trainer: " << status << std::endl;
  return status.ok() ? 0 : 1;
}
