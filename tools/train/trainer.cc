#include "shardstep/tools/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "shardstep/runtime/agreement.h"
#include "shardstep/tools/text_file.h"
#include "shardstep/tools/trace/trace_file.h"
#include "shardstep/tools/train/generate.h"

namespace shardstep {
namespace {

constexpr absl::Duration kLongestEvaluation = absl::Minutes(30);

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double ToMs(int64_t ns) { return static_cast<double>(ns) * 1e-6; }
double ToBitsPerByte(double nats) { return nats / std::log(2.0); }
double ToMiB(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

std::string ToBytes(const std::vector<double>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double));
}

absl::StatusOr<std::vector<double>> ToDoubles(const std::string& bytes, size_t rank) {
  std::vector<double> values(bytes.size() / sizeof(double));
  if (values.size() * sizeof(double) != bytes.size()) {
    return absl::InternalError(absl::StrCat("rank ", rank, " sent ", bytes.size(), " bytes of losses"));
  }
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

Trainer::Trainer(const TrainOptions& options, const Corpus& corpus, Rendezvous& rendezvous, TrainListener* listener)
    : options_(options), corpus_(corpus), rendezvous_(rendezvous), listener_(listener) {}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const TrainOptions& options, const Corpus& corpus,
                                                         Rendezvous& rendezvous, CommunicatorLevels communicators,
                                                         TrainListener* listener) {
  std::unique_ptr<Trainer> trainer(new Trainer(options, corpus, rendezvous, listener));
  SHARDSTEP_RETURN_IF_ERROR(trainer->Start(std::move(communicators)));
  return trainer;
}

absl::Status Trainer::OpenListenerAndModel() {
  if (listener_ != nullptr) SHARDSTEP_RETURN_IF_ERROR(listener_->Open());
  // Written at the end, and refused now.
  if (listener_ != nullptr && options_.trace_path) SHARDSTEP_RETURN_IF_ERROR(WriteTextFile(*options_.trace_path, ""));
  SHARDSTEP_RETURN_IF_ERROR(SetComputeThreads(options_.compute_threads));
  SHARDSTEP_ASSIGN_OR_RETURN(model_, Model<Bf16>::Create(options_.model, options_.sequences, FastestMatmulRoute()));
  return absl::OkStatus();
}

absl::Status Trainer::Start(CommunicatorLevels communicators) {
  SHARDSTEP_RETURN_IF_ERROR(
      AgreeOnStatus(rendezvous_, "start of the trainer", OpenListenerAndModel(), kLongestEvaluation));
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnConfiguration(DescribeRun(), rendezvous_, kLongestEvaluation));
  OptimizerOptions optimizer_options = options_.optimizer;
  optimizer_options.micro_steps = micro_steps();
  SHARDSTEP_ASSIGN_OR_RETURN(optimizer_, ShardedOptimizer::Create(optimizer_options, ModelParameters(options_.model),
                                                                  std::move(communicators), &rendezvous_));
  TellWhatIsTrained();
  SHARDSTEP_RETURN_IF_ERROR(LoadOrInitialize());
  windows_.resize(options_.sequences * model_->window_bytes());
  first_step_ = optimizer_->counters().step;
  if (options_.trace_path) {
    recording_ = std::make_unique<TraceRecording>();
    optimizer_->SetTrace(recording_.get());
  }
  const absl::Status begun = listener_ == nullptr ? absl::OkStatus() : listener_->Begin(first_step_);
  return AgreeOnStatus(rendezvous_, "first step of the trainer", begun, kLongestEvaluation);
}

void Trainer::TellWhatIsTrained() {
  const MemoryEstimate memory = optimizer_->memory();
  std::string line = absl::StrFormat(
      "%d parameters, %d ranks, %d micro-batches in %d micro-steps; matrix products in %s; %.1f MiB per rank",
      optimizer_->layout().total_elements(), rendezvous_.world_size(), options_.micro_batches, micro_steps(),
      MatmulRouteName(model_->route()), ToMiB(memory.rank_bytes()));
  if (memory.weights_shared_bytes > 0) {
    absl::StrAppendFormat(&line, " and %.1f MiB of weights per host", ToMiB(memory.weights_shared_bytes));
  }
  Tell(line);
  if (const std::string wire = optimizer_->DescribeWire(); !wire.empty()) Tell(wire);
}

std::vector<std::string> Trainer::DescribeRun() const {
  std::vector<std::string> lines = absl::StrSplit(CallerState(), '\n', absl::SkipEmpty());
  lines.push_back(absl::StrCat("matrix products = ", MatmulRouteName(model_->route())));
  lines.push_back(absl::StrCat("poison_step = ", options_.poison_step.value_or(0)));
  lines.push_back(absl::StrCat("stop_after = ", options_.stop_after.value_or(0)));
  lines.push_back(absl::StrCat("resume = ", options_.resume));
  lines.push_back(absl::StrCat("trace = ", options_.trace_path.has_value()));
  lines.push_back(absl::StrCat("evaluation windows = ", options_.evaluate_windows));
  lines.push_back(absl::StrCat("evaluation interval = ", options_.evaluate_interval_steps));
  lines.push_back(absl::StrCat("checkpoint interval = ", options_.checkpoint_interval_steps));
  return lines;
}

absl::Status Trainer::LoadOrInitialize() {
  if (options_.resume) {
    std::vector<std::string> warnings;
    const absl::StatusOr<std::string> state = optimizer_->Load(*options_.checkpoint_directory, &warnings);
    for (const std::string& warning : warnings) Tell(absl::StrCat("warning: ", warning));
    if (state.ok()) {
      Tell(absl::StrCat("resumed after step ", optimizer_->counters().step));
      WarnOfOtherSettings(*state);
      return absl::OkStatus();
    }
    if (!absl::IsNotFound(state.status())) return state.status();
    Tell(absl::StrCat("starting afresh: ", state.status().message()));
  }
  return optimizer_->Initialize([this](int p, int64_t begin, absl::Span<float> values) {
    FillInitial(options_.model, options_.seed, p, begin, values);
  });
}

std::string Trainer::CallerState() const {
  const LearningRateSchedule& schedule = options_.learning_rate;
  return absl::StrFormat(
      "data_bytes = %d\nseed = %d\nmicro_batches = %d\nsequences = %d\nlearning_rate = %.17g\nwarmup_steps = %d\n"
      "steps = %d\nfinal_learning_rate_fraction = %.17g\nmax_norm = %.17g\n",
      corpus_.training().size() + corpus_.held_out().size(), options_.seed, options_.micro_batches, options_.sequences,
      schedule.peak, schedule.warmup_steps, schedule.steps, schedule.final_fraction,
      options_.max_norm.value_or(std::numeric_limits<double>::infinity()));
}

void Trainer::WarnOfOtherSettings(const std::string& saved) {
  const std::string mine = CallerState();
  if (saved == mine) return;
  Tell(
      absl::StrCat("warning: the checkpoint was written by a run with other settings; this run will not end as that "
                   "one would have.\nthat run:\n",
                   saved, "this run:\n", mine));
}

absl::Status Trainer::Run() {
  const int64_t last_step = std::min(options_.steps(), options_.stop_after.value_or(options_.steps()));
  for (int64_t step = first_step_ + 1; step <= last_step; ++step) {
    SHARDSTEP_RETURN_IF_ERROR(TrainStep(step));
    const bool last = step == last_step;
    const bool evaluate = options_.evaluate_interval_steps > 0 && step % options_.evaluate_interval_steps == 0;
    const bool save = options_.checkpoint_interval_steps > 0 && step % options_.checkpoint_interval_steps == 0;
    if (evaluate || save || last) SHARDSTEP_RETURN_IF_ERROR(FinishStep());
    if (evaluate && !last) SHARDSTEP_RETURN_IF_ERROR(Evaluate());
    if (options_.checkpoint_directory && (save || last)) SHARDSTEP_RETURN_IF_ERROR(Save());
  }
  if (recording_ != nullptr) SHARDSTEP_RETURN_IF_ERROR(WriteTimeline());
  const bool at_the_end = optimizer_->counters().step >= options_.steps();
  if (at_the_end) SHARDSTEP_RETURN_IF_ERROR(Evaluate());
  SHARDSTEP_ASSIGN_OR_RETURN(const OptimizerDigests digests, optimizer_->Digests());
  // From here on rank 0 is alone; nobody waits for it.
  if (at_the_end) SHARDSTEP_RETURN_IF_ERROR(GenerateText());
  return listener_ == nullptr ? absl::OkStatus() : listener_->End(optimizer_->counters().step, digests);
}

absl::Status Trainer::TrainStep(int64_t step) {
  StepInFlight next;
  const int64_t begin_ns = NowNs();
  for (int64_t k = 0; k < micro_steps(); ++k) SHARDSTEP_RETURN_IF_ERROR(MicroStep(step, k, &next));
  // Only now: the step before overlapped this one's first forward.
  SHARDSTEP_RETURN_IF_ERROR(FinishStep());
  SHARDSTEP_RETURN_IF_ERROR(optimizer_->Step({.learning_rate = LearningRate(options_.learning_rate, step),
                                              .micro_batches = options_.micro_batches,
                                              .max_norm = options_.max_norm}));
  next.duration_ns = NowNs() - begin_ns;
  in_flight_ = std::move(next);
  return absl::OkStatus();
}

absl::Status Trainer::MicroStep(int64_t step, int64_t micro_step, StepInFlight* in_flight) {
  const int64_t micro_batch = micro_step * rendezvous_.world_size() + rendezvous_.rank();
  if (micro_batch < options_.micro_batches) {
    for (int64_t i = 0; i < options_.sequences; ++i) {
      const absl::Span<const uint8_t> window =
          corpus_.TrainingWindow({.seed = options_.seed, .step = step, .micro_batch = micro_batch, .sequence = i});
      std::copy(window.begin(), window.end(), windows_.begin() + i * model_->window_bytes());
    }
    const int64_t begin_ns = NowNs();
    int64_t backward_begin_ns = 0;
    SHARDSTEP_ASSIGN_OR_RETURN(const double loss,
                               model_->Gradients(windows_, Hooks(step, micro_batch, &backward_begin_ns)));
    in_flight->losses.push_back(loss);
    in_flight->forward_ns += backward_begin_ns - begin_ns;
    in_flight->backward_ns += NowNs() - backward_begin_ns;
  }
  return optimizer_->EndMicroStep();
}

ParameterHooks<Bf16> Trainer::Hooks(int64_t step, int64_t micro_batch, int64_t* backward_begin_ns) {
  const bool poison = options_.poison_step == step && micro_batch == 0;
  return {.weights_needed = [this](int p) { return optimizer_->WeightsReady(p); },
          .weights = [this](int p) { return optimizer_->weights(p); },
          .gradient_begin =
              [this, backward_begin_ns](int p) {
                if (backward_begin_ns != nullptr && *backward_begin_ns == 0) *backward_begin_ns = NowNs();
                return optimizer_->GradientWritable(p);
              },
          .gradient = [this](int p) { return optimizer_->gradient(p); },
          .gradient_done =
              [this, poison](int p) {
                if (poison && p == 0) optimizer_->gradient(p)[0] = Bf16{kBf16CanonicalNan};
                return optimizer_->GradientReady(p);
              }};
}

absl::Status Trainer::FinishStep() {
  if (!in_flight_) return absl::OkStatus();
  const StepInFlight step = *std::exchange(in_flight_, std::nullopt);
  SHARDSTEP_ASSIGN_OR_RETURN(const StepRecord record, optimizer_->FinishStep());
  SHARDSTEP_ASSIGN_OR_RETURN(const double loss, SumInOrder("losses of a step", step.losses, options_.micro_batches,
                                                           options_.optimizer.wait_deadline));
  if (listener_ == nullptr) return absl::OkStatus();
  return TellStep(record, step, loss / static_cast<double>(options_.micro_batches));
}

absl::StatusOr<double> Trainer::SumInOrder(absl::string_view what, const std::vector<double>& mine, int64_t count,
                                           absl::Duration deadline) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> parts,
                             rendezvous_.AllGatherBytes(what, ToBytes(mine), deadline));
  std::vector<std::vector<double>> values;
  for (size_t r = 0; r < parts.size(); ++r) {
    SHARDSTEP_ASSIGN_OR_RETURN(std::vector<double> of_rank, ToDoubles(parts[r], r));
    values.push_back(std::move(of_rank));
  }
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<double>& of_rank = values[i % values.size()];
    const size_t k = i / values.size();
    if (k >= of_rank.size()) return absl::InternalError(absl::StrCat(what, ": number ", i, " is missing"));
    sum += of_rank[k];
  }
  return sum;
}

absl::Status Trainer::TellStep(const StepRecord& record, const StepInFlight& step, double loss) {
  const double tokens = static_cast<double>(options_.micro_batches * options_.sequences * options_.model.context);
  return listener_->Step(
      {.record = record,
       .bits_per_byte = ToBitsPerByte(loss),
       .tokens_per_second = tokens * 1e9 / static_cast<double>(std::max<int64_t>(1, step.duration_ns)),
       .forward_ms = ToMs(step.forward_ns),
       .backward_ms = ToMs(step.backward_ns)});
}

absl::Status Trainer::Evaluate() {
  optimizer_->SetAway(kLongestEvaluation);
  // Ranks take turns at groups of windows.
  std::vector<double> mine;
  const int64_t per_group = options_.sequences;
  const int64_t groups = (options_.evaluate_windows + per_group - 1) / per_group;
  for (int64_t g = rendezvous_.rank(); g < groups; g += rendezvous_.world_size()) {
    std::vector<uint8_t> windows;
    const int64_t end = std::min((g + 1) * per_group, options_.evaluate_windows);
    for (int64_t w = g * per_group; w < end; ++w) {
      const absl::Span<const uint8_t> window = corpus_.HeldOutWindow(w, options_.evaluate_windows);
      windows.insert(windows.end(), window.begin(), window.end());
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const double loss, model_->Evaluate(windows, Hooks(0, 0, nullptr)));
    mine.push_back(loss * static_cast<double>(end - g * per_group));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const double sum, SumInOrder("held-out losses", mine, groups, kLongestEvaluation));
  optimizer_->SetAway(absl::ZeroDuration());
  if (listener_ == nullptr) return absl::OkStatus();
  return listener_->HeldOut(optimizer_->counters().step,
                            ToBitsPerByte(sum / static_cast<double>(options_.evaluate_windows)));
}

absl::Status Trainer::Save() {
  SHARDSTEP_RETURN_IF_ERROR(optimizer_->Save(*options_.checkpoint_directory, CallerState()));
  Tell(absl::StrCat("saved step ", optimizer_->counters().step, " to ", *options_.checkpoint_directory));
  return absl::OkStatus();
}

absl::Status Trainer::WriteTimeline() {
  optimizer_->SetTrace(nullptr);
  SHARDSTEP_RETURN_IF_ERROR(WriteTrace(rendezvous_, *recording_, *options_.trace_path));
  Tell(absl::StrCat("timeline: ", *options_.trace_path));
  return absl::OkStatus();
}

absl::Status Trainer::GenerateText() {
  if (options_.generate_bytes == 0 || listener_ == nullptr) return absl::OkStatus();
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Model<Bf16>> model,
                             Model<Bf16>::Create(options_.model, 1, model_->route()));
  constexpr absl::string_view kPrompt = "\n";
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::string text,
      Generate(*model, Hooks(0, 0, nullptr), kPrompt, {.bytes = options_.generate_bytes, .seed = options_.seed}));
  Tell(absl::StrCat("generated text:\n", text));
  return absl::OkStatus();
}

void Trainer::Tell(const std::string& line) {
  if (listener_ != nullptr) listener_->Tell(line);
}

}  // namespace shardstep
