#include "shardstep/tools/bench/cuda_bench.h"

#include <algorithm>
#include <cstring>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "shardstep/comm/host_memory.h"
#include "shardstep/optimizer/cuda_kernels.h"
#include "shardstep/tools/bench/bench_check.h"
#include "shardstep/tools/bench/bench_model.h"
#include "shardstep/tools/bench/cuda_copy.h"
#include "shardstep/tools/bench/cuda_passes.h"
#include "shardstep/tools/bench/cuda_timer.h"
#include "shardstep/tools/bench/cuda_trainer.h"
#include "shardstep/tools/bench/cuda_wire.h"

namespace shardstep {
namespace {

constexpr absl::Duration kMeetingDeadline = absl::Minutes(10);
// Of the check, whose scalar steps rank 0 makes alone.
constexpr absl::Duration kCheckDeadline = absl::Hours(6);
constexpr double kMegabyte = 1e6;

StepCase CaseOf(const BenchOptions& options, int ranks) {
  return {.ranks = ranks,
          .hosts = ranks,
          .update = options.optimizer.groups[0].kind(),
          .micro_steps = options.optimizer.micro_steps,
          .two_passes = options.optimizer.non_finite != NonFinitePolicy::kIgnore,
          .sum_group = options.optimizer.sum_group,
          .wire_sums = ranks > 1 && options.gpu.exchange == NcclExchange::kReduceScatter};
}

// Place by place the largest value of any rank.
absl::StatusOr<std::vector<double>> Most(Rendezvous& rendezvous, const std::vector<double>& mine) {
  const absl::string_view bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                             rendezvous.AllGatherBytes("figures", bytes, kMeetingDeadline));
  std::vector<double> most = mine;
  std::vector<double> of_rank(mine.size());
  for (const std::string& figures : all) {
    if (figures.size() != bytes.size()) return absl::InternalError("figures of a rank did not come whole");
    std::memcpy(of_rank.data(), figures.data(), figures.size());
    for (size_t i = 0; i < most.size(); ++i) most[i] = std::max(most[i], of_rank[i]);
  }
  return most;
}

class CudaBench {
 public:
  CudaBench(const BenchOptions& options, const CudaBenchJob& job, CudaPlace& place, std::ostream& out)
      : options_(options), job_(job), rendezvous_(*job.rendezvous), place_(place), out_(out) {}

  absl::StatusOr<CudaBenchRow> Run() {
    SHARDSTEP_RETURN_IF_ERROR(CheckHostMemory());
    SHARDSTEP_RETURN_IF_ERROR(MakeTrainer());
    SHARDSTEP_RETURN_IF_ERROR(Warmup());
    SHARDSTEP_RETURN_IF_ERROR(MakeFloors());
    for (int64_t i = 0; i < options_.steps; ++i) SHARDSTEP_RETURN_IF_ERROR(Round());
    if (options_.check) SHARDSTEP_RETURN_IF_ERROR(Check());
    // Last, as they change the model.
    for (int64_t i = 0; i < options_.steps; ++i) SHARDSTEP_RETURN_IF_ERROR(KernelRound());
    SHARDSTEP_RETURN_IF_ERROR(Combine());
    return row_;
  }

 private:
  int ranks() const { return rendezvous_.world_size(); }
  bool by_nccl() const { return options_.gpu.transport == GpuTransport::kNccl; }

  void Say(const std::string& line) {
    if (rendezvous_.rank() == 0) out_ << "# " << line << "\n" << std::flush;
  }

  absl::Status Meet(absl::string_view what) { return rendezvous_.AllGatherBytes(what, "", kMeetingDeadline).status(); }

  // ---- Before the rounds
  // ---------------------------------------------------------------------------------------------

  absl::Status CheckHostMemory() {
    const int64_t needed_bytes =
        options_.check && rendezvous_.rank() == 0 ? ReferenceBytes(options_, ranks()) : int64_t{0};
    return AgreeOnStatus(rendezvous_, "memory of the host",
                         CheckMemoryAvailable(needed_bytes, absl::StrCat("--check of ", options_.model)),
                         kMeetingDeadline);
  }

  absl::Status MakeTrainer() {
    SHARDSTEP_ASSIGN_OR_RETURN(timer_, CudaTimer::Create(place_.stream()));
    SHARDSTEP_ASSIGN_OR_RETURN(free_before_, CountFree());
    SHARDSTEP_ASSIGN_OR_RETURN(CommunicatorLevels levels, MakeCudaLevels(options_, job_, place_));
    SHARDSTEP_ASSIGN_OR_RETURN(trainer_, CudaTrainer::Create(options_, std::move(levels), rendezvous_, place_));
    row_ = {.step = CaseOf(options_, ranks()),
            .parameters = ElementCount(options_.parameters),
            .device = place_.model(),
            .transport = ranks() == 1 ? "none" : std::string(ToString(options_.gpu.transport)),
            .exchange = std::string(ToString(options_.gpu.exchange)),
            .graph = options_.gpu.graph,
            .max_norm = options_.max_norm};
    Say(absl::StrFormat("%s: %d parameters in %d tensors and %d buckets, %d ranks on %s, kernels for %s",
                        options_.model, row_.parameters, options_.parameters.size(),
                        trainer_->optimizer().layout().bucket_count(), ranks(), std::string(place_.device().name()),
                        job_.backend.kernels->Target()));
    const std::string wire = trainer_->optimizer().DescribeWire();
    if (!wire.empty()) Say(wire);
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> CountFree() {
    SHARDSTEP_RETURN_IF_ERROR(Meet("memory"));
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t free_bytes, place_.FreeBytes());
    SHARDSTEP_RETURN_IF_ERROR(Meet("memory"));
    return free_bytes;
  }

  absl::Status Warmup() {
    // One at least: it loads kernels and makes connections. Graphs are captured after it.
    for (int64_t i = 0; i < std::max<int64_t>(1, options_.warmup); ++i) {
      SHARDSTEP_RETURN_IF_ERROR(trainer_->EnqueueStep());
      SHARDSTEP_RETURN_IF_ERROR(trainer_->Finish());
      if (i == 0 && options_.gpu.graph) SHARDSTEP_RETURN_IF_ERROR(trainer_->Capture());
    }
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t free_bytes, CountFree());
    row_.memory_bytes = static_cast<double>(free_before_ - free_bytes) / place_.sharing();
    const MemoryEstimate estimate = trainer_->optimizer().memory();
    row_.estimated_bytes = static_cast<double>(estimate.rank_bytes() + estimate.weights_shared_bytes);
    Say(absl::StrFormat("memory: estimated %.1f MB, counted by the device %.1f MB", row_.estimated_bytes / kMegabyte,
                        row_.memory_bytes / kMegabyte));
    return absl::OkStatus();
  }

  absl::Status MakeFloors() {
    SHARDSTEP_ASSIGN_OR_RETURN(
        passes_, CudaPasses::Create(row_.step, ShardBuffersOf(trainer_->optimizer()), options_.optimizer.groups[0],
                                    place_.device(), place_.stream()));
    row_.floor_has_twins = passes_->has_update_twin();
    row_.norm.bytes = passes_->has_norm() ? passes_->norm_bytes() : 0;
    row_.update.bytes = passes_->update_bytes();
    SHARDSTEP_RETURN_IF_ERROR(CheckFloor());
    SHARDSTEP_ASSIGN_OR_RETURN(copy_, CudaCopy::Create(place_.stream(), place_.memory(), row_.update.bytes));
    row_.copied_bytes = copy_->bytes();
    if (ranks() == 1) return absl::OkStatus();
    // Each micro-step's gradients travel by themselves.
    wire_cost_ = CountWireCost(row_.step, row_.parameters);
    wire_cost_.gradients /= row_.step.micro_steps;
    const CudaWireRequest request = {.stream = &place_.stream(),
                                     .memory = &place_.memory(),
                                     .largest_bytes = std::max(wire_cost_.gradients, wire_cost_.weights)};
    auto wire = by_nccl() ? CreateNcclWire(request, *job_.nccl, rendezvous_) : CreateStagingWire(request);
    // Staging's is made alone: all ranks leave together.
    SHARDSTEP_RETURN_IF_ERROR(AgreeOnStatus(rendezvous_, "the wire", wire.status(), kMeetingDeadline));
    wire_ = *std::move(wire);
    return absl::OkStatus();
  }

  // The twins move the table's bytes.
  absl::Status CheckFloor() {
    const int64_t mine = passes_->gradient_bytes() + passes_->update_bytes();
    SHARDSTEP_ASSIGN_OR_RETURN(const int64_t all, Sum(mine));
    const auto moved = static_cast<double>(all);
    const double counted = CountMemoryCost(row_.step).total() * static_cast<double>(row_.parameters);
    if (moved == counted) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("the floor moves ", moved, " bytes instead of ", counted));
  }

  // ---- Rounds
  // --------------------------------------------------------------------------------------------------------

  absl::Status Round() {
    SHARDSTEP_RETURN_IF_ERROR(TimeFloor());
    return TimeStep();
  }

  absl::Status Time(std::vector<double>* to, absl::FunctionRef<absl::Status()> enqueue) {
    SHARDSTEP_ASSIGN_OR_RETURN(to->emplace_back(), timer_->Time(enqueue));
    return absl::OkStatus();
  }

  // All ranks begin together: they have met, and where NCCL connects the devices, so have these.
  absl::Status Begin(absl::string_view what) {
    SHARDSTEP_RETURN_IF_ERROR(Meet(what));
    return by_nccl() && wire_ != nullptr ? wire_->Exchange(2 * (ranks() - 1)) : absl::OkStatus();
  }

  absl::Status TimeFloor() {
    SHARDSTEP_RETURN_IF_ERROR(Time(&row_.copy_ms, [&] { return copy_->Enqueue(); }));
    SHARDSTEP_RETURN_IF_ERROR(Time(&row_.gradient_ms, [&] { return passes_->Gradients(CudaPasses::Kind::kTwin); }));
    if (passes_->has_update_twin()) {
      SHARDSTEP_RETURN_IF_ERROR(Time(&row_.update_ms, [&] { return passes_->Update(CudaPasses::Kind::kTwin); }));
    } else {
      row_.update_ms.push_back(row_.copy_ms.back() * static_cast<double>(row_.update.bytes) /
                               static_cast<double>(row_.copied_bytes));
    }
    if (wire_ == nullptr) return absl::OkStatus();
    std::vector<double> wire_ms;
    SHARDSTEP_RETURN_IF_ERROR(Begin("wire"));
    SHARDSTEP_RETURN_IF_ERROR(Time(&wire_ms, [&] { return ExchangeGradients(); }));
    SHARDSTEP_RETURN_IF_ERROR(Begin("wire"));
    SHARDSTEP_RETURN_IF_ERROR(Time(&wire_ms, [&] { return wire_->Exchange(wire_cost_.weights); }));
    row_.gradient_ms.back() = std::max(row_.gradient_ms.back(), wire_ms[0]);
    row_.update_ms.back() = std::max(row_.update_ms.back(), wire_ms[1]);
    row_.wire_ms.push_back(wire_ms[0] + wire_ms[1]);
    return absl::OkStatus();
  }

  absl::Status ExchangeGradients() {
    for (int64_t k = 0; k < row_.step.micro_steps; ++k) {
      SHARDSTEP_RETURN_IF_ERROR(wire_->Exchange(wire_cost_.gradients));
    }
    return absl::OkStatus();
  }

  absl::Status TimeStep() {
    SHARDSTEP_RETURN_IF_ERROR(Begin("step"));
    SHARDSTEP_RETURN_IF_ERROR(timer_->Enclose([&] { return trainer_->EnqueueStep(); }));
    SHARDSTEP_RETURN_IF_ERROR(trainer_->Finish());
    SHARDSTEP_ASSIGN_OR_RETURN(row_.step_ms.emplace_back(), timer_->Await());
    return absl::OkStatus();
  }

  absl::Status KernelRound() {
    using Kind = CudaPasses::Kind;
    SHARDSTEP_RETURN_IF_ERROR(Meet("kernels"));
    if (passes_->has_norm()) {
      SHARDSTEP_RETURN_IF_ERROR(Time(&row_.norm.twin_ms, [&] { return passes_->Norm(Kind::kTwin); }));
      SHARDSTEP_RETURN_IF_ERROR(Time(&row_.norm.kernel_ms, [&] { return passes_->Norm(Kind::kKernel); }));
    }
    if (passes_->has_update_twin()) {
      SHARDSTEP_RETURN_IF_ERROR(Time(&row_.update.twin_ms, [&] { return passes_->Update(Kind::kTwin); }));
    }
    SHARDSTEP_RETURN_IF_ERROR(Time(&row_.update.kernel_ms, [&] { return passes_->Update(Kind::kKernel); }));
    return Time(&row_.copy_ms, [&] { return copy_->Enqueue(); });
  }

  // ---- After them
  // ----------------------------------------------------------------------------------------------------

  // Rank 0 compares every weight; digests say that the other copies are the same.
  absl::Status Check() {
    SHARDSTEP_RETURN_IF_ERROR(trainer_->optimizer().Digests().status());
    const absl::Status mine = rendezvous_.rank() == 0 ? CompareWeights() : absl::OkStatus();
    return AgreeOnStatus(rendezvous_, "check", mine, kCheckDeadline);
  }

  absl::Status CompareWeights() {
    SHARDSTEP_ASSIGN_OR_RETURN(const auto expected, ReferenceWeights(options_, ranks(), trainer_->steps()));
    absl::Status read;
    std::vector<Bf16> values;
    row_.wrong = CountWrong(expected, [&](int p) {
      const absl::Span<const Bf16> weights = trainer_->optimizer().weights(p);
      values.resize(weights.size());
      read.Update(
          place_.memory().Read(weights.data(), values.data(), static_cast<int64_t>(weights.size() * sizeof(Bf16))));
      return absl::MakeConstSpan(values);
    });
    return read;
  }

  // Of all ranks the slowest, in every round.
  absl::Status Combine() {
    int64_t blocking_calls = 0;
    for (const auto& [call, count] : trainer_->blocking_calls()) {
      Say(absl::StrFormat("blocking calls in steps: %d of %s", count, call));
      blocking_calls += count;
    }
    SHARDSTEP_ASSIGN_OR_RETURN(row_.blocking_calls, Sum(blocking_calls));
    std::vector<double*> figures = {&row_.memory_bytes, &row_.estimated_bytes};
    for (std::vector<double>* series :
         {&row_.step_ms, &row_.gradient_ms, &row_.update_ms, &row_.wire_ms, &row_.norm.kernel_ms, &row_.norm.twin_ms,
          &row_.update.kernel_ms, &row_.update.twin_ms, &row_.copy_ms}) {
      for (double& value : *series) figures.push_back(&value);
    }
    std::vector<double> mine;
    for (const double* figure : figures) mine.push_back(*figure);
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<double> most, Most(rendezvous_, mine));
    for (size_t i = 0; i < figures.size(); ++i) *figures[i] = most[i];
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> Sum(int64_t mine) {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                               rendezvous_.AllGatherBytes("a sum", absl::StrCat(mine), kMeetingDeadline));
    int64_t sum = 0;
    for (const std::string& text : all) {
      int64_t of_rank = 0;
      if (!absl::SimpleAtoi(text, &of_rank)) return absl::InternalError("a figure of a rank did not come whole");
      sum += of_rank;
    }
    return sum;
  }

  const BenchOptions& options_;
  const CudaBenchJob& job_;
  Rendezvous& rendezvous_;
  CudaPlace& place_;
  std::ostream& out_;
  int64_t free_before_ = 0;
  CudaBenchRow row_;
  WireCost wire_cost_;  ///< of one micro-step
  // What comes later uses what comes before.
  std::unique_ptr<CudaTimer> timer_;
  std::unique_ptr<CudaTrainer> trainer_;
  std::unique_ptr<CudaPasses> passes_;
  std::unique_ptr<CudaCopy> copy_;
  std::unique_ptr<CudaWire> wire_;
};

}  // namespace

absl::StatusOr<CudaBenchRow> RunCudaBench(const BenchOptions& options, const CudaBenchJob& job, CudaPlace& place,
                                          std::ostream& out) {
  return CudaBench(options, job, place, out).Run();
}

}  // namespace shardstep
