#ifndef SHARDSTEP_OPTIMIZER_SHARD_LAYOUT_H_
#define SHARDSTEP_OPTIMIZER_SHARD_LAYOUT_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "shardstep/comm/dtype.h"
#include "shardstep/comm/status.h"
#include "shardstep/optimizer/update_rule.h"

namespace shardstep {

/// A named tensor as the trainer registers it. `shape` {} is a scalar; a zero extent makes it empty.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  int group = 0;  ///< index into the options' groups
  DType weight_dtype = DType::kBf16;
  DType gradient_dtype = DType::kBf16;
  /// No gradients, no state, no bytes on the wire, until it is thawed.
  bool frozen = false;
  /// The name of an earlier parameter, alike in all other fields, whose weights and gradient these are: an output
  /// layer's that are the embedding's. One owner, one update. The earlier one may itself be tied: the owner is the
  /// same.
  std::string tied_to;
  /// Weighs its squares in the global norm; finite, not negative. 1/T for a parameter that T ranks of a joint decision
  /// hold alike.
  double norm_weight = 1.0;
};

/// Product of the extents; InvalidArgument, naming the parameter, when one is negative or the product exceeds 2^40.
absl::StatusOr<int64_t> ElementCount(const ParameterSpec& parameter);

/// A run of consecutive elements of one parameter inside one shard. Never cut inside a block of 1024 logical elements;
/// never contains padding.
struct Segment {
  int parameter = 0;
  int scalars = 0;  ///< index into UpdateScalars::rules; as the layout makes it, the group
  double norm_weight = 1.0;
  int64_t global_begin_element = 0;  ///< ShardLayout::global_begin_element of the parameter plus begin_element
  int64_t begin_element = 0;         ///< in the parameter; a multiple of kBlockElements
  int64_t elements = 0;              ///< > 0
  int64_t shard_begin_element = 0;   ///< in the bucket's shard; a multiple of kBlockElements
};

/// A run of elements of one parameter and where its owner keeps it.
struct OwnedRange {
  int bucket = 0;
  int rank = 0;
  int64_t begin_element = 0;  ///< in the parameter
  int64_t elements = 0;
  int64_t shard_begin_element = 0;  ///< in the owner's shard of the bucket
};

/// What all parameters of a bucket have in common, so that one kernel and one message serve it.
struct BucketKind {
  int group = 0;  ///< as registered
  UpdateKind update;
  DType weight_dtype = DType::kBf16;
  DType gradient_dtype = DType::kBf16;
  bool frozen = false;  ///< as registered

  bool operator==(const BucketKind&) const = default;
};

/// What a layout depends on besides the parameters.
struct LayoutOptions {
  int64_t bucket_bytes = 32 << 20;  ///< of gradients; rounded down to whole blocks per rank, but at least one
  int world_size = 1;
  std::vector<UpdateKind> groups = std::vector<UpdateKind>(1);  ///< by group
  /// The ranks by the position of their shards in a bucket (comm/levels.h); empty: 0, 1, ...
  std::vector<int> ranks_by_position;
};

/// Which rank owns which element, as pure integers.
///
/// Parameters of one BucketKind are laid out together, in registration order, each contiguous and starting at a
/// multiple of kBlockElements; two arenas, of gradients and of weights, hold them in the same order with their own
/// dtypes. Buckets of a kind are cut from its end, because backward finishes the last parameters first; a bucket's size
/// is world_size times its shard size, and a shard's size is a multiple of kBlockElements. Buckets are filled: a
/// parameter that does not fit into what is left of one is cut at a multiple of kBlockElements * world_size of its own
/// elements, and its head goes on in the next. Padding follows parameters, and is zero; what rounds a bucket up follows
/// its first parameter. All buckets are numbered in the order in which backward completes them: by their lowest
/// (parameter, element), highest first. In the arenas the kinds follow one another by their first parameter, and
/// offsets are multiples of 2048 bytes.
///
/// A tied parameter has no elements of its own in the global numbering, the buckets or the segments; what is asked of
/// it is answered for its owner.
class ShardLayout {
 public:
  static constexpr int64_t kBlockElements = 1024;

  /// InvalidArgument names the parameter or option: no name, a name twice, a bad shape, fp16, a group that is not
  /// there, a bad norm_weight, a bad tie, more than 2^40 elements in all, bucket_bytes or world_size not positive,
  /// ranks_by_position no permutation, padding beyond 2^50 bytes.
  static absl::StatusOr<ShardLayout> Create(std::vector<ParameterSpec> parameters, const LayoutOptions& options);

  int world_size() const { return world_size_; }
  int parameter_count() const { return static_cast<int>(parameters_.size()); }
  const ParameterSpec& parameter(int p) const { return parameters_[p].spec; }
  int64_t elements(int p) const { return parameters_[p].elements; }
  /// Logical elements of all parameters together. A tied parameter adds none.
  int64_t total_elements() const { return total_elements_; }
  /// Logical elements of all parameters registered before p: (p, element) in registration order as one number.
  int64_t global_begin_element(int p) const { return parameters_[p].global_begin_element; }
  /// The inverse: the parameter and element of a global element, which must be below total_elements().
  std::pair<int, int64_t> Locate(int64_t global_element) const;
  /// The parameter of that name, or -1.
  int FindParameter(absl::string_view name) const;

  /// The parameter whose weights and gradient p's are: p itself unless it is tied.
  int owner(int p) const { return parameters_[p].owner; }

  int64_t gradient_arena_bytes() const { return gradient_arena_bytes_; }
  int64_t weight_arena_bytes() const { return weight_arena_bytes_; }
  /// Where p's elements begin in the arenas.
  int64_t gradient_begin_byte(int p) const { return parameters_[p].gradient_begin_byte; }
  int64_t weight_begin_byte(int p) const { return parameters_[p].weight_begin_byte; }

  int bucket_count() const { return static_cast<int>(buckets_.size()); }
  const BucketKind& kind(int b) const { return buckets_[b].kind; }
  int64_t shard_elements(int b) const { return buckets_[b].shard_elements; }
  int64_t bucket_gradient_begin_byte(int b) const { return buckets_[b].gradient_begin_byte; }
  int64_t bucket_weight_begin_byte(int b) const { return buckets_[b].weight_begin_byte; }
  /// Where the shard of `rank` stands in each bucket.
  int position(int rank) const { return position_of_rank_.empty() ? rank : position_of_rank_[rank]; }
  /// The buckets that hold elements of p, ascending; none of an empty parameter. Of a tied one its owner's.
  absl::Span<const int> buckets_of(int p) const { return parameters_[p].buckets; }
  /// The parameters with elements in bucket b, in registration order, without tied ones.
  absl::Span<const int> parameters_of(int b) const { return buckets_[b].parameters; }

  /// What `rank` owns of bucket b, ascending.
  std::vector<Segment> Segments(int b, int rank) const;
  /// Where elements [begin, end) of parameter p live, ascending, without gap or overlap.
  std::vector<OwnedRange> Owners(int p, int64_t begin_element, int64_t end_element) const;

 private:
  struct Parameter {
    ParameterSpec spec;
    int owner = 0;
    int64_t elements = 0;
    int64_t global_begin_element = 0;
    int64_t begin_element = 0;  // in what its kind has of either arena
    int64_t gradient_begin_byte = 0;
    int64_t weight_begin_byte = 0;
    std::vector<int> buckets;
  };
  struct Bucket {
    BucketKind kind;
    int64_t lowest_element = 0;  // global: what backward finishes last
    int64_t shard_elements = 0;
    int64_t begin_element = 0;  // in what its kind has of either arena
    int64_t gradient_begin_byte = 0;
    int64_t weight_begin_byte = 0;
    std::vector<int> parameters;
  };
  ShardLayout() = default;

  // Parameters that own elements, in registration order.
  struct Kind {
    BucketKind kind;
    std::vector<int> parameters;
  };

  absl::Status SetRanks(const LayoutOptions& options);
  absl::Status AddParameter(ParameterSpec spec, const LayoutOptions& options);
  absl::Status Tie(Parameter* parameter) const;
  // In the order of the kinds' first parameters.
  std::vector<Kind> Kinds(const LayoutOptions& options) const;
  // Appends the buckets of one kind, from its end; they hold their parameters from the highest to the lowest.
  void CutBuckets(const Kind& kind, int64_t capacity_elements);
  // Gives the buckets from `first_bucket` on, all of one kind, and the kind's parameters their begin_element. Returns
  // the elements of all of them, with padding.
  int64_t PlaceElements(const Kind& kind, int first_bucket);
  // Then their bytes, behind those of the kinds before.
  void PlaceBytes(const Kind& kind, int first_bucket, int64_t kind_elements);
  void NumberBuckets();
  void CopyPlacesOfOwners();

  int world_size_ = 1;
  // Each other's inverse; empty when rank r is at position r.
  std::vector<int> ranks_by_position_;
  std::vector<int> position_of_rank_;
  std::vector<Parameter> parameters_;
  std::unordered_map<std::string, int> index_by_name_;
  std::vector<Bucket> buckets_;
  int64_t total_elements_ = 0;
  int64_t gradient_arena_bytes_ = 0;
  int64_t weight_arena_bytes_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_SHARD_LAYOUT_H_
