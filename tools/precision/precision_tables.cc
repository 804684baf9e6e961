#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "shardstep/tools/precision/precision_results.h"

namespace shardstep {
namespace {

/// All decimals of a value of moderate size, without trailing zeros.
std::string Exact(double value) {
  std::string text = absl::StrFormat("%.60f", value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}
std::string Exact(Bf16 value) { return Exact(ToFloat(value)); }

void Row(absl::string_view label, absl::string_view value, std::string* text) {
  absl::StrAppendFormat(text, "  %-46s  %s\n", label, value);
}

void AppendOneUpdate(const UpdateInputs& inputs, const OneUpdate& update, std::string* text) {
  absl::StrAppendFormat(text, "(a) One update: weight %g - learning rate %g * gradient %g; exact decimals\n",
                        inputs.weight, inputs.learning_rate, inputs.gradient);
  Row("weight as bf16", Exact(update.weight), text);
  Row("the bf16 values around it", absl::StrCat(Exact(update.below), " and ", Exact(update.above)), text);
  Row("half an ulp of the weight", Exact(update.half_ulp), text);
  Row("gradient as bf16", Exact(update.gradient), text);
  Row("update: learning rate as fp32, times that", Exact(update.update), text);
  Row("half an ulp, in updates", absl::StrFormat("%.4g", update.half_ulp / update.update), text);
  Row("result, exact", Exact(update.exact), text);
  const bool unchanged = update.in_bf16 == update.weight;
  Row("result in bf16", absl::StrCat(Exact(update.in_bf16), unchanged ? "   unchanged" : ""), text);
  Row("result in fp32", Exact(update.in_fp32), text);

  absl::StrAppend(text, "\n    The same update of the weight as written, which bf16 has never held\n");
  Row("weight as fp32", Exact(update.written_weight), text);
  Row("result in fp32", Exact(update.written_in_fp32), text);
  Row("the same, with six digits", absl::StrFormat("%.6g", update.written_in_fp32), text);
  Row("in units of bf16's spacing there", Exact(update.written_in_ulps), text);
  const bool is_bf16 = update.written_in_ulps == std::floor(update.written_in_ulps);
  Row("a bf16 value?", is_bf16 ? "yes" : "no, that is not an integer", text);
  Row("the nearest bf16 value", Exact(update.written_as_bf16), text);
}

void AppendManyUpdates(const ManyUpdates& updates, std::string* text) {
  const WeightAtStep& last = updates.weights.back();
  const auto row = [&](absl::string_view label, double weight) {
    absl::StrAppendFormat(text, "  %-46s  %14.10f  %12.3g\n", label, weight, weight - last.exact);
  };
  absl::StrAppendFormat(text, "\n(b) The same update %d times, from the bf16 weight\n", last.step);
  absl::StrAppendFormat(text, "  %-46s  %14s  %12s\n", "weight kept", "weight", "error");
  row("exactly", last.exact);
  row("in fp32", last.fp32);
  row("in bf16, rounded to nearest", ToFloat(last.nearest));
  row("in bf16, rounded at random: one weight", ToFloat(last.stochastic));
  row(absl::StrFormat("  mean of %d weights", updates.stochastic_weights), updates.stochastic_mean);
  absl::StrAppendFormat(text, "  %-46s  %14.10f\n", "  their standard deviation", updates.stochastic_deviation);
}

void AppendSums(const std::vector<SumErrors>& sums, absl::string_view count, std::string* text) {
  absl::StrAppendFormat(text, "  %16s  %12s  %12s  %12s  %12s  %12s\n", count, "exact mean", "bf16 mean", "bf16 error",
                        "fp32 error", "once to bf16");
  for (const SumErrors& sum : sums) {
    absl::StrAppendFormat(text, "  %16d  %12.6f  %12.6f  %12.3g  %12.3g  %12.3g\n", sum.count, sum.exact_mean,
                          sum.bf16_mean, sum.bf16, sum.fp32, sum.fp32_then_bf16);
  }
}

void AppendAllSums(const PrecisionResults& results, std::string* text) {
  absl::StrAppendFormat(
      text,
      "\n(c) Sums of random bf16 gradients, uniform from %.3g to %.3g: relative L2 errors\n"
      "    over %d elements. bf16 is rounded at every addition; fp32 is kept, or rounded once to bf16\n",
      kSmallestGradient, kLargestGradient, results.options.elements);
  AppendSums(results.micro_gradient_sums, "micro-gradients", text);
  absl::StrAppend(text, "\n    The same over ranks: a ring whose messages are bf16, and fp32 in rank order\n");
  AppendSums(results.rank_sums, "ranks", text);
}

void AppendFormats(const std::vector<FormatLimits>& formats, std::string* text) {
  absl::StrAppend(text, "\n(d) What 16 bits hold\n");
  absl::StrAppendFormat(text, "  %8s  %12s  %16s  %12s  %16s  %20s\n", "format", "largest", "smallest normal",
                        "smallest", "spacing at 1", "first integer lost");
  for (const FormatLimits& format : formats) {
    absl::StrAppendFormat(text, "  %8s  %12.4g  %16.4g  %12.4g  %16s  %20d\n", format.name, format.largest,
                          format.smallest_normal, format.smallest, Exact(format.spacing_at_one),
                          format.first_integer_lost);
  }
}

void AppendRoundTrips(const std::vector<RoundTrip>& round_trips, std::string* text) {
  const auto error = [](double value, double rounded) {
    if (std::isinf(rounded)) return std::string("overflow");
    if (rounded == 0) return std::string("lost");
    return absl::StrFormat("%.2g", std::abs(rounded - value) / value);
  };
  absl::StrAppendFormat(text, "\n  %8s  %14s  %14s  %14s  %14s\n", "value", "in fp16", "rel. error", "in bf16",
                        "rel. error");
  for (const RoundTrip& trip : round_trips) {
    absl::StrAppendFormat(text, "  %8.3g  %14.6g  %14s  %14.6g  %14s\n", trip.value, trip.in_fp16,
                          error(trip.value, trip.in_fp16), trip.in_bf16, error(trip.value, trip.in_bf16));
  }
}

void AppendTrainings(const MasterTrainings& trainings, std::string* text) {
  const double with_fp32 = trainings.runs.front().last_bits_per_byte();
  absl::StrAppendFormat(text, "\n(e) A byte-level GPT of %d parameters, trained %d times on the same data\n",
                        trainings.parameters, trainings.runs.size());
  for (const absl::string_view line : absl::StrSplit(trainings.settings, '\n')) {
    absl::StrAppend(text, "    ", line, "\n");
  }
  absl::StrAppendFormat(text, "  %-24s  %20s  %26s  %16s\n", "master", "bytes per parameter", "held-out bits per byte",
                        "more than FP32");
  for (const MasterTraining& run : trainings.runs) {
    absl::StrAppendFormat(text, "  %-24s  %20d  %26.4f  %+16.4f\n", run.name, run.master_bytes,
                          run.last_bits_per_byte(), run.last_bits_per_byte() - with_fp32);
  }
}

}  // namespace

std::string PrecisionTables(const PrecisionResults& results) {
  std::string text;
  AppendOneUpdate(results.inputs, results.one_update, &text);
  AppendManyUpdates(results.many_updates, &text);
  AppendAllSums(results, &text);
  AppendFormats(results.formats, &text);
  AppendRoundTrips(results.round_trips, &text);
  if (!results.trainings.runs.empty()) AppendTrainings(results.trainings, &text);
  return text;
}

}  // namespace shardstep
