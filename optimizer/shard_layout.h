#ifndef SHARDSTEP_OPTIMIZER_SHARD_LAYOUT_H_
#define SHARDSTEP_OPTIMIZER_SHARD_LAYOUT_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"

namespace shardstep {

enum class DType { kBf16, kFp32 };

/// A named tensor as the trainer registers it. `shape` {} is a scalar; a zero extent makes it empty.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  int group = 0;  ///< index into the options' groups
  DType weight_dtype = DType::kBf16;
  DType gradient_dtype = DType::kBf16;
};

/// Product of the extents; InvalidArgument, naming the parameter, when one is negative or the product exceeds 2^40.
absl::StatusOr<int64_t> ElementCount(const ParameterSpec& parameter);

/// A run of consecutive elements of one parameter inside one shard. Never cut inside a block of 1024 logical elements;
/// never contains padding.
struct Segment {
  int parameter = 0;
  int group = 0;
  int64_t begin_element = 0;        ///< in the parameter; a multiple of kBlockElements
  int64_t elements = 0;             ///< > 0
  int64_t shard_begin_element = 0;  ///< in the bucket's shard; a multiple of kBlockElements
};

/// A run of elements of one parameter and where its owner keeps it.
struct OwnedRange {
  int bucket = 0;
  int rank = 0;
  int64_t begin_element = 0;  ///< in the parameter
  int64_t elements = 0;
  int64_t state_begin_element = 0;  ///< in the owner's fp32 state arrays (all its shards, bucket after bucket)
};

/// Which rank owns which element, as pure integers: a function of the parameters, the bucket size and the world size.
///
/// The arena (one for weights, one for gradients, same offsets) holds the parameters in registration order, each
/// contiguous and starting at a multiple of kBlockElements. Buckets are consecutive arena ranges, numbered from the
/// arena's end, because backward finishes the last parameters first. A bucket's size is world_size times its shard
/// size, and a shard's size is a multiple of kBlockElements. Buckets are filled: a parameter that does not fit into
/// what is left of one is cut at a multiple of kBlockElements * world_size of its own elements, and its head goes on in
/// the next. Padding follows parameters, and is zero; what rounds a bucket up follows its first parameter.
class ShardLayout {
 public:
  static constexpr int64_t kBlockElements = 1024;

  /// InvalidArgument names the parameter or option: no name, a name twice, a bad shape, a dtype this build has no
  /// kernels for, a negative group, more than 2^40 elements in all, bucket_bytes or world_size not positive.
  /// `bucket_bytes` is rounded down to whole blocks per rank, but at least one.
  static absl::StatusOr<ShardLayout> Create(std::vector<ParameterSpec> parameters, int64_t bucket_bytes,
                                            int world_size);

  int world_size() const { return world_size_; }
  int parameter_count() const { return static_cast<int>(parameters_.size()); }
  const ParameterSpec& parameter(int p) const { return parameters_[p].spec; }
  int64_t elements(int p) const { return parameters_[p].elements; }
  /// Logical elements of all parameters together.
  int64_t total_elements() const { return total_elements_; }
  /// Logical elements of all parameters registered before p: (p, element) in registration order as one number.
  int64_t global_begin_element(int p) const { return parameters_[p].global_begin_element; }
  /// The inverse: the parameter and element of a global element, which must be below total_elements().
  std::pair<int, int64_t> Locate(int64_t global_element) const;
  /// The parameter of that name, or -1.
  int FindParameter(absl::string_view name) const;

  int64_t arena_elements() const { return arena_elements_; }
  int64_t arena_begin_element(int p) const { return parameters_[p].arena_begin_element; }

  int bucket_count() const { return static_cast<int>(buckets_.size()); }
  int64_t bucket_begin_element(int b) const { return buckets_[b].begin_element; }
  int64_t shard_elements(int b) const { return buckets_[b].shard_elements; }
  /// The buckets that hold elements of p, ascending: [first, last]. An empty parameter has none: {0, -1}.
  std::pair<int, int> buckets_of(int p) const { return {parameters_[p].first_bucket, parameters_[p].last_bucket}; }
  /// The parameters with elements in bucket b, in registration order.
  absl::Span<const int> parameters_of(int b) const { return buckets_[b].parameters; }

  /// fp32 elements that one rank keeps of each state array, padding included; equal on every rank.
  int64_t state_elements() const { return state_elements_; }
  int64_t state_begin_element(int b) const { return buckets_[b].state_begin_element; }

  /// What `rank` owns of bucket b, ascending.
  std::vector<Segment> Segments(int b, int rank) const;
  /// Where elements [begin, end) of parameter p live, ascending, without gap or overlap.
  std::vector<OwnedRange> Owners(int p, int64_t begin_element, int64_t end_element) const;

 private:
  struct Parameter {
    ParameterSpec spec;
    int64_t elements = 0;
    int64_t global_begin_element = 0;
    int64_t arena_begin_element = 0;
    int first_bucket = 0;
    int last_bucket = -1;
  };
  struct Bucket {
    int64_t begin_element = 0;
    int64_t shard_elements = 0;
    int64_t state_begin_element = 0;
    std::vector<int> parameters;
  };
  ShardLayout() = default;

  absl::Status AddParameter(ParameterSpec spec);
  void CutBuckets(int64_t capacity_elements);
  void PlaceBuckets(const std::vector<int64_t>& lowest_begins);

  int world_size_ = 1;
  std::vector<Parameter> parameters_;
  std::unordered_map<std::string, int> index_by_name_;
  std::vector<Bucket> buckets_;
  int64_t total_elements_ = 0;
  int64_t arena_elements_ = 0;
  int64_t state_elements_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SHARD_LAYOUT_H_
