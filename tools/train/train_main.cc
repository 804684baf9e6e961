// shardstep_train: trains a byte-level GPT with a sharded step, on ranks that mpirun started or on threads.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/train/corpus.h"
#include "shardstep/tools/train/train_options.h"
#include "shardstep/tools/train/trainer.h"

namespace shardstep {
namespace {

// How a rank ended: the status and what it was doing.
struct Outcome {
  absl::Status status;
  Phase phase = Phase::kSetup;
};

int Report(const Outcome& outcome, int rank) {
  const ExitCode code = ExitCodeOf(outcome.status, outcome.phase);
  if (code != ExitCode::kOk) std::cerr << "shardstep_train, rank " << rank << ": " << outcome.status << std::endl;
  return static_cast<int>(code);
}

// mpirun gives every rank a terminal of its own, whatever stands behind it; the launcher script knows.
bool IsTerminal() {
  const char* launcher_says = std::getenv("SHARDSTEP_TERMINAL");
  return launcher_says != nullptr ? absl::string_view(launcher_says) == "1" : isatty(STDOUT_FILENO) == 1;
}

Outcome RunRank(const TrainOptions& options, const Corpus& corpus, Rendezvous& rendezvous) {
  const SharedMemoryOptions shared_memory{.wait_deadline = options.optimizer.wait_deadline};
  auto communicator = options.backend == TrainBackend::kShm ? CreateShmCommunicator(rendezvous, shared_memory)
                                                            : CreateInprocCommunicator(rendezvous, shared_memory);
  if (!communicator.ok()) return {communicator.status()};
  auto trainer = Trainer::Create(options, corpus, rendezvous, *std::move(communicator), std::cout, IsTerminal());
  if (!trainer.ok()) return {trainer.status()};
  const absl::Status status = (*trainer)->Run();
  if (!status.ok()) (*trainer)->Abort(status);
  return {status, Phase::kRun};
}

int RunProcess(const TrainOptions& options, const Corpus& corpus) {
  const absl::StatusOr<std::unique_ptr<MpiRendezvous>> rendezvous = MpiRendezvous::Create();
  if (!rendezvous.ok()) return Report({rendezvous.status()}, 0);
  return Report(RunRank(options, corpus, **rendezvous), (*rendezvous)->rank());
}

int RunThreads(const TrainOptions& options, const Corpus& corpus) {
  ThreadRendezvousGroup group(options.ranks);
  std::vector<int> codes(options.ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const std::unique_ptr<Rendezvous> rendezvous = group.Join(rank);
      codes[rank] = Report(RunRank(options, corpus, *rendezvous), rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return *std::max_element(codes.begin(), codes.end());
}

int Main(int argc, char** argv) {
  const auto command_line = ParseCommandLine({argv + 1, static_cast<size_t>(argc - 1)});
  if (!command_line.ok()) return Report({command_line.status(), Phase::kCommandLine}, 0);
  if (command_line->help) {
    std::cout << TrainHelp();
    return 0;
  }
  const absl::StatusOr<TrainOptions> options = ReadTrainOptions(*command_line);
  if (!options.ok()) return Report({options.status(), Phase::kSetup}, 0);
  const absl::StatusOr<Corpus> corpus = Corpus::Open(options->data_path, options->model.context);
  if (!corpus.ok()) return Report({corpus.status(), Phase::kData}, 0);
  return options->backend == TrainBackend::kShm ? RunProcess(*options, *corpus) : RunThreads(*options, *corpus);
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::Main(argc, argv); }
