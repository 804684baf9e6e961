#include "shardstep/optimizer/lion.h"

namespace shardstep {

LionScalars MakeLionScalars(const LionOptions& options, double learning_rate) {
  const double group_rate = learning_rate * options.learning_rate_factor;
  return {.beta1 = static_cast<float>(options.beta1),
          .one_minus_beta1 = static_cast<float>(1 - options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .one_minus_beta2 = static_cast<float>(1 - options.beta2),
          .lr_weight_decay = static_cast<float>(group_rate * options.weight_decay),
          .learning_rate = static_cast<float>(group_rate)};
}

}  // namespace shardstep
