#ifndef SHARDSTEP_TOOLS_PRECISION_PRECISION_OPTIONS_H_
#define SHARDSTEP_TOOLS_PRECISION_PRECISION_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"
#include "shardstep/tools/precision/master_training.h"

namespace shardstep {

/// What the command line of shardstep_precision says.
struct PrecisionOptions {
  int64_t steps = 10'000;
  int64_t stochastic_weights = 256;
  int64_t elements = 4096;
  int64_t max_count = 4096;
  int64_t max_ranks = 1024;
  int64_t seed = 1;
  std::string data_file;  ///< empty: no training
  MasterTrainingOptions training;
  std::string json_file;          ///< empty: none
  std::string gnuplot_directory;  ///< empty: none
  bool help = false;
};

/// `arguments` without the program's name; flags read --name=value or --name value. InvalidArgument names the flag.
absl::StatusOr<PrecisionOptions> ParsePrecisionOptions(absl::Span<const char* const> arguments);

std::string PrecisionHelp();

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_PRECISION_PRECISION_OPTIONS_H_
