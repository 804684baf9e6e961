#include "shardstep/tools/bench/bench_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<BenchOptions> Parse(const std::vector<const char*>& arguments) { return ParseBenchOptions(arguments); }

void ExpectRefused(const std::vector<const char*>& arguments, const std::string& named, const std::string& why = "") {
  const absl::Status status = Parse(arguments).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument)
      << absl::StrCat(arguments.front(), " ", status.message());
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(named), HasSubstr(why)));
}

TEST(BenchOptionsTest, Defaults) {
  const auto options = Parse({});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->model, "gpt2-124m");
  EXPECT_EQ(options->parameters.size(), 148u);
  ASSERT_EQ(options->optimizer.groups.size(), 1u);
  EXPECT_EQ(options->optimizer.groups[0].kind().rule, Rule::kAdamW);
  EXPECT_EQ(options->optimizer.groups[0].master, Master::kFp32);
  EXPECT_EQ(options->optimizer.host_sum, HostSum::kExact);
  EXPECT_EQ(options->optimizer.sum_group, 1);
  EXPECT_EQ(options->max_norm, 1.0);
  EXPECT_EQ(options->optimizer.non_finite, NonFinitePolicy::kSkip);
  EXPECT_EQ(options->optimizer.weights, WeightCopies::kShared);
  EXPECT_EQ(options->optimizer.micro_steps, 1);
  EXPECT_EQ(options->optimizer.bucket_bytes, 32 << 20);
  EXPECT_EQ(options->optimizer.update_threads, 0);
  EXPECT_EQ(options->backward_ms, 0);
  EXPECT_EQ(options->steps, 7);
  EXPECT_EQ(options->warmup, 2);
  EXPECT_THAT(options->baselines, IsEmpty());
  EXPECT_EQ(options->json_file, "");
  EXPECT_EQ(options->trace_file, "");
  EXPECT_TRUE(std::isinf(options->max_floor_ratio));
  EXPECT_FALSE(options->check);
  EXPECT_FALSE(options->kernels);
  EXPECT_FALSE(options->help);
}

TEST(BenchOptionsTest, BothSpellings) {
  const auto options = Parse({"--model=flat:1234",
                              "--rule",
                              "sgd",
                              "--master=split",
                              "--sum_group",
                              "3",
                              "--clip=0.5",
                              "--weights",
                              "private",
                              "--micro_steps=4",
                              "--bucket_bytes",
                              "4096",
                              "--update_threads=2",
                              "--backward_ms",
                              "2.5",
                              "--steps=3",
                              "--warmup",
                              "0",
                              "--json=a.jsonl",
                              "--trace",
                              "b.json",
                              "--max_floor_ratio=1.5",
                              "--check"});
  ASSERT_TRUE(options.ok()) << options.status();
  ASSERT_EQ(options->parameters.size(), 1u);
  EXPECT_THAT(options->parameters[0].shape, ElementsAre(1234));
  ASSERT_TRUE(std::holds_alternative<SgdOptions>(options->optimizer.groups[0].rule));
  EXPECT_EQ(std::get<SgdOptions>(options->optimizer.groups[0].rule).momentum, 0.9);
  EXPECT_EQ(options->optimizer.groups[0].master, Master::kSplit);
  EXPECT_EQ(options->optimizer.sum_group, 3);
  EXPECT_EQ(options->max_norm, 0.5);
  EXPECT_EQ(options->optimizer.weights, WeightCopies::kPrivate);
  EXPECT_EQ(options->optimizer.micro_steps, 4);
  EXPECT_EQ(options->optimizer.bucket_bytes, 4096);
  EXPECT_EQ(options->optimizer.update_threads, 2);
  EXPECT_EQ(options->backward_ms, 2.5);
  EXPECT_EQ(options->steps, 3);
  EXPECT_EQ(options->warmup, 0);
  EXPECT_EQ(options->json_file, "a.jsonl");
  EXPECT_EQ(options->trace_file, "b.json");
  EXPECT_EQ(options->max_floor_ratio, 1.5);
  EXPECT_TRUE(options->check);
}

TEST(BenchOptionsTest, EveryWord) {
  const auto group = [](const char* flag) { return Parse({flag})->optimizer.groups[0]; };
  EXPECT_EQ(group("--rule=adamw").kind().rule, Rule::kAdamW);
  EXPECT_EQ(group("--rule=lion").kind().rule, Rule::kLion);
  EXPECT_EQ(group("--rule=sgd").kind().rule, Rule::kSgd);
  EXPECT_EQ(group("--master=fp32").master, Master::kFp32);
  EXPECT_EQ(Parse({"--wire=exact"})->optimizer.host_sum, HostSum::kExact);
  EXPECT_EQ(Parse({"--wire=host_sum"})->optimizer.host_sum, HostSum::kRounded);
  EXPECT_EQ(Parse({"--weights=shared"})->optimizer.weights, WeightCopies::kShared);
  EXPECT_EQ(Parse({"--nonfinite=skip"})->optimizer.non_finite, NonFinitePolicy::kSkip);
  EXPECT_EQ(Parse({"--nonfinite=ignore", "--clip=off"})->optimizer.non_finite, NonFinitePolicy::kIgnore);
  EXPECT_EQ(Parse({"--clip=off"})->max_norm, std::nullopt);
  // Legal, and larger than any fp32.
  EXPECT_EQ(Parse({"--clip=1e39"})->max_norm, 1e39);
  EXPECT_EQ(Parse({"--max_floor_ratio=1e39"})->max_floor_ratio, 1e39);
  EXPECT_EQ(Parse({"--backward_ms=0"})->backward_ms, 0);
  EXPECT_EQ(Parse({"--model=gpt2-355m"})->parameters.size(), 292u);
  EXPECT_EQ(Parse({"--update_threads=0"})->optimizer.update_threads, 0);
  EXPECT_TRUE(Parse({"--kernels"})->kernels);
  EXPECT_TRUE(Parse({"--help"})->help);
  EXPECT_TRUE(Parse({"--help", "--model=flat:0"})->help);
}

TEST(BenchOptionsTest, Baselines) {
  EXPECT_THAT(Parse({"--baselines=all"})->baselines, ElementsAreArray(kAllBaselines));
  EXPECT_THAT(Parse({"--baselines=mpi_p2p,mpi_fp32"})->baselines,
              ElementsAre(Baseline::kPointToPoint, Baseline::kFp32));
  for (const Baseline baseline : kAllBaselines) {
    const std::string flag = absl::StrCat("--baselines=", ToString(baseline));
    EXPECT_THAT(Parse({flag.c_str()})->baselines, ElementsAre(baseline)) << flag;
  }
  ExpectRefused({"--baselines=mpi_fp32,"}, "--baselines=", "\"\" is none");
  ExpectRefused({"--baselines=mpi_fp32,allx"}, "--baselines=", "\"allx\" is none");
}

constexpr const char* kCounts[] = {"sum_group", "micro_steps", "bucket_bytes", "update_threads", "steps", "warmup"};
constexpr const char* kNumbers[] = {"clip", "backward_ms", "max_floor_ratio"};
constexpr const char* kWords[] = {"model",   "rule",      "master", "wire",      "nonfinite",
                                  "weights", "baselines", "device", "transport", "exchange"};
constexpr const char* kFiles[] = {"json", "trace", "nccl"};
constexpr const char* kOn[] = {"check", "kernels", "graph", "help"};

TEST(BenchOptionsTest, X1RefusesBadValuesByName) {
  const auto refuse_all = [](const auto& flags, const std::vector<std::string>& values) {
    for (const std::string name : flags) {
      for (const std::string& value : values) {
        const std::string joined = absl::StrCat("--", name, "=", value);
        ExpectRefused({joined.c_str()}, absl::StrCat("--", name));
        ExpectRefused({absl::StrCat("--", name).c_str(), value.c_str()}, absl::StrCat("--", name));
      }
    }
  };
  refuse_all(kCounts, {"", "nan", "inf", "-1", "1e39", "1.5", "0x10", "many", "99999999999999999999", "1 2"});
  refuse_all(kNumbers, {"", "nan", "inf", "-inf", "-1", "1e400", "fast", "1 2"});
  refuse_all(kWords, {"", "nan", "0", "-1", "1e39", "ADAMW", "none"});
  refuse_all(kFiles, {""});
  for (const char* value : {"", "-1", "1024", "0x1", "first", "nan", "1.5"}) {
    ExpectRefused({"--device=cuda", "--gpu", value}, "--gpu", "must be an integer");
  }
}

TEST(BenchOptionsTest, RefusesBeyondTheLimits) {
  for (const char* flag :
       {"--sum_group=0", "--micro_steps=0", "--bucket_bytes=0", "--steps=0", "--clip=0", "--max_floor_ratio=0",
        "--backward_ms=1e39", "--update_threads=1025", "--bucket_bytes=1099511627777", "--steps=1099511627777",
        "--warmup=1099511627777", "--model=flat:0", "--model=flat:-1", "--model=flat:", "--model=flat:1e3",
        "--model=flat:1099511627777"}) {
    ExpectRefused({flag}, std::string(flag).substr(0, std::string(flag).find('=')));
  }
  // The library's own limits, by the names that flags have too.
  for (const char* flag : {"--sum_group=16777216", "--micro_steps=16777216"}) {
    ExpectRefused({flag}, std::string(flag).substr(2, std::string(flag).find('=') - 2));
  }
}

TEST(BenchOptionsTest, X1RefusesFlagsThatItDoesNotKnow) {
  ExpectRefused({"--no_such_flag=1"}, "unknown flag --no_such_flag");
  ExpectRefused({"--stepss", "3"}, "unknown flag --stepss");
  ExpectRefused({"--"}, "unknown flag --");
  ExpectRefused({"--=1"}, "unknown flag --");
  ExpectRefused({"steps=3"}, "\"steps=3\"");
  ExpectRefused({"-steps=3"}, "\"-steps=3\"");
  ExpectRefused({""}, "\"\"");
}

TEST(BenchOptionsTest, RefusesFlagsWithoutValueAndSwitchesWithOne) {
  const auto each = [](const auto& flags, const auto& body) {
    for (const std::string name : flags) body(absl::StrCat("--", name));
  };
  const auto needs_a_value = [](const std::string& flag) { ExpectRefused({flag.c_str()}, flag, "needs a value"); };
  each(kCounts, needs_a_value);
  each(kNumbers, needs_a_value);
  each(kWords, needs_a_value);
  each(kFiles, needs_a_value);
  each(kOn, [](const std::string& flag) {
    for (const char* value : {"=", "=true", "=0"}) ExpectRefused({(flag + value).c_str()}, flag, "takes no value");
  });
}

TEST(BenchOptionsTest, X1RefusesFlagsGivenTwice) {
  ExpectRefused({"--steps=3", "--steps=3"}, "--steps", "given twice");
  ExpectRefused({"--steps=3", "--warmup=1", "--steps", "4"}, "--steps", "given twice");
  ExpectRefused({"--clip=off", "--clip=off"}, "--clip", "given twice");
  ExpectRefused({"--check", "--check"}, "--check", "given twice");
  ExpectRefused({"--baselines=mpi_fp32", "--baselines=mpi_p2p"}, "--baselines", "given twice");
  // A value may look like a flag.
  EXPECT_TRUE(Parse({"--json", "--json"}).ok());
}

TEST(BenchOptionsTest, X2RefusesWhatDoesNotGoTogether) {
  ExpectRefused({"--nonfinite=ignore"}, "--nonfinite=ignore", "--clip=off");
  ExpectRefused({"--nonfinite=ignore", "--clip=1"}, "--nonfinite=ignore", "--clip=off");
  ExpectRefused({"--baselines=all", "--micro_steps=2"}, "--baselines", "micro-step");
  ExpectRefused({"--baselines=all", "--backward_ms=1"}, "--baselines", "--backward_ms");
  ExpectRefused({"--wire=host_sum", "--sum_group=2"}, "sum_group", "host_sum");
  EXPECT_TRUE(Parse({"--wire=host_sum"}).ok());
  EXPECT_TRUE(Parse({"--check", "--micro_steps=2"}).ok());
}

TEST(BenchOptionsTest, OnGpus) {
  const auto defaults = Parse({"--device=cuda"});
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_TRUE(defaults->cuda);
  EXPECT_EQ(defaults->gpu.ordinal, std::nullopt);
  EXPECT_EQ(defaults->gpu.transport, GpuTransport::kNccl);
  EXPECT_EQ(defaults->gpu.exchange, NcclExchange::kExact);
  EXPECT_EQ(defaults->gpu.nccl_library, "");
  EXPECT_FALSE(defaults->gpu.graph);
  EXPECT_FALSE(Parse({"--device=cpu"})->cuda);
  const auto options =
      Parse({"--gpu=3", "--device", "cuda", "--exchange=nccl_reduce_scatter", "--nccl=libnccl.so", "--graph"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->gpu.ordinal, 3);
  EXPECT_EQ(options->gpu.exchange, NcclExchange::kReduceScatter);
  EXPECT_EQ(options->gpu.nccl_library, "libnccl.so");
  EXPECT_TRUE(options->gpu.graph);
  EXPECT_EQ(Parse({"--device=cuda", "--transport=staged"})->gpu.transport, GpuTransport::kStaged);
  EXPECT_EQ(ToString(GpuTransport::kStaged), "staged");
  EXPECT_EQ(ToString(NcclExchange::kReduceScatter), "nccl_reduce_scatter");
}

TEST(BenchOptionsTest, X2RefusesWhatIsForTheOtherDevice) {
  for (const char* flag : {"--wire=exact", "--weights=shared", "--update_threads=1", "--backward_ms=1",
                           "--baselines=all", "--trace=x", "--kernels"}) {
    const std::string name = std::string(flag).substr(0, std::string(flag).find('='));
    EXPECT_TRUE(Parse({flag}).ok()) << flag;
    ExpectRefused({flag, "--device=cuda"}, name, "not with --device=cuda");
  }
  for (const char* flag : {"--gpu=0", "--transport=nccl", "--exchange=exact", "--nccl=x", "--graph"}) {
    const std::string name = std::string(flag).substr(0, std::string(flag).find('='));
    EXPECT_TRUE(Parse({flag, "--device=cuda"}).ok()) << flag;
    ExpectRefused({flag}, name, "not with --device=cpu");
    ExpectRefused({flag, "--device=cpu"}, name, "not with --device=cpu");
  }
}

TEST(BenchOptionsTest, X2RefusesWhatDoesNotGoTogetherOnGpus) {
  ExpectRefused({"--device=cuda", "--transport=staged", "--exchange=nccl_reduce_scatter"}, "--exchange", "staged");
  ExpectRefused({"--device=cuda", "--transport=staged", "--nccl=x"}, "--nccl", "staged");
  ExpectRefused({"--device=cuda", "--check", "--exchange=nccl_reduce_scatter"}, "--check", "nccl_reduce_scatter");
  ExpectRefused({"--device=cuda", "--sum_group=2", "--exchange=nccl_reduce_scatter"}, "--sum_group",
                "nccl_reduce_scatter");
  ExpectRefused({"--device=cuda", "--nonfinite=ignore"}, "--nonfinite=ignore", "--clip=off");
}

TEST(BenchOptionsTest, HelpNamesEveryFlag) {
  const std::string help = BenchHelp();
  const auto expect_all = [&](const auto& flags, const char* end) {
    for (const char* name : flags) EXPECT_THAT(help, HasSubstr(absl::StrCat("  --", name, end)));
  };
  expect_all(kCounts, "=");
  expect_all(kNumbers, "=");
  expect_all(kWords, "=");
  expect_all(kFiles, "=");
  expect_all(kOn, "\n");
  EXPECT_THAT(help, HasSubstr("  --gpu=ORDINAL"));
}

}  // namespace
}  // namespace shardstep
