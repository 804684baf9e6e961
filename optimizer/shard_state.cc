#include "shardstep/optimizer/shard_state.h"

namespace shardstep {

absl::StatusOr<ShardState> ShardState::Create(const ShardLayout& layout, bool with_accumulator) {
  const int64_t size_bytes = layout.state_elements() * static_cast<int64_t>(sizeof(float));
  ShardState state;
  SHARDSTEP_ASSIGN_OR_RETURN(state.master_, Buffer::Allocate(size_bytes, "master weights"));
  SHARDSTEP_ASSIGN_OR_RETURN(state.first_moment_, Buffer::Allocate(size_bytes, "first moments"));
  SHARDSTEP_ASSIGN_OR_RETURN(state.second_moment_, Buffer::Allocate(size_bytes, "second moments"));
  if (with_accumulator) SHARDSTEP_RETURN_IF_ERROR(state.EnsureAccumulator(layout));
  return state;
}

absl::Status ShardState::EnsureAccumulator(const ShardLayout& layout) {
  if (accumulator_.size_bytes() > 0) return absl::OkStatus();
  const int64_t size_bytes = layout.state_elements() * static_cast<int64_t>(sizeof(float));
  SHARDSTEP_ASSIGN_OR_RETURN(accumulator_, Buffer::Allocate(size_bytes, "gradient accumulator"));
  return absl::OkStatus();
}

}  // namespace shardstep
