// Several optimizers that decide together, on ranks that are threads.
#include "shardstep/runtime/joint_decision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <future>
#include <latch>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The parameters of all tests; the last character of a name tells its gradients and first values.
ParameterSpec W0() { return {.name = "w0", .shape = {70, 60}}; }
ParameterSpec W1() { return {.name = "w1", .shape = {33, 65}}; }
ParameterSpec W2() { return {.name = "w2", .shape = {1024}}; }
ParameterSpec W3() { return {.name = "w3", .shape = {3, 1000}}; }
ParameterSpec N4(double norm_weight) { return {.name = "n4", .shape = {7}, .norm_weight = norm_weight}; }
int Key(const std::string& name) { return name.back() - '0'; }

struct MemberJob {
  std::string name;
  std::vector<int> ranks;  ///< by the member's own rank
  std::vector<ParameterSpec> parameters;
  int64_t micro_steps = 1;
};

struct JointJob {
  int world_size = 1;
  std::vector<MemberJob> members;
  OptimizerOptions options;
  absl::Duration joint_deadline = absl::Seconds(60);   ///< of waits for the ranks of all members
  absl::Duration member_deadline = absl::Seconds(60);  ///< of waits inside one member
  bool joins = true;
  std::function<Bf16(const std::string& parameter, int64_t step, int64_t micro_batch, int64_t element)> gradient =
      [](const std::string& parameter, int64_t step, int64_t micro_batch, int64_t element) {
        return TrainingJob::MixedGradient(step, micro_batch, Key(parameter), element);
      };
};

// One rank's optimizers, as its trainer has them.
class JointRank {
 public:
  struct Member {
    const MemberJob* job = nullptr;
    std::unique_ptr<Rendezvous> rendezvous;
    std::unique_ptr<ShardedOptimizer> optimizer;
  };

  JointRank(const JointJob& job, Rendezvous& rendezvous, std::map<std::string, ThreadRendezvousGroup>& groups)
      : job_(job), rendezvous_(rendezvous) {
    for (const MemberJob& member : job.members) {
      const auto found = std::find(member.ranks.begin(), member.ranks.end(), rank());
      if (found == member.ranks.end()) continue;
      members_.push_back({.job = &member,
                          .rendezvous = groups.at(member.name).Join(static_cast<int>(found - member.ranks.begin())),
                          .optimizer = nullptr});
      Create(&members_.back());
    }
    if (job.joins) {
      const absl::Status joined = Join(Named());
      EXPECT_TRUE(joined.ok()) << joined;
    }
  }

  std::vector<JointMember> Named() {
    std::vector<JointMember> members;
    for (const Member& member : members_) members.push_back({member.optimizer.get(), member.job->name});
    return members;
  }

  absl::Status Join(const std::vector<JointMember>& members) {
    auto wide = CreateInprocCommunicator(rendezvous_, {.wait_deadline = job_.joint_deadline});
    EXPECT_TRUE(wide.ok()) << wide.status();
    return JoinDecisions(*std::move(wide), &rendezvous_, members);
  }

  void WriteGradients(Member& member, int64_t step) {
    ShardedOptimizer& optimizer = *member.optimizer;
    for (int64_t k = 0; k < member.job->micro_steps; ++k) {
      for (int p = optimizer.layout().parameter_count() - 1; p >= 0; --p) {
        ASSERT_TRUE(optimizer.GradientWritable(p).ok());
        const absl::Span<Bf16> gradient = optimizer.gradient(p);
        const int64_t micro_batch = k * optimizer.world_size() + optimizer.rank();
        for (size_t i = 0; i < gradient.size(); ++i) {
          gradient[i] = job_.gradient(optimizer.layout().parameter(p).name, step, micro_batch, i);
        }
        ASSERT_TRUE(optimizer.GradientReady(p).ok());
      }
      ASSERT_TRUE(optimizer.EndMicroStep().ok());
    }
  }
  void WriteGradients(int64_t step) {
    for (Member& member : members_) WriteGradients(member, step);
  }
  void Step(const StepArguments& arguments) {
    for (Member& member : members_) ASSERT_TRUE(member.optimizer->Step(arguments).ok());
  }
  // Of every member.
  std::vector<absl::StatusOr<StepRecord>> Finish() {
    std::vector<absl::StatusOr<StepRecord>> records;
    for (Member& member : members_) records.push_back(member.optimizer->FinishStep());
    return records;
  }
  std::vector<absl::StatusOr<StepRecord>> Train(int64_t step, const StepArguments& arguments) {
    WriteGradients(step);
    Step(arguments);
    return Finish();
  }
  // Of all parameters of all its members, by name.
  std::map<std::string, std::vector<float>> Masters() {
    std::map<std::string, std::vector<float>> masters;
    for (Member& member : members_) {
      for (int p = 0; p < member.optimizer->layout().parameter_count(); ++p) {
        const std::string& name = member.optimizer->layout().parameter(p).name;
        masters[name] = *member.optimizer->ReadState(name, StateKind::kMaster);
      }
    }
    return masters;
  }

  int rank() const { return rendezvous_.rank(); }
  std::vector<Member>& members() { return members_; }
  ShardedOptimizer& optimizer(const std::string& name) {
    for (Member& member : members_) {
      if (member.job->name == name) return *member.optimizer;
    }
    ADD_FAILURE() << name;
    return *members_[0].optimizer;
  }

 private:
  void Create(Member* member) {
    OptimizerOptions options = job_.options;
    options.micro_steps = member->job->micro_steps;
    auto host = CreateInprocCommunicator(*member->rendezvous, {.wait_deadline = job_.member_deadline});
    ASSERT_TRUE(host.ok()) << host.status();
    CommunicatorLevels levels;
    levels.host = *std::move(host);
    auto optimizer =
        ShardedOptimizer::Create(options, member->job->parameters, std::move(levels), member->rendezvous.get());
    ASSERT_TRUE(optimizer.ok()) << optimizer.status();
    member->optimizer = *std::move(optimizer);
    const ShardLayout& layout = member->optimizer->layout();
    const absl::Status status = member->optimizer->Initialize([&](int p, int64_t begin, absl::Span<float> values) {
      const int key = Key(layout.parameter(p).name);
      for (size_t i = 0; i < values.size(); ++i) values[i] = TrainingJob::InitialValue(key, begin + i);
    });
    ASSERT_TRUE(status.ok()) << status;
  }

  const JointJob& job_;
  Rendezvous& rendezvous_;
  std::vector<Member> members_;
};

void OnRanks(const JointJob& job, const std::function<void(JointRank&)>& body) {
  std::map<std::string, ThreadRendezvousGroup> groups;
  for (const MemberJob& member : job.members) groups.try_emplace(member.name, static_cast<int>(member.ranks.size()));
  RunRankThreads(job.world_size, [&](Rendezvous& rendezvous) {
    JointRank rank(job, rendezvous, groups);
    body(rank);
  });
}

// Two tensor parallel ranks times two data parallel ones; both tensor parallel ranks hold n4 alike.
JointJob TensorParallel() {
  JointJob job{.world_size = 4};
  job.members = {{.name = "tensor 0", .ranks = {0, 2}, .parameters = {W0(), N4(0.5), W1()}, .micro_steps = 2},
                 {.name = "tensor 1", .ranks = {1, 3}, .parameters = {W2(), W3(), N4(0.5)}, .micro_steps = 2}};
  job.options.bucket_bytes = 4096;
  return job;
}

// Dense parameters over all ranks, and two experts.
JointJob Experts() {
  JointJob job{.world_size = 4};
  job.members = {{.name = "dense", .ranks = {0, 1, 2, 3}, .parameters = {W0(), N4(1)}},
                 {.name = "expert 0", .ranks = {0, 1}, .parameters = {W1()}},
                 {.name = "expert 1", .ranks = {2, 3}, .parameters = {W2(), W3()}}};
  return job;
}

std::string MessageOf(const absl::StatusOr<StepRecord>& record) { return std::string(record.status().message()); }

// ---- The norm ------------------------------------------------------------------------------------------------------

struct RunResult {
  std::vector<double> norms, clips;
  std::map<std::string, std::vector<float>> masters;
  bool operator==(const RunResult&) const = default;
};

// All ranks and members must agree on norm and clip.
RunResult RunClipped(const JointJob& job) {
  RunResult result;
  shardstep::Mutex mutex;
  OnRanks(job, [&](JointRank& rank) {
    RunResult mine;
    for (int64_t step = 0; step < 4; ++step) {
      const auto records = rank.Train(step, {.learning_rate = 0.01, .max_norm = 0.5});
      for (const auto& record : records) {
        ASSERT_TRUE(record.ok()) << record.status();
        EXPECT_TRUE(record->applied);
        EXPECT_EQ(record->gradient_norm, records[0]->gradient_norm);
        EXPECT_EQ(record->clip_factor, records[0]->clip_factor);
      }
      mine.norms.push_back(records[0]->gradient_norm.value());
      mine.clips.push_back(records[0]->clip_factor);
    }
    mine.masters = rank.Masters();
    const MutexLock lock(&mutex);
    if (result.norms.empty()) result = mine;
    EXPECT_EQ(mine.norms, result.norms);
    EXPECT_EQ(mine.clips, result.clips);
    for (const auto& [name, master] : mine.masters) {
      EXPECT_EQ(result.masters.try_emplace(name, master).first->second, master) << name;
    }
  });
  return result;
}

// The bits depend on neither members nor ranks: norm, clip factor, and all that is trained.
TEST(JointDecision, SameBitsAsOneOptimizer) {
  const RunResult alone = RunClipped(
      {.world_size = 1,
       .members = {{.name = "all", .ranks = {0}, .parameters = {W0(), W1(), W2(), W3(), N4(1)}, .micro_steps = 4}},
       .joins = false});
  for (const double clip : alone.clips) EXPECT_LT(clip, 0.9);
  EXPECT_EQ(alone.masters.size(), 5u);
  EXPECT_TRUE(RunClipped(TensorParallel()) == alone);

  JointJob one_process = TensorParallel();
  one_process.world_size = 1;
  for (MemberJob& member : one_process.members) member.ranks = {0};
  for (MemberJob& member : one_process.members) member.micro_steps = 4;
  EXPECT_TRUE(RunClipped(one_process) == alone);

  // A member of four ranks beside one of two.
  JointJob uneven = TensorParallel();
  uneven.members[0].ranks = {3, 1, 0, 2};
  uneven.members[0].micro_steps = 1;
  EXPECT_TRUE(RunClipped(uneven) == alone);
}

// Against a sum in long double; each optimizer has micro-batches of its own, all divide by the same number.
TEST(JointDecision, NormOfDenseAndExperts) {
  const JointJob job = Experts();
  long double sum = 0;
  for (const MemberJob& member : job.members) {
    for (const ParameterSpec& parameter : member.parameters) {
      for (int64_t i = 0; i < *ElementCount(parameter); ++i) {
        float s = 0;
        for (size_t j = 0; j < member.ranks.size(); ++j) s += ToFloat(job.gradient(parameter.name, 0, j, i));
        sum += static_cast<long double>(s) * s;
      }
    }
  }
  const double norm = static_cast<double>(std::sqrt(sum)) / 4;
  OnRanks(job, [&](JointRank& rank) {
    EXPECT_EQ(rank.members().size(), 2u);
    for (const auto& record : rank.Train(0, {.learning_rate = 0.1, .divisor = 4.0, .max_norm = 0.1})) {
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_NEAR(record->gradient_norm.value(), norm, norm * 1e-12);
      EXPECT_NEAR(record->clip_factor, 0.1 / (norm + 1e-6), 1e-12);
    }
  });
}

// ---- Skips and refusals --------------------------------------------------------------------------------------------

TEST(JointDecision, SkipsEverywhereAndNamesThePlace) {
  JointJob job = Experts();
  const auto good = job.gradient;
  job.options.max_consecutive_skips = 2;
  job.gradient = [&](const std::string& parameter, int64_t step, int64_t micro_batch, int64_t element) {
    const bool bad = step > 0 && parameter == "w3" && micro_batch == 1 && element == 2011;
    return bad ? Bf16{0x7fc0} : good(parameter, step, micro_batch, element);
  };
  OnRanks(job, [&](JointRank& rank) {
    const StepArguments arguments{.learning_rate = 0.1, .divisor = 4.0};
    for (const auto& record : rank.Train(0, arguments)) EXPECT_TRUE(record.ok() && record->applied);
    const auto before = rank.Masters();
    for (const auto& record : rank.Train(1, arguments)) {
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_FALSE(record->applied);
      EXPECT_FALSE(record->gradient_norm.has_value());
      ASSERT_TRUE(record->non_finite.has_value());
      EXPECT_EQ(record->non_finite->optimizer, "expert 1");
      EXPECT_EQ(record->non_finite->parameter, "w3");
      EXPECT_EQ(record->non_finite->element, 2011);
      EXPECT_EQ(record->non_finite->micro_batch, 1);
      EXPECT_EQ(record->non_finite->rank, 3);
      EXPECT_EQ(WhatWasNotFinite(*record),
                "non-finite gradient at micro-batch 1 (rank 3), parameter \"w3\" of \"expert 1\", element 2011");
    }
    EXPECT_TRUE(rank.Masters() == before);
    for (const auto& record : rank.Train(2, arguments)) {
      EXPECT_EQ(record.status().code(), absl::StatusCode::kOutOfRange);
      EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("expert 1"), HasSubstr("max_consecutive_skips")));
    }
    EXPECT_TRUE(rank.Masters() == before);
    for (const auto& record : rank.Train(0, arguments)) EXPECT_TRUE(record.ok() && record->applied);
  });
}

// The sum of one member's finite gradients overflows: all name its place.
TEST(JointDecision, NamesTheMemberWhoseSumOverflows) {
  JointJob job = Experts();
  const auto good = job.gradient;
  job.gradient = [&](const std::string& parameter, int64_t step, int64_t micro_batch, int64_t element) {
    const bool huge = parameter == "w3" && element == 2011;
    return huge ? Bf16{0x7f7f} : good(parameter, step, micro_batch, element);
  };
  OnRanks(job, [&](JointRank& rank) {
    for (const auto& record : rank.Train(0, {.learning_rate = 0.1, .divisor = 4.0})) {
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_FALSE(record->applied);
      ASSERT_TRUE(record->non_finite.has_value());
      EXPECT_EQ(WhatWasNotFinite(*record),
                "the sum overflows at micro-batch 1 (rank 3), parameter \"w3\" of \"expert 1\", element 2011");
    }
  });
}

// One member's ranks disagree: its own business, but nobody updates.
TEST(JointDecision, DisagreementInsideOneMemberRefusesAll) {
  OnRanks(Experts(), [&](JointRank& rank) {
    const auto before = rank.Masters();
    rank.WriteGradients(0);
    for (auto& member : rank.members()) {
      const double rate = rank.rank() == 3 && member.job->name == "expert 1" ? 0.2 : 0.1;
      ASSERT_TRUE(member.optimizer->Step({.learning_rate = rate, .divisor = 4.0}).ok());
    }
    for (const auto& record : rank.Finish()) {
      EXPECT_EQ(record.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("\"expert 1\": ranks "), HasSubstr("2"), HasSubstr("3"),
                                           HasSubstr("learning_rate"), HasSubstr("nothing was updated")));
    }
    EXPECT_TRUE(rank.Masters() == before);
    for (const auto& record : rank.Train(1, {.learning_rate = 0.1, .divisor = 4.0})) {
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_EQ(record->step, 2);
      EXPECT_TRUE(record->applied);
    }
  });
}

TEST(JointDecision, GradientsWithoutMicroBatchRefuseAll) {
  OnRanks(Experts(), [&](JointRank& rank) {
    rank.WriteGradients(0);
    for (auto& member : rank.members()) {
      const int64_t micro_batches = member.job->name == "expert 1" ? 1 : 0;
      ASSERT_TRUE(member.optimizer->Step({.learning_rate = 0.1, .micro_batches = micro_batches, .divisor = 4.0}).ok());
    }
    for (const auto& record : rank.Finish()) {
      EXPECT_EQ(record.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(MessageOf(record), HasSubstr("\"expert 1\": rank 3 marked gradients ready in micro-step 0"));
    }
  });
}

TEST(JointDecision, DisagreementBetweenMembersNamesBoth) {
  const StepArguments common{.learning_rate = 0.1, .divisor = 4.0, .max_norm = 1.0};
  std::map<std::string, StepArguments> different{{"max_norm", common}, {"divisor", common}};
  different["max_norm"].max_norm.reset();
  different["divisor"].divisor.reset();  // J, which is 2 for this member
  for (const auto& [field, arguments] : different) {
    OnRanks(Experts(), [&, &field = field, &arguments = arguments](JointRank& rank) {
      const auto before = rank.Masters();
      rank.WriteGradients(0);
      for (auto& member : rank.members()) {
        ASSERT_TRUE(member.optimizer->Step(member.job->name == "expert 0" ? arguments : common).ok());
      }
      for (const auto& record : rank.Finish()) {
        EXPECT_EQ(record.status().code(), absl::StatusCode::kFailedPrecondition);
        EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("(\"expert 0\")"), HasSubstr("called Step with different"),
                                             HasSubstr(field), HasSubstr("rank ")));
      }
      EXPECT_TRUE(rank.Masters() == before);
    });
  }
  // J itself is each optimizer's own: with a divisor for all, different numbers of micro-batches are fine.
  OnRanks(Experts(), [&](JointRank& rank) {
    for (const auto& record : rank.Train(0, common)) EXPECT_TRUE(record.ok()) << record.status();
  });
}

TEST(JointDecision, DifferentCountsOfStepsAreNamed) {
  JointJob job = Experts();
  job.joins = false;
  OnRanks(job, [&](JointRank& rank) {
    auto& dense = rank.members()[0];
    rank.WriteGradients(dense, 0);
    ASSERT_TRUE(dense.optimizer->Step({.learning_rate = 0.1, .divisor = 4.0}).ok());
    ASSERT_TRUE(dense.optimizer->FinishStep().ok());
    ASSERT_TRUE(rank.Join(rank.Named()).ok());
    for (const auto& record : rank.Train(0, {.learning_rate = 0.1, .divisor = 4.0})) {
      EXPECT_EQ(record.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("(\"dense\")"), HasSubstr("number of Step calls")));
    }
  });
}

// A plan that is made anew still decides with the others.
TEST(JointDecision, OutlivesChangesOfThePlan) {
  JointJob job = Experts();
  OnRanks(job, [&](JointRank& rank) {
    ASSERT_TRUE(rank.optimizer("dense").SetFrozen({"n4"}, true).ok());
    ASSERT_TRUE(rank.optimizer("dense").SetFrozen({"n4"}, false).ok());
    const auto records = rank.Train(0, {.learning_rate = 0.1, .divisor = 4.0});
    for (const auto& record : records) {
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_EQ(record->gradient_norm, records[0]->gradient_norm);
    }
  });
}

// ---- Failures ------------------------------------------------------------------------------------------------------

TEST(JointDecision, AStepThatIsNotCalledIsNamed) {
  JointJob job = Experts();
  job.options.wait_deadline = absl::Milliseconds(300);
  OnRanks(job, [&](JointRank& rank) {
    rank.WriteGradients(0);
    for (auto& member : rank.members()) {
      if (rank.rank() == 2 && member.job->name == "expert 1") continue;
      // Rank 3's part of the expert waits for rank 2, which is that optimizer's own deadline to see.
      if (rank.rank() == 3 && member.job->name == "expert 1") continue;
      ASSERT_TRUE(member.optimizer->Step({.learning_rate = 0.1, .divisor = 4.0}).ok());
    }
    const absl::StatusOr<StepRecord> record = rank.optimizer("dense").FinishStep();
    EXPECT_EQ(CauseOf(record.status()), absl::StatusCode::kDeadlineExceeded) << record.status();
    EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("did not call Step of \"expert 1\" within 300ms"),
                                         HasSubstr("that of \"dense\" waits")));
  });
}

// A member that waits for its own ranks has its own deadline.
TEST(JointDecision, AStepThatIsCalledMayWaitForItsOwnRanks) {
  JointJob job{.world_size = 2};
  job.members = {{.name = "dense", .ranks = {0}, .parameters = {W0()}},
                 {.name = "expert", .ranks = {0, 1}, .parameters = {W1()}}};
  job.options.wait_deadline = absl::Milliseconds(100);
  OnRanks(job, [&](JointRank& rank) {
    rank.WriteGradients(0);
    if (rank.rank() == 1) absl::SleepFor(absl::Milliseconds(400));
    // The expert's first, so that dense never waits for a call.
    for (const char* name : {"expert", "dense"}) {
      if (rank.rank() == 1 && name == std::string("dense")) continue;
      ASSERT_TRUE(rank.optimizer(name).Step({.learning_rate = 0.1, .divisor = 1.0}).ok());
    }
    for (const auto& record : rank.Finish()) EXPECT_TRUE(record.ok()) << record.status();
  });
}

TEST(JointDecision, NoDeadlineRunsWhileARankIsAway) {
  JointJob job = Experts();
  job.options.wait_deadline = absl::Milliseconds(200);
  OnRanks(job, [&](JointRank& rank) {
    rank.WriteGradients(0);
    rank.optimizer("dense").SetAway(absl::Minutes(1));
    for (auto& member : rank.members()) {
      ASSERT_TRUE(member.optimizer->Step({.learning_rate = 0.1, .divisor = 4.0}).ok());
      if (member.job->name == "dense") absl::SleepFor(absl::Milliseconds(500));
    }
    rank.optimizer("dense").SetAway(absl::ZeroDuration());
    for (const auto& record : rank.Finish()) EXPECT_TRUE(record.ok()) << record.status();
  });
}

TEST(JointDecision, AnAbsentRankIsNamed) {
  JointJob job{.world_size = 2};
  job.members = {{.name = "stage 0", .ranks = {0}, .parameters = {W0()}},
                 {.name = "stage 1", .ranks = {1}, .parameters = {W1()}}};
  job.joint_deadline = absl::Milliseconds(300);
  std::promise<void> rank_0_ended;
  OnRanks(job, [&](JointRank& rank) {
    rank.WriteGradients(0);
    if (rank.rank() == 1) rank_0_ended.get_future().wait();
    rank.Step({.learning_rate = 0.1});
    const auto record = rank.Finish()[0];
    if (rank.rank() == 0) rank_0_ended.set_value();
    EXPECT_EQ(CauseOf(record.status()), absl::StatusCode::kDeadlineExceeded) << record.status();
    if (rank.rank() == 0) {
      EXPECT_THAT(MessageOf(record), HasSubstr("joint decision: AllReduceSmall number 0: rank 1 did not arrive"));
    } else {
      EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("rank 0 "), HasSubstr("joint decision: AllReduceSmall")));
    }
  });
}

// Of any optimizer, on any rank: all that wait end at once, long before deadlines, and learn why.
TEST(JointDecision, AnAbortEndsEveryWait) {
  std::latch waiting(3);
  OnRanks(Experts(), [&](JointRank& rank) {
    rank.WriteGradients(0);
    if (rank.rank() == 3) {
      waiting.wait();
      rank.optimizer("expert 1").Abort(absl::DataLossError("the disk is gone"));
    } else {
      for (auto& member : rank.members()) {
        EXPECT_TRUE(member.optimizer->Step({.learning_rate = 0.1, .divisor = 4.0}).ok());
      }
      waiting.count_down();
      for (const auto& record : rank.Finish()) {
        EXPECT_EQ(record.status().code(), absl::StatusCode::kAborted);
        EXPECT_EQ(CauseOf(record.status()), absl::StatusCode::kDataLoss);
        EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("rank "), HasSubstr("the disk is gone")));
      }
    }
  });
}

// Work that failed on a stream ends the others' waits, even when the caller does not look.
TEST(JointDecision, WorkThatFailsEndsTheOthersWaits) {
  JointJob job{.world_size = 2};
  job.members = {{.name = "dense", .ranks = {0}, .parameters = {W0()}},
                 {.name = "expert", .ranks = {0, 1}, .parameters = {W1()}}};
  job.member_deadline = absl::Milliseconds(400);
  OnRanks(job, [&](JointRank& rank) {
    if (rank.rank() == 1) {
      absl::SleepFor(absl::Milliseconds(1000));  // absent from the expert's exchange
      EXPECT_FALSE(rank.optimizer("expert").Step({.learning_rate = 0.1, .divisor = 1.0}).ok());
      return;
    }
    rank.WriteGradients(0);
    rank.Step({.learning_rate = 0.1, .divisor = 1.0});
    const absl::StatusOr<StepRecord> record = rank.optimizer("dense").FinishStep();
    EXPECT_EQ(record.status().code(), absl::StatusCode::kAborted) << record.status();
    EXPECT_EQ(CauseOf(record.status()), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(MessageOf(record), AllOf(HasSubstr("\"expert\": "), HasSubstr("AwaitSlices")));
  });
}

TEST(JointDecision, ADestroyedMemberIsNamed) {
  JointJob job{.world_size = 1};
  job.members = {{.name = "dense", .ranks = {0}, .parameters = {W0()}},
                 {.name = "expert", .ranks = {0}, .parameters = {W1()}}};
  OnRanks(job, [&](JointRank& rank) {
    for (const auto& record : rank.Train(0, {.learning_rate = 0.1})) EXPECT_TRUE(record.ok());
    rank.members().pop_back();
    const auto record = rank.Train(1, {.learning_rate = 0.1})[0];
    EXPECT_EQ(record.status().code(), absl::StatusCode::kAborted);
    EXPECT_THAT(MessageOf(record), HasSubstr("the optimizer \"expert\" was destroyed"));
  });
}

// ---- Creation ------------------------------------------------------------------------------------------------------

// Every rank gets the same error, and each optimizer still decides alone.
void ExpectRefused(JointJob job, const std::function<void(JointRank&, std::vector<JointMember>*)>& spoil,
                   absl::StatusCode code, const std::string& text) {
  job.joins = false;
  OnRanks(job, [&](JointRank& rank) {
    std::vector<JointMember> members = rank.Named();
    spoil(rank, &members);
    const absl::Status status = rank.Join(members);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    for (const auto& record : rank.Train(0, {.learning_rate = 0.1})) EXPECT_TRUE(record.ok()) << record.status();
  });
}

TEST(JointDecision, RefusesWhatIsNoSetOfMembers) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(
      Experts(),
      [](JointRank& rank, auto* members) {
        if (rank.rank() == 2) members->clear();
      },
      kInvalid, "rank 2: JoinDecisions: no members");
  ExpectRefused(
      Experts(),
      [](JointRank& rank, auto* members) {
        if (rank.rank() == 1) (*members)[0].name = "";
      },
      kInvalid, "rank 1: JoinDecisions: a member without a name");
  ExpectRefused(
      Experts(), [](JointRank&, auto* members) { members->push_back((*members)[0]); }, kInvalid,
      "\"dense\" is given twice");
  ExpectRefused(
      Experts(),
      [](JointRank& rank, auto* members) {
        if (rank.rank() == 3) members->pop_back();
      },
      kInvalid, "rank 1 of \"expert 1\" is on none of the ranks");
  ExpectRefused(
      Experts(), [](JointRank&, auto* members) { (*members)[1].name = "expert"; }, kInvalid,
      "ranks 1 and 2 give different optimizers the name \"expert\"");
  JointJob alike = Experts();
  alike.members[2].parameters = alike.members[1].parameters;
  ExpectRefused(
      alike, [](JointRank&, auto* members) { (*members)[1].name = "expert"; }, kInvalid,
      "ranks 0 and 2 are both rank 0 of \"expert\"");
}

TEST(JointDecision, RefusesToJoinTwiceOrInsideAStep) {
  OnRanks(Experts(), [](JointRank& rank) {
    EXPECT_THAT(std::string(rank.Join(rank.Named()).message()), HasSubstr("decides with others already"));
    for (const auto& record : rank.Train(0, {.learning_rate = 0.1, .divisor = 4.0})) EXPECT_TRUE(record.ok());
  });
  JointJob job = Experts();
  job.joins = false;
  OnRanks(job, [](JointRank& rank) {
    ASSERT_TRUE(rank.optimizer("dense").GradientWritable(0).ok());
    const absl::Status status = rank.Join(rank.Named());
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("\"dense\""), HasSubstr("inside a step")));
  });
}

TEST(JointDecision, PoliciesMustBeAlike) {
  for (const bool skips : {false, true}) {
    std::map<std::string, ThreadRendezvousGroup> groups;
    groups.try_emplace("a", 1);
    groups.try_emplace("b", 1);
    JointJob mine{.world_size = 2, .joins = false};
    mine.members = {{.name = "a", .ranks = {0}, .parameters = {W0()}},
                    {.name = "b", .ranks = {1}, .parameters = {W1()}}};
    JointJob other = mine;
    if (skips) {
      other.options.max_consecutive_skips = 7;
    } else {
      other.options.non_finite = NonFinitePolicy::kIgnore;
    }
    RunRankThreads(2, [&](Rendezvous& rendezvous) {
      JointRank rank(rendezvous.rank() == 0 ? mine : other, rendezvous, groups);
      const absl::Status status = rank.Join(rank.Named());
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr(skips ? "max_consecutive_skips is 16 in \"a\" on rank 0 and 7 in \"b\" on rank 1"
                                  : "non_finite is SKIP in \"a\" on rank 0 and IGNORE in \"b\" on rank 1"));
    });
  }
}

}  // namespace
}  // namespace shardstep
