#ifndef SHARDSTEP_TESTS_COMM_CONTRACT_TRAINER_H_
#define SHARDSTEP_TESTS_COMM_CONTRACT_TRAINER_H_

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "shardstep/comm/communicator.h"
#include "shardstep/tests/comm/contract_device.h"

namespace shardstep {

/// What the ranks of a contract test train: integers in place of floats, so that any lost, torn or early byte shows.
struct ContractLoad {
  std::vector<BucketExtent> buckets;
  int64_t micro_steps = 1;
  /// As in ArenaRequest; 0: gradients lie in the communicator's arena.
  int contributions = 0;

  int contribution_count() const { return contributions == 0 ? 1 : contributions; }
  const BucketExtent& bucket(int b) const { return buckets[static_cast<size_t>(b)]; }
  int bucket_count() const { return static_cast<int>(buckets.size()); }

  /// The metadata of contribution `c`: dtypes differ between contributions, buckets and micro-steps.
  Slice Contribution(int b, int64_t micro_step, int c) const {
    if (contributions == 0) return {.dtype = bucket(b).gradient_dtype};
    return {.dtype = (b + micro_step + c) % 2 == 0 ? DType::kFp32 : DType::kBf16, .ranks = c + 1, .partial = c > 0};
  }

  /// Element `i` of bucket `b` of all ranks' shards, as contribution `c` of `rank` brings it.
  static uint32_t Gradient(int rank, int c, int64_t micro_step, int b, int64_t i) {
    return static_cast<uint32_t>(rank * 7919 + c * 65537 + micro_step * 104729 + b * 15485863 + i * 100003 + 1);
  }
};

/// Element `i` of an array of `dtype`, as bits; of bf16 the lower 16.
inline uint32_t LoadBits(const void* data, DType dtype, int64_t i) {
  uint32_t bits = 0;
  const auto size = static_cast<size_t>(SizeBytes(dtype));
  std::memcpy(&bits, static_cast<const std::byte*>(data) + static_cast<size_t>(i) * size, size);
  return bits;
}

inline void StoreBits(void* data, DType dtype, int64_t i, uint32_t bits) {
  const auto size = static_cast<size_t>(SizeBytes(dtype));
  std::memcpy(static_cast<std::byte*>(data) + static_cast<size_t>(i) * size, &bits, size);
}

inline uint32_t Rounded(uint32_t bits, DType dtype) { return dtype == DType::kBf16 ? bits & 0xffffu : bits; }

/// Buckets of all mixtures of dtypes, uneven, one empty; the weights lie in reverse order; a gap before the last.
inline std::vector<BucketExtent> ContractBuckets(int world_size) {
  std::vector<BucketExtent> buckets = {{1024, DType::kBf16, DType::kBf16},
                                       {64, DType::kFp32, DType::kBf16},
                                       {0, DType::kBf16, DType::kBf16},
                                       {2048, DType::kBf16, DType::kFp32},
                                       {96, DType::kFp32, DType::kFp32}};
  int64_t begin_byte = 0;
  for (BucketExtent& bucket : buckets) {
    if (&bucket == &buckets.back()) begin_byte += 1024;
    bucket.gradient_begin_byte = begin_byte;
    begin_byte += bucket.shard_elements * world_size * SizeBytes(bucket.gradient_dtype);
  }
  begin_byte = 0;
  for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket) {
    if (bucket + 1 == buckets.rend()) begin_byte += 1024;
    bucket->weight_begin_byte = begin_byte;
    begin_byte += bucket->shard_elements * world_size * SizeBytes(bucket->weight_dtype);
  }
  return buckets;
}

inline int64_t GradientArenaBytes(const std::vector<BucketExtent>& buckets, int world_size) {
  const BucketExtent& last = buckets.back();
  return last.gradient_begin_byte + last.shard_elements * world_size * SizeBytes(last.gradient_dtype);
}

inline int64_t WeightArenaBytes(const std::vector<BucketExtent>& buckets, int world_size) {
  const BucketExtent& first = buckets.front();
  return first.weight_begin_byte + first.shard_elements * world_size * SizeBytes(first.weight_dtype);
}

/// One rank of a training loop as the runtime orders it: gradients on the caller's thread, the rest on streams. The
/// "update" is a recurrence of integers over all contributions of all ranks, kept from step to step.
class ContractTrainer {
 public:
  ContractTrainer(Communicator& communicator, ContractLoad load, ContractDevice& device = HostContractDevice())
      : communicator_(communicator), load_(std::move(load)), device_(device) {
    const auto world_size = static_cast<size_t>(communicator.world_size());
    for (const BucketExtent& bucket : load_.buckets) {
      sums_.emplace_back(static_cast<size_t>(bucket.shard_elements));
      for (int c = 0; c < load_.contributions; ++c) {
        contributions_.emplace_back(static_cast<size_t>(bucket.shard_elements) * world_size * 4);
      }
    }
  }

  absl::Status Step(int64_t step) {
    for (int64_t k = 0; k < load_.micro_steps; ++k) {
      for (int b = 0; b < load_.bucket_count(); ++b) {
        SHARDSTEP_RETURN_IF_ERROR(MicroStep(b, step * load_.micro_steps + k));
      }
    }
    SHARDSTEP_RETURN_IF_ERROR(communicator_.AllReduceSmall(&reduction_, *update_));
    for (int b = 0; b < load_.bucket_count(); ++b) {
      device_.Enqueue(*update_, "write", [this, b] { return WriteShard(b); });
      SHARDSTEP_RETURN_IF_ERROR(communicator_.Publish(b, step, *update_));
    }
    for (int b = 0; b < load_.bucket_count(); ++b) {
      SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitPublished(b, step, *caller_));
    }
    SHARDSTEP_RETURN_IF_ERROR(caller_->Synchronize(caller_->Record()));
    SHARDSTEP_RETURN_IF_ERROR(exchange_->status());
    return update_->Synchronize(update_->Record());
  }

 private:
  absl::Status MicroStep(int b, int64_t micro_step) {
    if (micro_step > 0) {
      SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitReleased(b, micro_step - 1, *caller_));
      SHARDSTEP_RETURN_IF_ERROR(caller_->Synchronize(caller_->Record()));
      SHARDSTEP_RETURN_IF_ERROR(CheckUnchanged(b, micro_step - 1));
    }
    std::vector<Slice> contributions;
    for (int c = 0; c < load_.contribution_count(); ++c) {
      Slice contribution = load_.Contribution(b, micro_step, c);
      contribution.data = GradientsOf(b, c);
      contribution.rank = 100 + communicator_.rank();  // the caller's own numbering
      FillGradients(b, c, micro_step);
      if (load_.contributions > 0) contributions.push_back(contribution);
    }
    Stream& stream = communicator_.traits().separate_exchange_stream ? *exchange_ : *caller_;
    AwaitLandingSlot(stream);
    SHARDSTEP_RETURN_IF_ERROR(communicator_.Exchange(b, micro_step, contributions, stream));
    SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitSlices(b, micro_step, *update_));
    device_.Enqueue(*update_, "reduce", [this, b, micro_step] { return Reduce(b, micro_step); });
    SHARDSTEP_RETURN_IF_ERROR(communicator_.Release(b, micro_step, *update_));
    releases_.push_back(update_->Record());
    return absl::OkStatus();
  }

  // As the plan orders it: slices in a ring are released before so many more exchanges.
  void AwaitLandingSlot(Stream& stream) const {
    const CommunicatorTraits traits = communicator_.traits();
    const auto slots = static_cast<size_t>(traits.landing_buckets);
    if (!traits.slices_persist && releases_.size() >= slots) stream.Wait(releases_[releases_.size() - slots]);
  }

  void* GradientsOf(int b, int c) {
    if (load_.contributions == 0) return communicator_.gradients().data + load_.bucket(b).gradient_begin_byte;
    return contributions_[static_cast<size_t>(b * load_.contributions + c)].data();
  }

  int64_t BucketElements(int b) const { return load_.bucket(b).shard_elements * communicator_.world_size(); }

  // Scribbles first: who reads after the release reads neither the old nor the new values.
  void FillGradients(int b, int c, int64_t micro_step) {
    const DType dtype = load_.Contribution(b, micro_step, c).dtype;
    void* const data = GradientsOf(b, c);
    std::fill_n(static_cast<std::byte*>(data), BucketElements(b) * SizeBytes(dtype), std::byte{0xee});
    for (int64_t i = 0; i < BucketElements(b); ++i) {
      StoreBits(data, dtype, i, ContractLoad::Gradient(communicator_.rank(), c, micro_step, b, i));
    }
  }

  absl::Status CheckUnchanged(int b, int64_t micro_step) {
    for (int c = 0; c < load_.contribution_count(); ++c) {
      const DType dtype = load_.Contribution(b, micro_step, c).dtype;
      for (int64_t i = 0; i < BucketElements(b); ++i) {
        const uint32_t expected = Rounded(ContractLoad::Gradient(communicator_.rank(), c, micro_step, b, i), dtype);
        if (LoadBits(GradientsOf(b, c), dtype, i) != expected) return absl::InternalError("gradients have changed");
      }
    }
    return absl::OkStatus();
  }

  absl::Status Reduce(int b, int64_t micro_step) {
    std::vector<uint32_t>& sums = sums_[static_cast<size_t>(b)];
    const absl::Span<const Slice> slices = communicator_.slices(b, micro_step);
    const int count = load_.contribution_count();
    if (slices.size() != static_cast<size_t>(communicator_.world_size() * count)) {
      return absl::InternalError(absl::StrCat("there are ", slices.size(), " slices"));
    }
    for (size_t s = 0; s < slices.size(); ++s) {
      const Slice& slice = slices[s];
      const Slice expected = load_.Contribution(b, micro_step, static_cast<int>(s) % count);
      if (slice.rank != static_cast<int>(s) / count || slice.dtype != expected.dtype || slice.ranks != expected.ranks ||
          slice.partial != expected.partial) {
        return absl::InternalError(absl::StrCat("slice ", s, " is not what its rank sent"));
      }
      for (size_t i = 0; i < sums.size(); ++i) {
        sums[i] = sums[i] * 3 + LoadBits(slice.data, slice.dtype, static_cast<int64_t>(i));
      }
    }
    return absl::OkStatus();
  }

  absl::Status WriteShard(int b) {
    const std::vector<uint32_t>& sums = sums_[static_cast<size_t>(b)];
    for (void* const destination : communicator_.Destinations(b)) {
      for (size_t i = 0; i < sums.size(); ++i) {
        StoreBits(destination, load_.bucket(b).weight_dtype, static_cast<int64_t>(i), sums[i]);
      }
    }
    return absl::OkStatus();
  }

  Communicator& communicator_;
  const ContractLoad load_;
  ContractDevice& device_;
  std::vector<std::vector<uint32_t>> sums_;
  std::vector<std::vector<std::byte>> contributions_;  ///< by bucket, then contribution
  std::vector<Event> releases_;                        ///< by exchange
  SmallReduction reduction_;
  const std::unique_ptr<Stream> caller_ = device_.MakeCallerStream();
  const std::unique_ptr<Stream> exchange_ = device_.MakeStream();
  const std::unique_ptr<Stream> update_ = device_.MakeStream();
};

/// What the weight arena has to be after `micro_steps` micro-steps in all: the same recurrence without ranks. Bytes
/// that belong to no bucket are `gap`.
inline std::vector<uint8_t> SerialWeights(const ContractLoad& load, int world_size, int64_t micro_steps, uint8_t gap) {
  std::vector<uint8_t> weights(static_cast<size_t>(WeightArenaBytes(load.buckets, world_size)), gap);
  for (int b = 0; b < load.bucket_count(); ++b) {
    const BucketExtent& bucket = load.bucket(b);
    for (int64_t i = 0; i < bucket.shard_elements * world_size; ++i) {
      uint32_t sum = 0;
      for (int64_t k = 0; k < micro_steps; ++k) {
        for (int rank = 0; rank < world_size; ++rank) {
          for (int c = 0; c < load.contribution_count(); ++c) {
            sum = sum * 3 + Rounded(ContractLoad::Gradient(rank, c, k, b, i), load.Contribution(b, k, c).dtype);
          }
        }
      }
      StoreBits(weights.data() + bucket.weight_begin_byte, bucket.weight_dtype, i, sum);
    }
  }
  return weights;
}

/// The first byte of the weights that is not as expected; -1: none.
inline int64_t FirstWrongByte(Communicator& communicator, const std::vector<uint8_t>& expected) {
  const auto* weights = communicator.weights().as<uint8_t>();
  for (size_t i = 0; i < expected.size(); ++i) {
    if (weights[i] != expected[i]) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_CONTRACT_TRAINER_H_
