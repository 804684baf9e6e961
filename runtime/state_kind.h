#ifndef SHARDSTEP_RUNTIME_STATE_KIND_H_
#define SHARDSTEP_RUNTIME_STATE_KIND_H_

#include "absl/strings/string_view.h"

namespace shardstep {

/// What the model consists of, as fp32 values, however it is kept.
enum class StateKind { kMaster, kFirstMoment, kSecondMoment };
inline constexpr StateKind kStateKinds[] = {StateKind::kMaster, StateKind::kFirstMoment, StateKind::kSecondMoment};
/// "master", "first_moment", "second_moment".
absl::string_view Name(StateKind kind);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STATE_KIND_H_
