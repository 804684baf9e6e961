// What a trainer in another language ends with when it runs this job; tests/python does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "training_job.h"

namespace shardstep {
namespace {

TEST(ReferenceDigests, AreInTestdata) {
  TrainingJob job;
  job.max_norm = 0.5;
  job.options.groups[0].rule = AdamWOptions{.beta2 = 0.95, .weight_decay = 0.1};
  const TrainingResult reference = RunReference(job);
  for (const StepRecord& record : reference.records) {
    EXPECT_TRUE(record.applied);
    EXPECT_LT(record.clip_factor, 1.0);
  }
  std::ifstream file(SHARDSTEP_TESTDATA "/reference_digests.txt");
  std::stringstream text;
  text << file.rdbuf();
  const shardstep_reference::Digests& digests = reference.digests;
  EXPECT_EQ(text.str(), absl::StrCat("weights ", digests.weights, "\nmaster ", digests.master, "\nfirst_moment ",
                                     digests.first_moment, "\nsecond_moment ", digests.second_moment, "\n"));
}

}  // namespace
}  // namespace shardstep
