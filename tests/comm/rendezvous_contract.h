#ifndef SHARDSTEP_TESTS_COMM_RENDEZVOUS_CONTRACT_H_
#define SHARDSTEP_TESTS_COMM_RENDEZVOUS_CONTRACT_H_

/// What every rendezvous promises. Bound as communicator_contract.h is.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
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

TEST_P(RendezvousContract, RanksAgreeOnTheCauseToo) {
  Run([](Rendezvous& rendezvous, Rendezvous&) {
    const absl::Status mine = AbortedBy(7, absl::StatusCode::kDataLoss, "failed: bad");
    const absl::Status agreed = AgreeOnStatus(rendezvous, "load", mine, kLong);
    EXPECT_EQ(agreed, Annotate(mine, "rank 0"));
    EXPECT_EQ(CauseOf(agreed), absl::StatusCode::kDataLoss);
  });
}

TEST_P(RendezvousContract, FailEndsThePresentAndFutureMeetingsOfAllRanks) {
  Run([](Rendezvous& rendezvous, Rendezvous& meeting) {
    const int last = rendezvous.world_size() - 1;
    const absl::Status failed = AbortedBy(last, absl::StatusCode::kResourceExhausted, "failed: disk full");
    if (rendezvous.rank() == last) {
      absl::SleepFor(absl::Milliseconds(50));
      rendezvous.Fail(absl::ResourceExhaustedError("disk full"));
      rendezvous.Fail(absl::InternalError("a second reason of one rank"));
    } else {
      const absl::Status waiting = rendezvous.AllGatherBytes("save", "", absl::Minutes(1)).status();
      EXPECT_EQ(waiting, failed);
      EXPECT_EQ(waiting.message(), absl::StrCat("rank ", last, " failed: disk full"));
      EXPECT_EQ(CauseOf(waiting), absl::StatusCode::kResourceExhausted);
    }
    Meet(meeting);
    rendezvous.Fail(absl::InternalError("a later reason"));
    EXPECT_EQ(rendezvous.AllGatherBytes("next", "", absl::Minutes(1)).status(), failed);
    EXPECT_EQ(rendezvous.AllGatherBytes("another", "", absl::Minutes(1)).status(), failed);
  });
}

TEST_P(RendezvousContract, FailReachesRanksThatHaveNotEnteredAMeeting) {
  Run([](Rendezvous& rendezvous, Rendezvous& meeting) {
    if (rendezvous.rank() == 0) rendezvous.Fail(absl::DataLossError("shard-0: bad"));
    Meet(meeting);
    if (rendezvous.rank() == rendezvous.world_size() - 1) rendezvous.Fail(absl::InternalError("a later reason"));
    const absl::Status status =
        rendezvous.AllGatherBytes(absl::StrCat("at ", rendezvous.rank()), "", absl::Minutes(1)).status();
    EXPECT_EQ(status, AbortedBy(0, absl::StatusCode::kDataLoss, "failed: shard-0: bad"));
  });
}

// Ranks that wait for another one look no more at the rank that fails: it has been at their meeting already.
TEST_P(RendezvousContract, FailReachesRanksThatWaitForAThirdOne) {
  Run([](Rendezvous& rendezvous, Rendezvous& meeting) {
    const int rank = rendezvous.rank();
    const bool is_failing = rank == rendezvous.world_size() - 1;
    if (rank == 0) Meet(meeting);
    const absl::Duration deadline = is_failing ? absl::Milliseconds(200) : absl::Minutes(1);
    const absl::Status status = rendezvous.AllGatherBytes("save", "", deadline).status();
    if (is_failing) rendezvous.Fail(status);
    if (rank != 0) Meet(meeting);
    if (rendezvous.world_size() > 1) {
      EXPECT_THAT(std::string(status.message()), testing::EndsWith("rank 0 did not arrive within 200ms"));
      EXPECT_EQ(CauseOf(status), absl::StatusCode::kDeadlineExceeded);
    }
  });
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_RENDEZVOUS_CONTRACT_H_
