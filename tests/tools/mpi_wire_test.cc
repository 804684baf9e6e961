// tools/bench/mpi_wire.h among ranks of one host that pretend to be several.

#include "shardstep/tools/bench/mpi_wire.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "shardstep/tests/comm/mpi_main.h"

namespace shardstep {
namespace {

constexpr int64_t kLargest = (9 << 20) + 5;  // several messages, and nothing that divides evenly
constexpr auto kPoison = std::byte{0xee};

MpiRendezvous*& Job() {
  static MpiRendezvous* job = nullptr;
  return job;
}

// Byte `i` of what `rank` sends.
std::byte Pattern(int64_t rank, int64_t i) { return static_cast<std::byte>((rank * 59 + i + (i >> 8) * 7) % 233); }

// Ranks round robin: the ranks of a host are not consecutive.
HostMap PretendHosts(int hosts) {
  HostMap map;
  map.hosts.resize(static_cast<size_t>(hosts));
  for (int rank = 0; rank < Job()->world_size(); ++rank) map.hosts[rank % hosts].push_back(rank);
  map.host = Job()->rank() % hosts;
  map.local_rank = Job()->rank() / hosts;
  return map;
}

// What rank `local_rank` of each host sends when the host sends `bytes`, and where its part for the host `distance`
// after it begins.
int64_t Share(int64_t bytes, int local_rank, int ranks) { return bytes / ranks + (local_rank < bytes % ranks ? 1 : 0); }
int64_t PartBegin(int64_t share, int distance, int others) {
  int64_t begin = 0;
  for (int d = 1; d < distance; ++d) begin += Share(share, d - 1, others);
  return begin;
}

void ExpectReceived(const HostMap& map, int64_t bytes, BufferView incoming) {
  const int others = map.host_count() - 1;
  const int64_t share = Share(bytes, map.local_rank, map.ranks_per_host());
  int64_t wrong = 0;
  for (int d = 1; d <= others; ++d) {
    const int from = map.hosts[(map.host + map.host_count() - d) % map.host_count()][map.local_rank];
    for (int64_t i = PartBegin(share, d, others); i < PartBegin(share, d + 1, others); ++i) {
      wrong += incoming.data[i] == Pattern(from, i) ? 0 : 1;
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << share << " bytes";
  EXPECT_EQ(std::count(incoming.data + share, incoming.data + incoming.size_bytes, kPoison),
            incoming.size_bytes - share)
      << "behind them";
}

TEST(MpiWireTest, EveryByteArrivesFromTheSameRankOfEachOtherHost) {
  for (int hosts = 2; hosts <= Job()->world_size(); hosts += 2) {
    SCOPED_TRACE(absl::StrCat(hosts, " hosts"));
    const HostMap map = PretendHosts(hosts);
    const auto wire = MpiWire::Create(map, kLargest);
    ASSERT_TRUE(wire.ok()) << wire.status();
    const BufferView outgoing = (*wire)->outgoing();
    ASSERT_EQ(outgoing.size_bytes, Share(kLargest, map.local_rank, map.ranks_per_host()));
    for (int64_t i = 0; i < outgoing.size_bytes; ++i) outgoing.data[i] = Pattern(Job()->rank(), i);
    for (const int64_t bytes : {kLargest, int64_t{0}, int64_t{3}, int64_t{1000003}}) {
      const BufferView incoming = (*wire)->incoming();
      std::fill_n(incoming.data, incoming.size_bytes, kPoison);
      const absl::Status status = (*wire)->Exchange(bytes);
      ASSERT_TRUE(status.ok()) << status;
      ExpectReceived(map, bytes, incoming);
    }
  }
}

TEST(MpiWireTest, OneHostHasNoWire) {
  const auto wire = MpiWire::Create(PretendHosts(1), kLargest);
  ASSERT_TRUE(wire.ok()) << wire.status();
  EXPECT_EQ((*wire)->outgoing().size_bytes, 0);
  EXPECT_TRUE((*wire)->Exchange(kLargest).ok());
}

TEST(MpiWireTest, RefusesMoreThanItWasMadeFor) {
  const auto wire = MpiWire::Create(PretendHosts(2), kLargest);
  ASSERT_TRUE(wire.ok()) << wire.status();
  for (const int64_t bytes : {int64_t{-1}, kLargest + 1}) {
    EXPECT_EQ((*wire)->Exchange(bytes).code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  return shardstep::MpiTestMain(argc, argv, [](shardstep::MpiRendezvous& owner) { shardstep::Job() = &owner; });
}
