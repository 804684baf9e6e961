#ifndef SHARDSTEP_TESTS_COMM_JOINING_CONTRACT_H_
#define SHARDSTEP_TESTS_COMM_JOINING_CONTRACT_H_

/// What communicators promise beside CommunicatorContract when their traits say joins_hosts. Bound alike:
///   INSTANTIATE_TEST_SUITE_P(Landing, JoiningContract, testing::Values(ContractBackend{...}), BackendName);

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/tests/comm/communicator_contract.h"

namespace shardstep {

class JoiningContract : public ContractFixture {
 protected:
  static constexpr int kContributions = 3;
  /// What given weights hold before: nothing outside of a rank's buckets may change.
  static constexpr uint8_t kOthers = 0x5a;

  /// Memory of the device. In `bytes` nothing but kOthers; empty when there is none.
  static Buffer GivenWeights(int64_t bytes) {
    absl::StatusOr<Buffer> buffer = device().memory().Allocate(bytes, "weights", PageBacking::kOnCreation);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    if (!buffer.ok()) return Buffer();
    std::memset(buffer->view().data, kOthers, static_cast<size_t>(bytes));
    return *std::move(buffer);
  }
  static int64_t GivenBytes(int world_size) { return WeightArenaBytes(ContractBuckets(world_size), world_size); }

  /// A bucket of one fp32 element per shard whose value tells sender, owner and `round`.
  static std::vector<float> Told(int rank, int world_size, int round) {
    std::vector<float> values;
    for (int owner = 0; owner < world_size; ++owner)
      values.push_back(static_cast<float>(round * 100 + rank * 10 + owner));
    return values;
  }
  static void ExpectTold(Communicator& communicator, int bucket, int round) {
    const absl::Span<const Slice> slices = communicator.slices(bucket, 0);
    ASSERT_EQ(slices.size(), static_cast<size_t>(communicator.world_size()));
    for (int sender = 0; sender < communicator.world_size(); ++sender) {
      const auto* value = static_cast<const float*>(slices[static_cast<size_t>(sender)].data);
      EXPECT_EQ(*value, Told(sender, communicator.world_size(), round)[static_cast<size_t>(communicator.rank())])
          << "bucket " << bucket << " from rank " << sender;
    }
  }
};

TEST_P(JoiningContract, TraitsSaySo) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    EXPECT_TRUE(communicator.traits().joins_hosts);
    EXPECT_FALSE(communicator.traits().slices_persist);
    EXPECT_GE(communicator.traits().landing_buckets, 2);
  });
}

TEST_P(JoiningContract, ContributionsOfMixedTypesEqualTheSerialLoop) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    const ContractLoad load{ContractBuckets(communicator.world_size()), 3, kContributions};
    const absl::Status status = communicator.Allocate({.buckets = load.buckets, .contributions = kContributions});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(communicator.gradients().size_bytes, 0);
    TrainAndCompare(communicator, load, 4);
    Meet(rendezvous);
  });
}

TEST_P(JoiningContract, WeightsThatExistAreFilledInPlace) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    const ContractLoad load{ContractBuckets(communicator.world_size()), 2, 0};
    const Buffer weights = GivenWeights(GivenBytes(communicator.world_size()));
    const absl::Status status = communicator.Allocate({.buckets = load.buckets, .weights = weights.view()});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(communicator.weights().data, weights.view().data);
    const auto* const bytes = weights.as<uint8_t>();
    EXPECT_TRUE(std::all_of(bytes, bytes + weights.size_bytes(), [](uint8_t byte) { return byte == kOthers; }))
        << "Allocate has changed them";
    TrainAndCompare(communicator, load, 3, kOthers);
    Meet(rendezvous);
  });
}

// S1: as a level of hosts is used, with ranks late at random.
TEST_P(JoiningContract, RandomDelaysChangeNoBitOfContributionsAndWeightsThatExist) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    Run([&](Rendezvous& rendezvous) {
      auto inner = GetParam().create(rendezvous, kLong);
      ASSERT_TRUE(inner.ok()) << inner.status();
      const int late_rank = seed % 2 == 0 ? -1 : static_cast<int>(seed) % rendezvous.world_size();
      const ContractLoad load{ContractBuckets(rendezvous.world_size()), 2, kContributions};
      const Buffer weights = GivenWeights(GivenBytes(rendezvous.world_size()));
      DelayingCommunicator communicator(*std::move(inner), {.seed = seed, .max_delay_us = 400, .rank = late_rank});
      const absl::Status status =
          communicator.Allocate({.buckets = load.buckets, .weights = weights.view(), .contributions = kContributions});
      ASSERT_TRUE(status.ok()) << status;
      TrainAndCompare(communicator, load, 3, kOthers);
      Meet(rendezvous);
    });
  }
}

// What AwaitReleased frees may be overwritten at once: no other owner looks at it any more, released or not.
TEST_P(JoiningContract, ContributionsAreFreeBeforeOtherOwnersHaveReadThem) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    const BucketExtent bucket{.shard_elements = 1, .gradient_dtype = DType::kFp32};
    ASSERT_TRUE(communicator.Allocate({.buckets = {&bucket, 1}, .contributions = 1}).ok());
    std::vector<float> values = Told(communicator.rank(), communicator.world_size(), 0);
    const Slice contribution{.data = values.data(), .dtype = DType::kFp32};
    const absl::Status exchanged = Await([&](Stream& s) { return communicator.Exchange(0, 0, {&contribution, 1}, s); });
    ASSERT_TRUE(exchanged.ok()) << exchanged;
    const auto read_and_overwrite = [&] {
      const absl::Status arrived = Await([&](Stream& s) { return communicator.AwaitSlices(0, 0, s); });
      ASSERT_TRUE(arrived.ok()) << arrived;
      ExpectTold(communicator, 0, 0);
      EXPECT_TRUE(Await([&](Stream& s) { return communicator.Release(0, 0, s); }).ok());
      const absl::Status released = Await([&](Stream& s) { return communicator.AwaitReleased(0, 0, s); });
      ASSERT_TRUE(released.ok()) << released;
      values.assign(values.size(), -1.0f);
    };
    const bool reads_early = communicator.rank() % 2 == 0;
    if (reads_early) read_and_overwrite();
    Meet(rendezvous);
    if (!reads_early) read_and_overwrite();
    Meet(rendezvous);
  });
}

TEST_P(JoiningContract, AsManyBucketsAsTheRingHasLandBeforeAnyIsReleased) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous& rendezvous) {
    const int count = communicator.traits().landing_buckets;
    std::vector<BucketExtent> buckets;
    std::vector<std::vector<float>> values;
    for (int b = 0; b < count; ++b) {
      buckets.push_back({.shard_elements = 1, .gradient_dtype = DType::kFp32, .weight_begin_byte = 64 * b});
      values.push_back(Told(communicator.rank(), communicator.world_size(), b));
    }
    ASSERT_TRUE(communicator.Allocate({.buckets = buckets, .contributions = 1}).ok());
    const auto stream = device().MakeStream();
    for (int b = 0; b < count; ++b) {
      const Slice contribution{.data = values[static_cast<size_t>(b)].data(), .dtype = DType::kFp32};
      ASSERT_TRUE(communicator.Exchange(b, 0, {&contribution, 1}, *stream).ok());
    }
    for (int b = 0; b < count; ++b) ASSERT_TRUE(communicator.AwaitSlices(b, 0, *stream).ok());
    const absl::Status arrived = stream->Synchronize(stream->Record());
    ASSERT_TRUE(arrived.ok()) << arrived;
    Meet(rendezvous);
    for (int b = 0; b < count; ++b) ExpectTold(communicator, b, b);
    for (int b = 0; b < count; ++b) ASSERT_TRUE(communicator.Release(b, 0, *stream).ok());
    EXPECT_TRUE(stream->Synchronize(stream->Record()).ok());
    Meet(rendezvous);
  });
}

TEST_P(JoiningContract, AnotherNumberOfContributionsIsRefused) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const BucketExtent bucket{.shard_elements = 0};
    ASSERT_TRUE(communicator.Allocate({.buckets = {&bucket, 1}, .contributions = 2}).ok());
    const Slice one;
    const auto stream = device().MakeCallerStream();
    EXPECT_EQ(communicator.Exchange(0, 0, {&one, 1}, *stream),
              absl::InvalidArgumentError("Exchange: contributions = 1, Allocate was told 2"));
    EXPECT_EQ(communicator.Exchange(0, 0, {}, *stream),
              absl::InvalidArgumentError("Exchange: contributions = 0, Allocate was told 2"));
  });
}

TEST_P(JoiningContract, WeightsTooSmallForTheBucketsAreRefused) {
  RunCreated(kLong, [](Communicator& communicator, Rendezvous&) {
    const BucketExtent bucket{.shard_elements = 64};
    const Buffer weights = GivenWeights(128 * communicator.world_size() - 1);
    EXPECT_EQ(communicator.Allocate({.buckets = {&bucket, 1}, .weights = weights.view()}),
              absl::InvalidArgumentError(absl::StrCat("rank 0: weights: ", weights.size_bytes(),
                                                      " bytes, the buckets need ", weights.size_bytes() + 1)));
  });
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_JOINING_CONTRACT_H_
