#ifndef SHARDSTEP_TOOLS_TRAIN_RUN_RANK_H_
#define SHARDSTEP_TOOLS_TRAIN_RUN_RANK_H_

#include <memory>
#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/comm/levels.h"
#include "shardstep/comm/rendezvous.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/train/corpus.h"
#include "shardstep/tools/train/train_listener.h"
#include "shardstep/tools/train/train_options.h"

namespace shardstep {

/// How a rank ended: the status and what it was doing.
struct Outcome {
  absl::Status status;
  Phase phase = Phase::kSetup;
};

/// Collective. A training run as one rank sees it, from making the trainer to its end, over `communicators` if they
/// could be made. A failure ends the job of all ranks. `listener`: of rank 0, nullptr on the others.
Outcome RunRank(const TrainOptions& options, const Corpus& corpus, Rendezvous& rendezvous,
                absl::StatusOr<CommunicatorLevels> communicators, TrainListener* listener);

/// A whole run whose options.ranks ranks are threads of this process; the outcome of each.
std::vector<Outcome> RunOnThreads(const TrainOptions& options, const Corpus& corpus, TrainListener& listener);

/// Of a communicator among all ranks.
absl::StatusOr<CommunicatorLevels> OneLevel(absl::StatusOr<std::unique_ptr<Communicator>> communicator);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_RUN_RANK_H_
