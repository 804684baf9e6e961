#ifndef SHARDSTEP_TOOLS_EXIT_CODE_H_
#define SHARDSTEP_TOOLS_EXIT_CODE_H_

#include "shardstep/comm/status.h"

namespace shardstep {

/// What every program of Shardstep ends with; the numbers are those of sysexits.h.
enum class ExitCode : int {
  kOk = 0,
  kUsage = 64,          ///< the command line
  kBadData = 65,        ///< a data file or checkpoint
  kInternal = 70,       ///< Shardstep's own fault
  kIo = 74,             ///< the operating system refused
  kRetryable = 75,      ///< a rank was lost or late: the same command may succeed
  kConfiguration = 78,  ///< options, or ranks that were started with different ones
};

/// What the program was doing when it failed.
enum class Phase {
  kCommandLine,  ///< reading flags
  kSetup,        ///< reading options, creating communicator and optimizer, loading a checkpoint
  kData,         ///< opening the data that it works on
  kRun,          ///< stepping, evaluating, saving
};

/// By the cause of `status` (CauseOf): a rank that another one ended exits as that one did. An OK status gives kOk in
/// every phase.
ExitCode ExitCodeOf(const absl::Status& status, Phase phase);

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_EXIT_CODE_H_
