#include "shardstep/tools/precision/precision_results.h"

namespace shardstep {

PrecisionResults ComputePrecisionResults(const PrecisionOptions& options) {
  const auto seed = static_cast<uint64_t>(options.seed);
  const Gradients gradients = [seed](int64_t source, int64_t element) { return RandomGradient(seed, source, element); };
  PrecisionResults results{.options = options};
  results.one_update = ComputeOneUpdate(results.inputs);
  results.many_updates = ComputeManyUpdates(
      results.inputs, {.steps = options.steps, .stochastic_weights = options.stochastic_weights, .seed = seed});
  results.micro_gradient_sums = ComputeAccumulationErrors(gradients, options.elements, options.max_count);
  results.rank_sums = ComputeRankSumErrors(gradients, options.elements, options.max_ranks);
  results.formats = ComputeFormatLimits();
  results.round_trips = ComputeRoundTrips();
  return results;
}

}  // namespace shardstep
