#include "shardstep/tools/gpu_check/gpu_check_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shardstep::gpu_check {
namespace {

using testing::HasSubstr;

absl::StatusOr<GpuCheckOptions> Parse(std::vector<const char*> arguments) { return ParseGpuCheckOptions(arguments); }

TEST(GpuCheckOptionsTest, CommandsAndFlags) {
  const auto defaults = Parse({"kernels"});
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->command, Command::kKernels);
  EXPECT_EQ(defaults->elements, 100'000'000);
  EXPECT_FALSE(defaults->nccl_required);
  const auto given =
      Parse({"nccl", "--device=3", "--nccl=/opt/libnccl.so.2", "--elements=7", "--ranks=2", "--threads=5", "--seed=9",
             "--training_elements=1000", "--parameters=12", "--decisions=13"});
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->command, Command::kNccl);
  EXPECT_EQ(given->device, 3);
  EXPECT_EQ(given->nccl, "/opt/libnccl.so.2");
  EXPECT_TRUE(given->nccl_required);
  EXPECT_EQ(given->elements, 7);
  EXPECT_EQ(given->ranks, 2);
  EXPECT_EQ(given->threads, 5);
  EXPECT_EQ(given->seed, 9u);
  EXPECT_EQ(given->training.elements, 1000);
  EXPECT_EQ(given->parameters, 12);
  EXPECT_EQ(given->decisions, 13);
}

TEST(GpuCheckOptionsTest, WhatIsWrongIsNamed) {
  const struct {
    std::vector<const char*> arguments;
    const char* text;
  } cases[] = {{{}, "a command is missing"},
               {{"dance"}, "dance: there is no such command"},
               {{"host", "--elements"}, "--elements: flags read --name=value"},
               {{"host", "elements=3"}, "elements=3: flags read --name=value"},
               {{"host", "--spin=3"}, "--spin: there is no such flag"},
               {{"host", "--elements=0"}, "--elements=0: must be an integer from 1"},
               {{"host", "--ranks=5"}, "--ranks=5: must be an integer from 1 to 4"},
               {{"host", "--device=x"}, "--device=x: must be an integer"},
               {{"host", "--training_elements=99"}, "must be an integer from 100"}};
  for (const auto& [arguments, text] : cases) {
    const auto options = Parse(arguments);
    EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(options.status().message()), HasSubstr(text));
  }
}

TEST(GpuCheckOptionsTest, ARanksArgumentsComeBack) {
  GpuCheckOptions options;
  options.device = 2;
  options.training.elements = 5000;
  const std::vector<std::string> arguments =
      RankArguments(options, {.rank = 1, .world_size = 3, .address = "127.0.0.1:99"}, /*cuda=*/true);
  std::vector<const char*> given;
  for (const std::string& argument : arguments) given.push_back(argument.c_str());
  const auto rank = Parse(given);
  ASSERT_TRUE(rank.ok()) << rank.status();
  EXPECT_EQ(rank->command, Command::kRank);
  EXPECT_EQ(rank->device, 2);
  EXPECT_EQ(rank->training.elements, 5000);
  EXPECT_EQ(rank->rank.rank, 1);
  EXPECT_EQ(rank->rank.world_size, 3);
  EXPECT_EQ(rank->rank.address, "127.0.0.1:99");
  EXPECT_TRUE(rank->cuda);
}

TEST(GpuCheckOptionsTest, HelpNamesWhatAPersonMayUse) {
  const std::string help = GpuCheckHelp();
  for (const char* word : {"host", "kernels", "nccl", "staged", "graph", "async", "bench", "--device", "--nccl"}) {
    EXPECT_THAT(help, HasSubstr(word));
  }
  EXPECT_THAT(help, testing::Not(HasSubstr("--world_size")));
  EXPECT_EQ(Parse({"--help"})->command, Command::kHelp);
}

}  // namespace
}  // namespace shardstep::gpu_check
