// shardstep_train: trains a byte-level GPT with a sharded step, on ranks that mpirun started or on threads.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/comm/tcp/tcp_rendezvous.h"
#include "shardstep/tools/exit_code.h"
#include "shardstep/tools/train/corpus.h"
#include "shardstep/tools/train/run_rank.h"
#include "shardstep/tools/train/train_options.h"
#include "shardstep/tools/train/train_report.h"

namespace shardstep {
namespace {

constexpr int kUsualColumns = 80;

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

TrainReport MakeReport(const TrainOptions& options) { return {options, std::cout, TerminalColumns()}; }

int RunUnderMpi(const TrainOptions& options, const Corpus& corpus) {
  const absl::StatusOr<std::unique_ptr<MpiRendezvous>> rendezvous = MpiRendezvous::Create();
  if (!rendezvous.ok()) return Report({rendezvous.status()}, 0);
  const ClusterOptions cluster{.wait_deadline = options.optimizer.wait_deadline,
                               .max_message_bytes = options.optimizer.max_message_bytes,
                               .private_weights = options.optimizer.weights == WeightCopies::kPrivate};
  auto communicators = CreateClusterCommunicators(**rendezvous, cluster);
  const int rank = (*rendezvous)->rank();
  TrainReport report = MakeReport(options);
  return Report(RunRank(options, corpus, **rendezvous, std::move(communicators), rank == 0 ? &report : nullptr), rank);
}

// Ranks that somebody else started.
int RunOverTcp(const TrainOptions& options, const Corpus& corpus) {
  const absl::StatusOr<std::unique_ptr<Rendezvous>> rendezvous =
      CreateTcpRendezvous({.address = options.address, .rank = options.rank, .world_size = options.ranks});
  if (!rendezvous.ok()) return Report({rendezvous.status()}, options.rank);
  auto communicator = CreateShmCommunicator(**rendezvous, {.wait_deadline = options.optimizer.wait_deadline});
  if (!communicator.ok()) {
    communicator = Annotate(communicator.status(), "run.backend TCP, whose ranks must be on one host");
  }
  TrainReport report = MakeReport(options);
  return Report(
      RunRank(options, corpus, **rendezvous, OneLevel(std::move(communicator)), options.rank == 0 ? &report : nullptr),
      options.rank);
}

int RunThreads(const TrainOptions& options, const Corpus& corpus) {
  TrainReport report = MakeReport(options);
  int code = 0;
  int rank = 0;
  for (const Outcome& outcome : RunOnThreads(options, corpus, report)) {
    code = std::max(code, Report(outcome, rank++));
  }
  return code;
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
  switch (options->backend) {
    case TrainBackend::kShm:
      return RunUnderMpi(*options, *corpus);
    case TrainBackend::kInproc:
      return RunThreads(*options, *corpus);
    case TrainBackend::kTcp:
      return RunOverTcp(*options, *corpus);
  }
  return Report({absl::InternalError("a backend without a way to run it")}, 0);
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::Main(argc, argv); }
