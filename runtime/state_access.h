#ifndef SHARDSTEP_RUNTIME_STATE_ACCESS_H_
#define SHARDSTEP_RUNTIME_STATE_ACCESS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/memory.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/shard_state.h"
#include "shardstep/runtime/state_kind.h"

namespace shardstep {

/// Where an array lies and how it is hashed (DigestArgs of shard_kernels.h).
struct StatePlace {
  DigestForm form = DigestForm::kFp32;
  const void* values = nullptr;
  const uint16_t* remainder = nullptr;
};

/// This rank's shards as fp32 values, between steps. Master weights are what the weights are rounded from: the fp32
/// array, the halves of a split one joined, or the weights themselves where nothing else is kept (fp32 weights, no
/// master, frozen). A view: everything it works on lives elsewhere.
class StateAccess {
 public:
  StateAccess(const ShardLayout* layout, const ShardState* state, Communicator* communicator,
              Memory* memory = &HostMemory());

  /// Whether this rank keeps `kind` for bucket b: the master always, moments by rule and unless frozen.
  bool Has(StateKind kind, int b) const;
  /// Whether Write rounds a master of bucket b: its weights are bf16 and nothing else is kept.
  bool RoundsMaster(int b) const;
  /// Elements [shard_begin, shard_begin + values.size()) of this rank's shard of bucket b.
  void Read(StateKind kind, int b, int64_t shard_begin, absl::Span<float> values) const;
  /// The same elements where they are.
  StatePlace Place(StateKind kind, int b, int64_t shard_begin) const;
  /// A master also writes what is rounded from it to all copies of the weights: bf16 to nearest even, or half of a
  /// split master. Nobody may be reading them. Without a master a value that is no bf16 is rounded to nearest even.
  void Write(StateKind kind, int b, int64_t shard_begin, absl::Span<const float> values) const;
  /// Of the weights that this rank sees: values.size() elements of `dtype` at `weights`.
  void ReadWeights(const void* weights, DType dtype, absl::Span<float> values) const;

  /// The first error of a copy between the host and the device's memory; afterwards reads leave zeros.
  const absl::Status& status() const { return status_; }

 private:
  void Copy(const void* from, void* to, int64_t size_bytes) const;
  void Store(const void* from, void* to, int64_t size_bytes) const;
  template <typename T>
  std::vector<T> Load(const void* from, size_t elements) const;
  template <typename T>
  void WriteWeights(int b, int64_t shard_begin, absl::Span<const T> weights) const;

  const ShardLayout* layout_;
  const ShardState* state_;
  Communicator* communicator_;
  Memory* memory_;
  mutable absl::Status status_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_STATE_ACCESS_H_
