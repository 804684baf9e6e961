#include "shardstep/optimizer/sgd.h"

namespace shardstep {

SgdScalars MakeSgdScalars(const SgdOptions& options, double learning_rate) {
  return {.momentum = static_cast<float>(options.momentum),
          .weight_decay = static_cast<float>(options.weight_decay),
          .learning_rate = static_cast<float>(learning_rate * options.learning_rate_factor),
          .nesterov = options.nesterov};
}

}  // namespace shardstep
