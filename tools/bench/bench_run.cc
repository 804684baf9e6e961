#include "shardstep/tools/bench/bench_run.h"

#include <algorithm>
#include <chrono>
#include <ostream>
#include <utility>

#include "absl/strings/str_format.h"
#include "shardstep/comm/host_memory.h"
#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/shm/host_id.h"
#include "shardstep/tools/bench/allocator.h"
#include "shardstep/tools/bench/bench_check.h"
#include "shardstep/tools/bench/bench_model.h"
#include "shardstep/tools/bench/bench_trainer.h"
#include "shardstep/tools/bench/floor_twin.h"
#include "shardstep/tools/bench/mpi_baselines.h"
#include "shardstep/tools/bench/mpi_wire.h"
#include "shardstep/tools/bench/process_memory.h"
#include "shardstep/tools/trace/trace_file.h"
#include "shardstep/tools/trace/trace_recording.h"

namespace shardstep {
namespace {

constexpr absl::Duration kMeetingDeadline = absl::Minutes(10);
// Of the check, whose scalar steps rank 0 makes alone.
constexpr absl::Duration kCheckDeadline = absl::Hours(6);
constexpr double kMegabyte = 1e6;

StepCase CaseOf(const BenchOptions& options, const HostMap& map, int ranks) {
  return {.ranks = ranks,
          .hosts = map.host_count(),
          .update = options.optimizer.groups[0].kind(),
          .micro_steps = options.optimizer.micro_steps,
          .two_passes = options.optimizer.non_finite != NonFinitePolicy::kIgnore,
          .private_weights = options.optimizer.weights == WeightCopies::kPrivate,
          .sum_group = options.optimizer.sum_group,
          .host_sum = options.optimizer.host_sum == HostSum::kRounded};
}

class BenchRun {
 public:
  BenchRun(const BenchOptions& options, MpiRendezvous& rendezvous, MpiWorld& world, std::ostream& out)
      : options_(options), rendezvous_(rendezvous), world_(world), out_(out), compute_(world) {}

  absl::StatusOr<std::vector<BenchRow>> Run() {
    SHARDSTEP_RETURN_IF_ERROR(Prepare());
    SHARDSTEP_RETURN_IF_ERROR(Warmup());
    SHARDSTEP_RETURN_IF_ERROR(MakeFloors());
    SHARDSTEP_RETURN_IF_ERROR(MakeBaselines());
    for (int64_t i = 0; i < options_.steps; ++i) SHARDSTEP_RETURN_IF_ERROR(Round());
    if (!waited_ms_.empty()) Say(absl::StrFormat("waited: %.3f ms of a step", Median(waited_ms_)));
    SHARDSTEP_RETURN_IF_ERROR(Trace());
    if (options_.check) SHARDSTEP_RETURN_IF_ERROR(Check());
    std::vector<BenchRow> rows = {ours_};
    for (const Measured& baseline : baselines_) rows.push_back(baseline.row);
    return rows;
  }

 private:
  struct Measured {
    MpiBaseline* baseline;
    Allocator allocator;
    BenchRow row;
  };

  void Say(const std::string& line) {
    if (rendezvous_.rank() == 0) out_ << "# " << line << "\n" << std::flush;
  }

  absl::Status Prepare() {
    SHARDSTEP_ASSIGN_OR_RETURN(map_, MapHosts(rendezvous_, DefaultHostId(), kMeetingDeadline));
    ours_.step = CaseOf(options_, map_, world_.world_size());
    ours_.parameters = ElementCount(options_.parameters);
    ours_.wire = ours_.step.host_sum ? "host_sum" : "exact";
    ours_.max_norm = options_.max_norm;
    SHARDSTEP_RETURN_IF_ERROR(CheckMemory());
    SHARDSTEP_ASSIGN_OR_RETURN(before_, ReadProcessMemory());
    SHARDSTEP_ASSIGN_OR_RETURN(
        CommunicatorLevels levels,
        CreateClusterCommunicators(rendezvous_, {.wait_deadline = options_.optimizer.wait_deadline,
                                                 .max_message_bytes = options_.optimizer.max_message_bytes,
                                                 .private_weights = ours_.step.private_weights}));
    SHARDSTEP_ASSIGN_OR_RETURN(trainer_, BenchTrainer::Create(options_, std::move(levels), rendezvous_, compute_));
    Say(absl::StrFormat("%s: %d parameters in %d tensors and %d buckets, %d ranks on %d hosts", options_.model,
                        ours_.parameters, options_.parameters.size(), trainer_->optimizer().layout().bucket_count(),
                        ours_.step.ranks, ours_.step.hosts));
    const std::string wire = trainer_->optimizer().DescribeWire();
    if (!wire.empty()) Say(wire);
    return absl::OkStatus();
  }

  // Before anything is allocated. All ranks come to the same conclusion, or leave together.
  absl::Status CheckMemory() {
    SHARDSTEP_ASSIGN_OR_RETURN(
        const MemoryEstimate estimate,
        ShardedOptimizer::EstimateMemory(options_.optimizer, options_.parameters, world_.world_size()));
    int64_t rank_bytes = estimate.rank_bytes();
    if (map_.host_count() > 1) {
      const WireCost wire = CountWireCost(ours_.step, ours_.parameters);
      rank_bytes += 2 * std::max(wire.gradients, wire.weights) / map_.ranks_per_host();
    }
    for (const Baseline baseline : options_.baselines) {
      rank_bytes += MpiBaseline::EstimateBytes(baseline, options_, world_.world_size());
    }
    const int64_t ranks = map_.ranks_per_host();
    const int64_t check_bytes = options_.check ? ReferenceBytes(options_, world_.world_size()) : 0;
    const absl::Status mine = CheckMemoryAvailable(ranks * rank_bytes + estimate.weights_shared_bytes + check_bytes,
                                                   absl::StrCat(options_.model, " with ", ranks, " ranks on a host"));
    return AgreeOnStatus(rendezvous_, "memory", mine, kMeetingDeadline);
  }

  absl::Status Warmup() {
    // One at least: it touches every page.
    for (int64_t i = 0; i < std::max<int64_t>(1, options_.warmup); ++i) {
      SHARDSTEP_RETURN_IF_ERROR(trainer_->TrainStep());
      SHARDSTEP_RETURN_IF_ERROR(trainer_->Finish());
    }
    return CompareMemory();
  }

  // What was estimated with what the system has come to count since the start.
  absl::Status CompareMemory() {
    const MemoryEstimate estimate = trainer_->optimizer().memory();
    world_.Barrier();  // shared pages count in part while all ranks have them
    SHARDSTEP_ASSIGN_OR_RETURN(const ProcessMemory now, ReadProcessMemory());
    world_.Barrier();
    const int64_t shared = map_.local_rank == 0 ? estimate.weights_shared_bytes : 0;
    const auto estimated = static_cast<double>(world_.Sum(estimate.rank_bytes() + shared));
    const auto counted = static_cast<double>(world_.Sum(now.proportional_bytes - before_.proportional_bytes));
    const auto peak = static_cast<double>(world_.Sum(now.peak_resident_bytes - now.resident_bytes));
    Say(absl::StrFormat("memory: estimated %.1f MB, counted by the system %.1f MB (%.4f), at most %.1f MB (%.4f)",
                        estimated / kMegabyte, counted / kMegabyte, counted / estimated, (counted + peak) / kMegabyte,
                        (counted + peak) / estimated));
    return absl::OkStatus();
  }

  absl::Status MakeFloors() {
    SHARDSTEP_ASSIGN_OR_RETURN(
        twin_, FloorTwin::Create(ours_.step, ShardBuffersOf(trainer_->optimizer()),
                                 KernelThreads(options_.optimizer.update_threads, world_.host_ranks())));
    const auto moved = static_cast<double>(world_.Sum(twin_->gradient_bytes() + twin_->update_bytes()));
    const double counted = CountMemoryCost(ours_.step).total() * static_cast<double>(ours_.parameters);
    if (moved != counted) {
      return absl::InternalError(absl::StrCat("the floor moves ", moved, " bytes instead of ", counted));
    }
    if (map_.host_count() == 1) return absl::OkStatus();
    wire_cost_ = CountWireCost(ours_.step, ours_.parameters);
    SHARDSTEP_ASSIGN_OR_RETURN(wire_, MpiWire::Create(map_, std::max(wire_cost_.gradients, wire_cost_.weights)));
    return absl::OkStatus();
  }

  absl::Status MakeBaselines() {
    for (const Baseline name : options_.baselines) {
      SetAllocator(Allocator::kKeeps);
      SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<MpiBaseline> baseline, MpiBaseline::Create(name, options_));
      made_.push_back(std::move(baseline));
      for (const Allocator allocator : {Allocator::kKeeps, Allocator::kDefault}) {
        BenchRow row = ours_;
        row.wire = absl::StrCat(ToString(name), allocator == Allocator::kDefault ? "+malloc" : "");
        baselines_.push_back({made_.back().get(), allocator, row});
      }
    }
    return absl::OkStatus();
  }

  absl::Status Round() {
    SHARDSTEP_RETURN_IF_ERROR(TimeFloor());
    SHARDSTEP_RETURN_IF_ERROR(options_.backward_ms > 0 ? TimeOverlap() : TimeStep());
    for (Measured& baseline : baselines_) SHARDSTEP_RETURN_IF_ERROR(TimeBaseline(&baseline));
    return absl::OkStatus();
  }

  absl::Status TimeFloor() {
    const auto time = [&](std::vector<double>* to, int64_t wire_bytes, const std::function<void()>& memory) {
      SHARDSTEP_ASSIGN_OR_RETURN(double ms, world_.Time([&] {
        memory();
        return absl::OkStatus();
      }));
      if (wire_ != nullptr) {
        SHARDSTEP_ASSIGN_OR_RETURN(const double wire_ms, world_.Time([&] { return wire_->Exchange(wire_bytes); }));
        ms = std::max(ms, wire_ms);
      }
      to->push_back(ms);
      return absl::OkStatus();
    };
    if (wire_ == nullptr) {
      // Nothing to wait for between the halves.
      ours_.gradient_ms.push_back(0);
      return time(&ours_.update_ms, 0, [&] {
        twin_->Gradients();
        twin_->Update();
      });
    }
    SHARDSTEP_RETURN_IF_ERROR(time(&ours_.gradient_ms, wire_cost_.gradients, [&] { twin_->Gradients(); }));
    return time(&ours_.update_ms, wire_cost_.weights, [&] { twin_->Update(); });
  }

  absl::Status TimeStep() {
    SHARDSTEP_ASSIGN_OR_RETURN(const double ms, world_.Time([&]() -> absl::Status {
      SHARDSTEP_RETURN_IF_ERROR(trainer_->TrainStep());
      return trainer_->Finish();
    }));
    ours_.step_ms.push_back(ms);
    return absl::OkStatus();
  }

  // A step in the middle of others, from one call of Step to the next.
  absl::Status TimeOverlap() {
    SHARDSTEP_ASSIGN_OR_RETURN(const double compute_ms, world_.Time([&] {
      trainer_->Compute();
      return absl::OkStatus();
    }));
    ours_.compute_ms.push_back(compute_ms);
    world_.Barrier();
    SHARDSTEP_RETURN_IF_ERROR(trainer_->TrainStep());
    const auto begin = std::chrono::steady_clock::now();
    SHARDSTEP_RETURN_IF_ERROR(trainer_->TrainStep());
    const std::chrono::duration<double, std::milli> step = std::chrono::steady_clock::now() - begin;
    waited_ms_.push_back(world_.Max(trainer_->waited_ms()));
    SHARDSTEP_RETURN_IF_ERROR(trainer_->Finish());
    ours_.step_ms.push_back(world_.Max(step.count()));
    return absl::OkStatus();
  }

  absl::Status TimeBaseline(Measured* measured) {
    SetAllocator(measured->allocator);
    // One that is not measured, as another one's memory was kept.
    SHARDSTEP_RETURN_IF_ERROR(measured->baseline->Step());
    SHARDSTEP_ASSIGN_OR_RETURN(const double ms, world_.Time([&] { return measured->baseline->Step(); }));
    measured->row.step_ms.push_back(ms);
    measured->row.gradient_ms = ours_.gradient_ms;
    measured->row.update_ms = ours_.update_ms;
    return absl::OkStatus();
  }

  // Steps of their own, as those that are measured are not watched.
  absl::Status Trace() {
    if (options_.trace_file.empty()) return absl::OkStatus();
    trainer_->optimizer().SetTrace(&recording_);
    for (int i = 0; i < 2; ++i) SHARDSTEP_RETURN_IF_ERROR(trainer_->TrainStep());
    SHARDSTEP_RETURN_IF_ERROR(trainer_->Finish());
    trainer_->optimizer().SetTrace(nullptr);
    return WriteTrace(rendezvous_, recording_, options_.trace_file);
  }

  // Rank 0 compares every weight; digests say that the other copies are the same.
  absl::Status Check() {
    ShardedOptimizer& optimizer = trainer_->optimizer();
    SHARDSTEP_RETURN_IF_ERROR(optimizer.Digests().status());
    absl::Status mine;
    if (rendezvous_.rank() == 0) {
      const auto expected = ReferenceWeights(options_, ours_.step.ranks, trainer_->steps(), ours_.step.hosts);
      mine = expected.status();
      if (mine.ok()) ours_.wrong = CountWrong(*expected, [&](int p) { return optimizer.weights(p); });
    }
    return AgreeOnStatus(rendezvous_, "check", mine, kCheckDeadline);
  }

  const BenchOptions& options_;
  MpiRendezvous& rendezvous_;
  MpiWorld& world_;
  std::ostream& out_;
  const EmulatedCompute compute_;
  HostMap map_;
  ProcessMemory before_;
  WireCost wire_cost_;
  BenchRow ours_;
  TraceRecording recording_;  // what streams may still tell while the trainer goes
  std::unique_ptr<BenchTrainer> trainer_;
  std::vector<double> waited_ms_;  // by a trainer's thread; the rest of what is exposed are cores taken from the passes
  std::unique_ptr<FloorTwin> twin_;
  std::unique_ptr<MpiWire> wire_;
  std::vector<std::unique_ptr<MpiBaseline>> made_;
  std::vector<Measured> baselines_;
};

}  // namespace

absl::StatusOr<std::vector<BenchRow>> RunBench(const BenchOptions& options, MpiRendezvous& rendezvous, MpiWorld& world,
                                               std::ostream& out) {
  return BenchRun(options, rendezvous, world, out).Run();
}

}  // namespace shardstep
