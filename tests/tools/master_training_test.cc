#include "shardstep/tools/precision/master_training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class MasterTrainingTest : public ::testing::Test {
 protected:
  MasterTrainingTest() {
    options_.layers = 1;
    options_.width = 32;
    options_.evaluate_windows = 16;
    std::ofstream file(file_);
    for (int i = 0; i < 3000; ++i) file << i * i % 1000 << (i % 3 == 0 ? " and " : " or ");
  }
  ~MasterTrainingTest() override { std::filesystem::remove(file_); }

  absl::StatusOr<MasterTrainings> Train(const std::function<void(absl::string_view)>& tell = [](auto) {}) {
    SHARDSTEP_ASSIGN_OR_RETURN(const Corpus corpus, Corpus::Open(file_, kTrainingContext));
    return TrainWithMasters(options_, corpus, tell);
  }

  const std::filesystem::path file_ =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("master_training_test.", getpid(), ".txt");
  MasterTrainingOptions options_;
};

TEST_F(MasterTrainingTest, TrainsTheSameModelWithEachMaster) {
  options_.steps = 40;
  std::vector<std::string> told;
  const auto trainings = Train([&](absl::string_view line) { told.emplace_back(line); });
  ASSERT_TRUE(trainings.ok()) << trainings.status();
  EXPECT_THAT(told, ElementsAre(HasSubstr("FP32"), HasSubstr("SPLIT"), HasSubstr("NONE, nearest"),
                                HasSubstr("NONE, stochastic")));
  ASSERT_EQ(trainings->runs.size(), 4u);
  std::vector<int64_t> bytes;
  for (const MasterTraining& run : trainings->runs) {
    bytes.push_back(run.master_bytes);
    ASSERT_EQ(run.held_out.size(), 20u);
    EXPECT_EQ(run.held_out.back().step, 40);
    EXPECT_LT(run.last_bits_per_byte(), run.held_out.front().bits_per_byte) << run.name << " learned nothing";
  }
  EXPECT_THAT(bytes, ElementsAre(4, 2, 0, 0));
  EXPECT_THAT(trainings->settings, HasSubstr("learning rate 0.001 after 2 steps"));
}

// Updates that are all smaller than half an ulp of any weight that is not about zero.
TEST_F(MasterTrainingTest, RoundingToNearestLosesWhatTheOthersLearn) {
  options_.steps = 60;
  options_.learning_rate = 1e-4;
  const auto trainings = Train();
  ASSERT_TRUE(trainings.ok()) << trainings.status();
  const auto learned = [&](int run) {
    const MasterTraining& training = trainings->runs[run];
    return training.held_out.front().bits_per_byte - training.last_bits_per_byte();
  };
  EXPECT_LT(learned(2), 0.9 * learned(0));
  EXPECT_NEAR(learned(1), learned(0), 0.02 * learned(0));
  EXPECT_NEAR(learned(3), learned(0), 0.1 * learned(0));
}

}  // namespace
}  // namespace shardstep
