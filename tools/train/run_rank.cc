#include "shardstep/tools/train/run_rank.h"

#include <thread>
#include <utility>

#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tools/train/trainer.h"

namespace shardstep {

Outcome RunRank(const TrainOptions& options, const Corpus& corpus, Rendezvous& rendezvous,
                absl::StatusOr<CommunicatorLevels> communicators, TrainListener* listener) {
  Outcome outcome{communicators.status()};
  if (communicators.ok()) {
    auto trainer = Trainer::Create(options, corpus, rendezvous, *std::move(communicators), listener);
    outcome.status = trainer.status();
    if (trainer.ok()) {
      outcome = {(*trainer)->Run(), Phase::kRun};
      if (!outcome.status.ok()) (*trainer)->Abort(outcome.status);
    }
  }
  // The others may be in a meeting, where no abort of the data path reaches them.
  if (!outcome.status.ok()) rendezvous.Fail(outcome.status);
  return outcome;
}

std::vector<Outcome> RunOnThreads(const TrainOptions& options, const Corpus& corpus, TrainListener& listener) {
  ThreadRendezvousGroup group(options.ranks);
  std::vector<Outcome> outcomes(options.ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const std::unique_ptr<Rendezvous> rendezvous = group.Join(rank);
      auto communicator = CreateInprocCommunicator(*rendezvous, {.wait_deadline = options.optimizer.wait_deadline});
      outcomes[rank] =
          RunRank(options, corpus, *rendezvous, OneLevel(std::move(communicator)), rank == 0 ? &listener : nullptr);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

absl::StatusOr<CommunicatorLevels> OneLevel(absl::StatusOr<std::unique_ptr<Communicator>> communicator) {
  if (!communicator.ok()) return communicator.status();
  return CommunicatorLevels(*std::move(communicator));
}

}  // namespace shardstep
