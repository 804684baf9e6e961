#include "shardstep/tools/precision/precision_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace shardstep {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<PrecisionOptions> Parse(std::vector<const char*> arguments) { return ParsePrecisionOptions(arguments); }

TEST(PrecisionOptionsTest, BothSpellings) {
  const auto options = Parse({"--steps=7", "--seed", "9", "--json=a.json", "--gnuplot", "plots", "--data", "a.txt",
                              "--train_steps=5", "--train_layers=3", "--train_width=64", "--train_learning_rate=2e-3"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->steps, 7);
  EXPECT_EQ(options->seed, 9);
  EXPECT_EQ(options->json_file, "a.json");
  EXPECT_EQ(options->gnuplot_directory, "plots");
  EXPECT_EQ(options->elements, PrecisionOptions().elements);
  EXPECT_EQ(options->data_file, "a.txt");
  EXPECT_EQ(options->training.steps, 5);
  EXPECT_EQ(options->training.layers, 3);
  EXPECT_EQ(options->training.width, 64);
  EXPECT_EQ(options->training.learning_rate, 2e-3);
  EXPECT_EQ(options->training.seed, 9);
  EXPECT_FALSE(options->help);
  EXPECT_TRUE(Parse({"--help"})->help);
}

TEST(PrecisionOptionsTest, RefusesByName) {
  const std::vector<std::vector<const char*>> wrong = {{"--steps=0"},
                                                       {"--steps=1000001"},
                                                       {"--steps=ten"},
                                                       {"--steps"},
                                                       {"--seed=-1"},
                                                       {"--max_count=1"},
                                                       {"--max_ranks=1"},
                                                       {"--elements=1"},
                                                       {"--elements=512"},
                                                       {"--stochastic_weights=0"},
                                                       {"--max_ranks=1e3"},
                                                       {"--json="},
                                                       {"--gnuplot"},
                                                       {"--no_such_flag=1"},
                                                       {"--data="},
                                                       {"--train_steps=0"},
                                                       {"--train_layers=65"},
                                                       {"--train_width=33"},
                                                       {"--train_width=0"},
                                                       {"--train_learning_rate=0"},
                                                       {"--train_learning_rate=nan"},
                                                       {"--train_learning_rate=inf"},
                                                       {"--train_learning_rate=-1"},
                                                       {"--train_learning_rate=fast"},
                                                       {"--elements=99999999999999999999"}};
  for (const std::vector<const char*>& arguments : wrong) {
    const absl::Status status = Parse(arguments).status();
    const std::string argument = arguments.front();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << argument;
    EXPECT_THAT(std::string(status.message()), HasSubstr(argument.substr(0, argument.find('='))));
  }
  EXPECT_THAT(std::string(Parse({"steps"}).status().message()), HasSubstr("\"steps\""));
  EXPECT_FALSE(Parse({"--"}).ok());
}

TEST(PrecisionOptionsTest, HelpNamesEveryFlag) {
  for (const char* flag : {"steps", "stochastic_weights", "elements", "max_count", "max_ranks", "seed", "json",
                           "gnuplot", "data", "train_steps", "train_layers", "train_width", "train_learning_rate"}) {
    EXPECT_THAT(PrecisionHelp(), HasSubstr(std::string("--") + flag + "="));
  }
}

}  // namespace
}  // namespace shardstep
