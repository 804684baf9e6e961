#ifndef SHARDSTEP_OPTIMIZER_CUDA_DECIDE_INL_H_
#define SHARDSTEP_OPTIMIZER_CUDA_DECIDE_INL_H_

#include "shardstep/optimizer/cuda_vectors-inl.h"
#include "shardstep/optimizer/decision_formula.h"

/// Contribute and Decide: one warp. What lies in pinned memory is copied by all lanes at once, because every read of it
/// is a journey; the decision itself is one lane's.

namespace shardstep::cuda {

/// In shared memory.
struct ContributeShared {
  StepOrder order;
  ScanResult scan;
  ScanResult exchange_scan;
  SmallReduction reduction;
};
struct DecideShared {
  StepOrder order;
  SmallReduction reduction;
  StepFacts facts;
  UpdateScalars scalars;
  StepReport report;
};

template <typename T, typename Machine>
SHARDSTEP_DEVICE void CopyWords(const Machine& machine, const T& from, T* to) {
  static_assert(sizeof(T) % sizeof(uint64_t) == 0 && alignof(T) == alignof(uint64_t));
  constexpr int kWords = static_cast<int>(sizeof(T) / sizeof(uint64_t));
  machine.ForEachLane([&](int lane) {
    for (int i = lane; i < kWords; i += kWarpLanes) {
      reinterpret_cast<uint64_t*>(to)[i] = reinterpret_cast<const uint64_t*>(&from)[i];
    }
  });
}

template <typename Machine>
SHARDSTEP_DEVICE void Contribute(const Machine& machine, const ContributeWords& words, ContributeShared* shared) {
  CopyWords(machine, *words.order, &shared->order);
  CopyWords(machine, *words.scan, &shared->scan);
  CopyWords(machine, *words.exchange_scan, &shared->exchange_scan);
  machine.SyncWarp();
  machine.ForEachLane([&](int lane) {
    if (lane != 0) return;
    ContributeWords contribution = words;
    contribution.order = &shared->order;
    contribution.scan = &shared->scan;
    contribution.exchange_scan = &shared->exchange_scan;
    contribution.reduction = &shared->reduction;
    ContributeScans(contribution);
  });
  machine.SyncWarp();
  CopyWords(machine, shared->reduction, words.reduction);
  CopyWords(machine, shared->scan, words.scan);
  CopyWords(machine, shared->exchange_scan, words.exchange_scan);
}

template <typename Machine>
SHARDSTEP_DEVICE void Decide(const Machine& machine, const DecideWords& words, DecideShared* shared) {
  CopyWords(machine, *words.order, &shared->order);
  CopyWords(machine, *words.reduction, &shared->reduction);
  if (words.facts != nullptr) CopyWords(machine, *words.facts, &shared->facts);
  machine.SyncWarp();
  machine.ForEachLane([&](int lane) {
    if (lane != 0) return;
    DecideWords decision;
    decision.order = &shared->order;
    decision.reduction = &shared->reduction;
    decision.facts = words.facts != nullptr ? &shared->facts : nullptr;
    decision.scalars = &shared->scalars;
    decision.report = &shared->report;
    DecideStep(decision);
  });
  machine.SyncWarp();
  const UpdateScalars scalars = shared->scalars;
  machine.ForEachLane([&](int lane) {
    for (int32_t i = lane; scalars.apply && i < words.settings_count; i += kWarpLanes) {
      words.rules[i] = ScalarsOf(words.settings[i], shared->order.learning_rate, scalars.applied_step);
    }
  });
  CopyWords(machine, shared->scalars, words.scalars);
  CopyWords(machine, shared->report.reduction, &words.report->reduction);
  CopyWords(machine, shared->report.scalars, &words.report->scalars);
  if (scalars.apply) machine.PublishToHost(shared->order.step, &words.report->applied_in_step);
}

}  // namespace shardstep::cuda

#endif  // SHARDSTEP_OPTIMIZER_CUDA_DECIDE_INL_H_
