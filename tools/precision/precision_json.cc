#include <cmath>
#include <nlohmann/json.hpp>

#include "shardstep/tools/precision/precision_results.h"

namespace shardstep {
namespace {

using Json = nlohmann::ordered_json;

Json Number(double value) { return std::isinf(value) ? Json(value > 0 ? "inf" : "-inf") : Json(value); }
Json Number(Bf16 value) { return Number(ToFloat(value)); }

Json OptionsJson(const PrecisionOptions& options) {
  return {{"steps", options.steps},         {"stochastic_weights", options.stochastic_weights},
          {"elements", options.elements},   {"max_count", options.max_count},
          {"max_ranks", options.max_ranks}, {"seed", options.seed}};
}

Json OneUpdateJson(const UpdateInputs& inputs, const OneUpdate& update) {
  return {{"written_weight", inputs.weight},
          {"written_gradient", inputs.gradient},
          {"written_learning_rate", inputs.learning_rate},
          {"weight_bf16", Number(update.weight)},
          {"below_bf16", Number(update.below)},
          {"above_bf16", Number(update.above)},
          {"half_ulp", update.half_ulp},
          {"gradient_bf16", Number(update.gradient)},
          {"learning_rate_fp32", update.learning_rate},
          {"update", update.update},
          {"result_exact", update.exact},
          {"result_bf16", Number(update.in_bf16)},
          {"result_fp32", update.in_fp32},
          {"written_weight_fp32", update.written_weight},
          {"written_result_fp32", update.written_in_fp32},
          {"written_result_in_bf16_spacings", update.written_in_ulps},
          {"written_result_bf16", Number(update.written_as_bf16)}};
}

Json ManyUpdatesJson(const ManyUpdates& updates) {
  Json steps = Json::array();
  for (const WeightAtStep& weight : updates.weights) {
    steps.push_back({{"step", weight.step},
                     {"exact", weight.exact},
                     {"bf16_nearest", Number(weight.nearest)},
                     {"bf16_stochastic", Number(weight.stochastic)},
                     {"fp32", weight.fp32}});
  }
  return {{"stochastic_mean", updates.stochastic_mean},
          {"stochastic_deviation", updates.stochastic_deviation},
          {"weights", std::move(steps)}};
}

Json SumsJson(const std::vector<SumErrors>& sums) {
  Json result = Json::array();
  for (const SumErrors& sum : sums) {
    result.push_back({{"count", sum.count},
                      {"bf16", sum.bf16},
                      {"fp32", sum.fp32},
                      {"fp32_then_bf16", sum.fp32_then_bf16},
                      {"exact_mean", sum.exact_mean},
                      {"bf16_mean", sum.bf16_mean}});
  }
  return result;
}

Json FormatsJson(const std::vector<FormatLimits>& formats) {
  Json result = Json::array();
  for (const FormatLimits& format : formats) {
    result.push_back({{"name", format.name},
                      {"largest", format.largest},
                      {"smallest_normal", format.smallest_normal},
                      {"smallest", format.smallest},
                      {"spacing_at_one", format.spacing_at_one},
                      {"first_integer_lost", format.first_integer_lost}});
  }
  return result;
}

Json RoundTripsJson(const std::vector<RoundTrip>& round_trips) {
  Json result = Json::array();
  for (const RoundTrip& trip : round_trips) {
    result.push_back({{"value", trip.value}, {"fp16", Number(trip.in_fp16)}, {"bf16", Number(trip.in_bf16)}});
  }
  return result;
}

Json TrainingsJson(const MasterTrainings& trainings, const MasterTrainingOptions& options) {
  Json runs = Json::array();
  for (const MasterTraining& run : trainings.runs) {
    Json curve = Json::array();
    for (const LossAtStep& loss : run.held_out) {
      curve.push_back({{"step", loss.step}, {"bits_per_byte", loss.bits_per_byte}});
    }
    runs.push_back({{"master", run.name}, {"master_bytes", run.master_bytes}, {"held_out", std::move(curve)}});
  }
  return {{"parameters", trainings.parameters},
          {"settings", trainings.settings},
          {"steps", options.steps},
          {"learning_rate", options.learning_rate},
          {"runs", std::move(runs)}};
}

}  // namespace

std::string PrecisionJson(const PrecisionResults& results) {
  Json json = {{"options", OptionsJson(results.options)},
               {"one_update", OneUpdateJson(results.inputs, results.one_update)},
               {"many_updates", ManyUpdatesJson(results.many_updates)},
               {"micro_gradient_sums", SumsJson(results.micro_gradient_sums)},
               {"rank_sums", SumsJson(results.rank_sums)},
               {"formats", FormatsJson(results.formats)},
               {"round_trips", RoundTripsJson(results.round_trips)}};
  if (!results.trainings.runs.empty()) {
    json["trainings"] = TrainingsJson(results.trainings, results.options.training);
  }
  return json.dump(2) + "\n";
}

}  // namespace shardstep
