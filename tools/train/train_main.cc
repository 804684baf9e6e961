// shardstep_train: trains a byte-level GPT with a sharded step, on ranks that mpirun started or on threads.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/train/corpus.h"
#include "shardstep/tools/train/train_options.h"
#include "shardstep/tools/train/trainer.h"

namespace shardstep {
namespace {

constexpr int kUsualColumns = 80;

// How a rank ended: the status and what it was doing.
struct Outcome {
  absl::Status status;
  Phase phase = Phase::kSetup;
};

int Report(const Outcome& outcome, int rank) {
  const ExitCode code = ExitCodeOf(outcome.status, outcome.phase);
  if (code != ExitCode::kOk) {
    // In one piece, as other ranks write to the same place.
    std::cerr << absl::StrCat("shardstep_train, rank ", rank, ": ", absl::StatusCodeToString(outcome.status.code()),
                              ": ", outcome.status.message(), "\n")
              << std::flush;
  }
  return static_cast<int>(code);
}

// Columns of the terminal behind standard output; 0: there is none. mpirun gives every rank a terminal of its own,
// whatever stands behind it; the launcher script knows.
int TerminalColumns() {
  int columns = 0;
  const char* launcher_says = std::getenv("SHARDSTEP_TERMINAL_COLUMNS");
  if (launcher_says != nullptr && absl::SimpleAtoi(launcher_says, &columns)) return std::max(0, columns);
  if (isatty(STDOUT_FILENO) != 1) return 0;
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsualColumns;
}

Outcome RunRank(const TrainOptions& options, const Corpus& corpus, Rendezvous& rendezvous) {
  const SharedMemoryOptions shared_memory{.wait_deadline = options.optimizer.wait_deadline};
  auto communicator = options.backend == TrainBackend::kShm ? CreateShmCommunicator(rendezvous, shared_memory)
                                                            : CreateInprocCommunicator(rendezvous, shared_memory);
  Outcome outcome{communicator.status()};
  if (communicator.ok()) {
    auto trainer = Trainer::Create(options, corpus, rendezvous, *std::move(communicator), std::cout, TerminalColumns());
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
