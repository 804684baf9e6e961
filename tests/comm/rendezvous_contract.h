#ifndef SHARDSTEP_TESTS_COMM_RENDEZVOUS_CONTRACT_H_
#define SHARDSTEP_TESTS_COMM_RENDEZVOUS_CONTRACT_H_

/// What every rendezvous promises. Bound as communicator_contract.h is.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/comm/rank_list.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

struct RendezvousBackend {
  std::string name;
  /// Runs the body as every rank of this process with a new rendezvous, to be used up, and one to meet on afterwards.
  std::function<void(const std::function<void(Rendezvous& tested, Rendezvous& meeting)>&)> run;
};

inline std::string RendezvousName(const testing::TestParamInfo<RendezvousBackend>& info) { return info.param.name; }

class RendezvousContract : public testing::TestWithParam<RendezvousBackend> {
 protected:
  static constexpr absl::Duration kLong = absl::Minutes(2);
  static void Meet(Rendezvous& rendezvous) {
    const absl::Status status = rendezvous.AllGatherBytes("meet", "", kLong).status();
    ASSERT_TRUE(status.ok()) << status;
  }
  void Run(const std::function<void(Rendezvous& tested, Rendezvous& meeting)>& body) {
    GetParam().run([&](Rendezvous& tested, Rendezvous& meeting) {
      body(tested, meeting);
      Meet(meeting);
    });
  }
};

TEST_P(RendezvousContract, GathersBytesOfAnyLength) {
  Run([](Rendezvous& rendezvous, Rendezvous&) {
    const auto bytes_of = [](int rank, int round) {
      const size_t length = round % 3 == 0 ? 0 : static_cast<size_t>(rank) * 70'001 * static_cast<size_t>(round);
      std::string bytes(length, static_cast<char>('a' + rank));
      if (length > 0) bytes[length / 2] = '\0';
      return bytes;
    };
    for (int round = 0; round < 12; ++round) {
      const auto all =
          rendezvous.AllGatherBytes(absl::StrCat("round ", round), bytes_of(rendezvous.rank(), round), kLong);
      ASSERT_TRUE(all.ok()) << all.status();
      ASSERT_EQ(all->size(), static_cast<size_t>(rendezvous.world_size()));
      for (int rank = 0; rank < rendezvous.world_size(); ++rank) {
        EXPECT_TRUE((*all)[static_cast<size_t>(rank)] == bytes_of(rank, round))
            << "round " << round << ", rank " << rank;
      }
    }
  });
}

// R9: the deadline lists the ranks that are missing, and the rendezvous stays failed.
TEST_P(RendezvousContract, TheDeadlineNamesAbsentRanksAndTheErrorStays) {
  Run([](Rendezvous& rendezvous, Rendezvous& meeting) {
    const int first_absent = (rendezvous.world_size() + 1) / 2;
    if (rendezvous.rank() < first_absent && first_absent < rendezvous.world_size()) {
      std::vector<int> absent;
      for (int rank = first_absent; rank < rendezvous.world_size(); ++rank) absent.push_back(rank);
      const absl::Status status = rendezvous.AllGatherBytes("digest", "x", absl::Milliseconds(200)).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
      EXPECT_THAT(std::string(status.message()),
                  testing::AllOf(testing::StartsWith("digest: "), testing::HasSubstr(RankList(absent))));
      EXPECT_EQ(rendezvous.AllGatherBytes("digest", "x", kLong).status(), status);
    }
    Meet(meeting);
    if (rendezvous.rank() >= first_absent) {
      // Too late. What this rank missed may have been sent already, what comes next was not: no deadline is needed.
      absl::Status status = rendezvous.AllGatherBytes("digest", "x", kLong).status();
      if (status.ok()) status = rendezvous.AllGatherBytes("next", "x", kLong).status();
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("did not arrive within"));
    }
  });
}

TEST_P(RendezvousContract, DifferentTagsNameBothRanks) {
  Run([](Rendezvous& rendezvous, Rendezvous&) {
    const int last = rendezvous.world_size() - 1;
    const absl::string_view what = rendezvous.rank() == last ? "save" : "step";
    const absl::Status status = rendezvous.AllGatherBytes(what, "", kLong).status();
    if (last == 0) {
      EXPECT_TRUE(status.ok()) << status;
      return;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()),
                testing::AllOf(testing::HasSubstr(absl::StrCat("rank ", last, " ")), testing::HasSubstr("\"save\""),
                               testing::HasSubstr("\"step\"")));
    EXPECT_FALSE(rendezvous.AllGatherBytes("again", "", kLong).ok());
  });
}

TEST_P(RendezvousContract, RanksAgreeOnTheErrorOfTheLowestFailingRank) {
  Run([](Rendezvous& rendezvous, Rendezvous&) {
    EXPECT_TRUE(AgreeOnStatus(rendezvous, "fine", absl::OkStatus(), kLong).ok());
    const int rank = rendezvous.rank();
    const absl::Status mine = rank >= rendezvous.world_size() / 2
                                  ? absl::DataLossError(absl::StrCat("shard-", rank, ": chunk 3: bad"))
                                  : absl::OkStatus();
    const int lowest = rendezvous.world_size() / 2;
    EXPECT_EQ(AgreeOnStatus(rendezvous, "load", mine, kLong),
              absl::DataLossError(absl::StrCat("rank ", lowest, ": shard-", lowest, ": chunk 3: bad")));
    EXPECT_TRUE(AgreeOnStatus(rendezvous, "still usable", absl::OkStatus(), kLong).ok());
  });
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_RENDEZVOUS_CONTRACT_H_
