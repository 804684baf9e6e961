// What communicators over MPI ask of MPI: this program's own definitions of the calls below stand before MPI's.

#include <mpi.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "shardstep/comm/mpi/mpi_wire.h"
#include "shardstep/tests/comm/mpi_job.h"

namespace shardstep {
namespace {

// An MPI whose counts are as narrow as this, and which writes down what it is asked for.
constexpr int kLargestCount = 4096;

class Recorder {
 public:
  struct Totals {
    int64_t data_sends = 0;
    int64_t data_receives = 0;
    int64_t bytes_sent = 0;
    int64_t bytes_received = 0;
    int largest_count = 0;
    std::set<std::string> blocking;
    std::set<std::thread::id> threads;
  };

  void Begin(int largest_count = kLargestCount) {
    const std::lock_guard lock(mutex_);
    totals_ = Totals();
    largest_count_ = largest_count;
    recording_ = true;
  }
  Totals End() {
    const std::lock_guard lock(mutex_);
    recording_ = false;
    return totals_;
  }
  /// MPI_SUCCESS or an error instead of the call.
  int Transfer(bool sends, int count, int tag) {
    const std::lock_guard lock(mutex_);
    if (!recording_) return MPI_SUCCESS;
    totals_.threads.insert(std::this_thread::get_id());
    totals_.largest_count = std::max(totals_.largest_count, count);
    if (count > largest_count_) return MPI_ERR_COUNT;
    if (!IsData(tag)) return MPI_SUCCESS;
    ++(sends ? totals_.data_sends : totals_.data_receives);
    (sends ? totals_.bytes_sent : totals_.bytes_received) += count;
    return MPI_SUCCESS;
  }
  /// From now on sends of data are `bytes` too short.
  void Shorten(int bytes) {
    const std::lock_guard lock(mutex_);
    shorter_by_ = bytes;
  }
  /// From now on whether receives of data wait for messages that nobody sends.
  void Deafen(bool deaf) {
    const std::lock_guard lock(mutex_);
    deaf_ = deaf;
  }
  int HeardTag(int tag) {
    constexpr int kNobodysTag = 1'000'000;
    const std::lock_guard lock(mutex_);
    return deaf_ && IsData(tag) ? kNobodysTag : tag;
  }
  int SentOf(int count, int tag) {
    const std::lock_guard lock(mutex_);
    return IsData(tag) ? std::max(0, count - shorter_by_) : count;
  }
  void Blocking(const char* call) {
    const std::lock_guard lock(mutex_);
    if (recording_) totals_.blocking.insert(call);
  }

 private:
  // Of a communicator, whose tags follow the two of the rendezvous.
  static bool IsData(int tag) { return tag > 2 && tag % kTagsPerCommunicator != MessageTags{2}.small(); }

  std::mutex mutex_;
  bool recording_ = false;
  int largest_count_ = kLargestCount;
  int shorter_by_ = 0;
  bool deaf_ = false;
  Totals totals_;
};

Recorder& Calls() {
  static Recorder recorder;
  return recorder;
}

}  // namespace
}  // namespace shardstep

extern "C" {

int MPI_Isend(const void* data, int count, MPI_Datatype type, int rank, int tag, MPI_Comm comm, MPI_Request* request) {
  const int code = shardstep::Calls().Transfer(true, count, tag);
  if (code != MPI_SUCCESS) return code;
  return PMPI_Isend(data, shardstep::Calls().SentOf(count, tag), type, rank, tag, comm, request);
}
int MPI_Irecv(void* data, int count, MPI_Datatype type, int rank, int tag, MPI_Comm comm, MPI_Request* request) {
  const int code = shardstep::Calls().Transfer(false, count, tag);
  if (code != MPI_SUCCESS) return code;
  return PMPI_Irecv(data, count, type, rank, shardstep::Calls().HeardTag(tag), comm, request);
}
int MPI_Send(const void* data, int count, MPI_Datatype type, int rank, int tag, MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Send");
  return PMPI_Send(data, count, type, rank, tag, comm);
}
int MPI_Wait(MPI_Request* request, MPI_Status* status) {
  shardstep::Calls().Blocking("MPI_Wait");
  return PMPI_Wait(request, status);
}
int MPI_Waitall(int count, MPI_Request* requests, MPI_Status* statuses) {
  shardstep::Calls().Blocking("MPI_Waitall");
  return PMPI_Waitall(count, requests, statuses);
}
int MPI_Barrier(MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Barrier");
  return PMPI_Barrier(comm);
}
int MPI_Bcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Bcast");
  return PMPI_Bcast(data, count, type, root, comm);
}
int MPI_Allreduce(const void* in, void* out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Allreduce");
  return PMPI_Allreduce(in, out, count, type, op, comm);
}
int MPI_Reduce(const void* in, void* out, int count, MPI_Datatype type, MPI_Op op, int root, MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Reduce");
  return PMPI_Reduce(in, out, count, type, op, root, comm);
}
int MPI_Reduce_scatter(const void* in, void* out, const int* counts, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Reduce_scatter");
  return PMPI_Reduce_scatter(in, out, counts, type, op, comm);
}
int MPI_Allgather(const void* in, int in_count, MPI_Datatype in_type, void* out, int out_count, MPI_Datatype out_type,
                  MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Allgather");
  return PMPI_Allgather(in, in_count, in_type, out, out_count, out_type, comm);
}
int MPI_Alltoall(const void* in, int in_count, MPI_Datatype in_type, void* out, int out_count, MPI_Datatype out_type,
                 MPI_Comm comm) {
  shardstep::Calls().Blocking("MPI_Alltoall");
  return PMPI_Alltoall(in, in_count, in_type, out, out_count, out_type, comm);
}
int MPI_Comm_dup(MPI_Comm comm, MPI_Comm* duplicate) {
  shardstep::Calls().Blocking("MPI_Comm_dup");
  return PMPI_Comm_dup(comm, duplicate);
}

}  // extern "C"

namespace shardstep {
namespace {

using MpiCallsTest = MpiJobTest;

// L3, L4: counts stay below MPI's limit, nothing blocks, one thread calls, and what moves is what has to.
TEST_F(MpiCallsTest, AStepMovesThePlannedBytesInShortMessagesWithoutBlocking) {
  constexpr int64_t kSteps = 3;
  constexpr int64_t kMicroSteps = 2;
  const auto communicator = Create({.wait_deadline = kLong, .max_message_bytes = kLargestCount});
  const ContractLoad load{ContractBuckets(world_size()), kMicroSteps, 0};
  ASSERT_TRUE(communicator->Allocate({.buckets = load.buckets}).ok());
  Meet();
  Calls().Begin();
  TrainAndCompare(*communicator, load, kSteps);
  const Recorder::Totals totals = Calls().End();
  int64_t bytes = 0;
  int64_t messages = 0;
  for (const BucketExtent& bucket : load.buckets) {
    const int64_t gradient_bytes = bucket.shard_elements * SizeBytes(bucket.gradient_dtype);
    const int64_t weight_bytes = bucket.shard_elements * SizeBytes(bucket.weight_dtype);
    const auto cuts = [](int64_t size_bytes) { return (size_bytes + kLargestCount - 1) / kLargestCount; };
    bytes += kSteps * (kMicroSteps * gradient_bytes + weight_bytes) * (world_size() - 1);
    messages += kSteps * (kMicroSteps * cuts(gradient_bytes) + cuts(weight_bytes)) * (world_size() - 1);
  }
  EXPECT_EQ(totals.bytes_sent, bytes);
  EXPECT_EQ(totals.bytes_received, bytes);
  EXPECT_EQ(totals.data_sends, messages);
  EXPECT_EQ(totals.data_receives, messages);
  EXPECT_EQ(totals.largest_count, world_size() == 1 ? 0 : kLargestCount);
  EXPECT_EQ(totals.threads.size(), world_size() == 1 ? 0u : 1u);
  EXPECT_EQ(totals.threads.count(std::this_thread::get_id()), 0u);
  EXPECT_THAT(totals.blocking, testing::IsEmpty());
  Meet();
}

// An error of MPI is a Status of all ranks and no end of the process.
TEST_F(MpiCallsTest, AnErrorOfMpiFailsAllRanksWithTheCallNamed) {
  if (world_size() == 1) return;  // sends nothing
  const auto communicator = Create({.wait_deadline = kLong, .max_message_bytes = 2 * kLargestCount});
  const BucketExtent bucket{.shard_elements = kLargestCount};
  ASSERT_TRUE(communicator->Allocate({.buckets = {&bucket, 1}}).ok());
  Meet();
  if (rank() == 0) Calls().Begin();
  const absl::Status status = AwaitBoth([&](Stream& s) { return communicator->Exchange(0, 0, {}, s); },
                                        [&](Stream& s) { return communicator->AwaitSlices(0, 0, s); });
  Calls().End();
  EXPECT_EQ(CauseOf(status), absl::StatusCode::kInternal) << status;
  EXPECT_EQ(status.code(), rank() == 0 ? absl::StatusCode::kInternal : absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("Exchange of bucket 0, micro-step 0: MPI_I"));
  Meet();
}

TEST_F(MpiCallsTest, AMessageOfAnotherLengthIsNamedWithBoth) {
  if (world_size() == 1) return;  // receives nothing
  const auto communicator = Create({.wait_deadline = kLong});
  const BucketExtent bucket{.shard_elements = 512};
  ASSERT_TRUE(communicator->Allocate({.buckets = {&bucket, 1}}).ok());
  Meet();
  if (rank() == 1) Calls().Shorten(24);
  const absl::Status status = AwaitBoth([&](Stream& s) { return communicator->Publish(0, 0, s); },
                                        [&](Stream& s) { return communicator->AwaitPublished(0, 0, s); });
  for (int i = 0; i < 10'000 && communicator->AsyncStatus().ok(); ++i) SleepMs(1);
  Meet();
  Calls().Shorten(0);
  EXPECT_THAT(std::string(communicator->AsyncStatus().message()),
              testing::HasSubstr("Publish of bucket 0, step 0: rank 1 sent 1000 bytes instead of 1024"));
  if (rank() == 0) {
    EXPECT_FALSE(status.ok());
  }
  Meet();
}

// Whoever may overwrite its shard afterwards must not do so while MPI still reads it.
TEST_F(MpiCallsTest, AwaitPublishedAlsoWaitsUntilTheOwnShardIsTaken) {
  if (world_size() == 1) return;  // sends nothing
  const auto communicator = Create({.wait_deadline = kShort});
  const BucketExtent bucket{.shard_elements = 1 << 19};  // too long to be sent before the receiver is there
  ASSERT_TRUE(communicator->Allocate({.buckets = {&bucket, 1}}).ok());
  Meet();
  Calls().Deafen(rank() == 1);
  EXPECT_TRUE(Await([&](Stream& s) { return communicator->Publish(0, 0, s); }).ok());
  Meet();
  const absl::Status status = Await([&](Stream& s) { return communicator->AwaitPublished(0, 0, s); });
  Calls().Deafen(false);
  if (rank() != 1) {
    EXPECT_EQ(status,
              absl::DeadlineExceededError("AwaitPublished of bucket 0, step 0: rank 1 did not arrive within 150ms"));
  }
  Meet();
}

// MPI moves all messages that are under way at once; so that the first one arrives first, few are.
TEST_F(MpiCallsTest, TwoMessagesToAPeerAreUnderWayAtATime) {
  if (world_size() != 2) return;  // another peer's messages would be counted, too
  constexpr int kBuckets = 5;
  constexpr int64_t kElements = 1 << 19;  // too long to be sent before the receiver is there
  const auto communicator = Create({.wait_deadline = kShort});
  std::vector<BucketExtent> buckets;
  for (int b = 0; b < kBuckets; ++b) {
    const int64_t begin_byte = 2 * 2 * kElements * b;
    buckets.push_back(
        {.shard_elements = kElements, .gradient_begin_byte = begin_byte, .weight_begin_byte = begin_byte});
  }
  ASSERT_TRUE(communicator->Allocate({.buckets = buckets}).ok());
  Meet();
  Calls().Deafen(rank() == 1);
  Calls().Begin(2 * kElements);
  for (int b = 0; b < kBuckets; ++b) {
    EXPECT_TRUE(Await([&](Stream& s) { return communicator->Publish(b, 0, s); }).ok());
  }
  const absl::Status status = Await([&](Stream& s) { return communicator->AwaitPublished(0, 0, s); });
  const Recorder::Totals totals = Calls().End();
  Calls().Deafen(false);
  if (rank() == 0) {
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(totals.data_receives, kBuckets);
    EXPECT_EQ(totals.data_sends, 2);
  }
  Meet();
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) { return shardstep::MpiJobMain(argc, argv); }
