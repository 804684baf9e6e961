#include "shardstep/tools/bench/cuda_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "shardstep/tests/nccl/nccl_machine.h"

namespace shardstep {
namespace {

void Synchronize(CudaStream& stream) {
  const absl::Status status = stream.Synchronize(stream.Record());
  ASSERT_TRUE(status.ok()) << status;
}

TEST(CudaWireTest, ByNcclEveryRankSendsToEveryOther) {
  constexpr int kRanks = 3;
  NcclMachine machine(kRanks);
  machine.Run([&](Rendezvous& rendezvous) {
    const auto stream = CudaStream::Create(machine.device(rendezvous.rank()), "compute");
    ASSERT_TRUE(stream.ok()) << stream.status();
    const auto wire =
        CreateNcclWire({.stream = stream->get(), .memory = &machine.memory(rendezvous.rank()), .largest_bytes = 4002},
                       machine.nccl, rendezvous);
    ASSERT_TRUE(wire.ok()) << wire.status();
    for (const int64_t bytes : {4002, 2, 0}) EXPECT_TRUE((*wire)->Exchange(bytes).ok()) << bytes;
    for (const int64_t bytes : {-1, 4003}) {
      EXPECT_EQ((*wire)->Exchange(bytes).code(), absl::StatusCode::kInvalidArgument) << bytes;
    }
    Synchronize(**stream);
  });
  // Two exchanges had something to move.
  EXPECT_EQ(machine.nccl.calls("Send"), 2 * kRanks * (kRanks - 1));
  EXPECT_EQ(machine.nccl.calls("Recv"), 2 * kRanks * (kRanks - 1));
  machine.ExpectClean();
}

TEST(CudaWireTest, StagingCopiesBothWays) {
  NcclMachine machine(1);
  {
    const auto stream = CudaStream::Create(machine.device(0), "compute");
    ASSERT_TRUE(stream.ok()) << stream.status();
    const auto wire = CreateStagingWire({.stream = stream->get(), .memory = &machine.memory(0), .largest_bytes = 4096});
    ASSERT_TRUE(wire.ok()) << wire.status();
    const int64_t before = machine.cuda.calls("MemcpyAsync");
    EXPECT_TRUE((*wire)->Exchange(4096).ok());
    EXPECT_TRUE((*wire)->Exchange(0).ok());
    EXPECT_EQ((*wire)->Exchange(4097).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(machine.cuda.calls("MemcpyAsync"), before + 2);
    const int64_t blocking = machine.cuda.blocking_calls();
    EXPECT_TRUE((*wire)->Exchange(100).ok());
    EXPECT_EQ(machine.cuda.blocking_calls(), blocking);
    Synchronize(**stream);
  }
  machine.ExpectClean();
}

}  // namespace
}  // namespace shardstep
