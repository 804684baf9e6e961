// X1: unknown, duplicate and mistyped fields are refused by file, line and name, in silence.
#include "shardstep/tools/options_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "shardstep/proto/train.pb.h"
#include "shardstep/runtime/options_text.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Refusal(const std::string& text) {
  proto::Train message;
  ::testing::internal::CaptureStderr();
  const absl::Status status = ParseOptionsText(text, "a.textproto", &message);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

std::string Refusal(const std::string& path, const std::string& value) {
  proto::Train message;
  ::testing::internal::CaptureStderr();
  const absl::Status status = SetOption(path, value, &message);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << path << " = " << value;
  EXPECT_THAT(std::string(status.message()), StartsWith(path + " = " + value + ": "));
  return std::string(status.message());
}

proto::Train Set(const std::string& path, const std::string& value, proto::Train message = {}) {
  const absl::Status status = SetOption(path, value, &message);
  EXPECT_TRUE(status.ok()) << status;
  return message;
}

TEST(ParseOptionsTextTest, ReadsComments) {
  proto::Train message;
  ASSERT_TRUE(ParseOptionsText("# why\nmodel { layers: 6 }  # deep\n", "a", &message).ok());
  EXPECT_EQ(message.ShortDebugString(), "model { layers: 6 }");
}

TEST(ParseOptionsTextTest, X1RefusesByFileLineAndField) {
  EXPECT_THAT(Refusal("model {\n  depth: 6\n}"), AllOf(StartsWith("a.textproto:2:"), HasSubstr("\"depth\"")));
  EXPECT_THAT(Refusal("model {\n  layers: 6\n  layers: 7\n}"),
              AllOf(StartsWith("a.textproto:3:"), HasSubstr("\"layers\" is specified multiple times")));
  EXPECT_THAT(Refusal("model {}\nmodel {}"), AllOf(StartsWith("a.textproto:2:"), HasSubstr("\"model\"")));
  EXPECT_THAT(Refusal("\nschedule { steps: 1e39 }"), AllOf(StartsWith("a.textproto:2:"), HasSubstr("steps: 1e39")));
  EXPECT_THAT(Refusal("schedule { steps: nan }"), HasSubstr("steps: nan"));
  EXPECT_THAT(Refusal("schedule { steps: 99999999999999999999 }"), HasSubstr("steps: 9999"));
  EXPECT_THAT(Refusal("schedule { seed: -1 }"), HasSubstr("seed: -1"));
  EXPECT_THAT(Refusal("run { backend: MPI }"), AllOf(HasSubstr("\"MPI\""), HasSubstr("\"backend\"")));
  EXPECT_THAT(Refusal("run { backend: 17 }"), AllOf(HasSubstr("\"17\""), HasSubstr("\"backend\"")));
  EXPECT_THAT(Refusal("model {"), StartsWith("a.textproto:"));
  EXPECT_THAT(Refusal("\xff\xfe"), StartsWith("a.textproto:1:"));
  EXPECT_THAT(Refusal(std::string(1000, '{')), StartsWith("a.textproto:1:"));
}

TEST(ReadOptionsFileTest, NamesTheFile) {
  proto::Train message;
  const std::filesystem::path directory =
      std::filesystem::path(::testing::TempDir()) / ("options_file_test." + std::to_string(getpid()));
  std::filesystem::create_directories(directory);
  const std::string path = directory / "a.textproto";
  absl::Status status = ReadOptionsFile(path, &message);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  status = ReadOptionsFile(directory, &message);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(directory.string()));

  std::ofstream(path) << "model { layers: 6 }\n";
  ASSERT_TRUE(ReadOptionsFile(path, &message).ok());
  EXPECT_EQ(message.model().layers(), 6);
  std::ofstream(path) << "model { layers: 6 }\nwhat: 1\n";
  EXPECT_THAT(std::string(ReadOptionsFile(path, &message).message()), StartsWith(path + ":2:"));
  std::ofstream(path) << std::string((1 << 20) + 1, ' ');
  EXPECT_THAT(std::string(ReadOptionsFile(path, &message).message()), HasSubstr("larger than"));
  std::filesystem::remove_all(directory);
}

TEST(SetOptionTest, SetsEveryKindOfField) {
  EXPECT_EQ(Set("model.layers", "6").ShortDebugString(), "model { layers: 6 }");
  EXPECT_EQ(Set("schedule.learning_rate", "1e-3").schedule().learning_rate(), 1e-3);
  EXPECT_EQ(Set("checkpoint.resume", "true").checkpoint().resume(), true);
  EXPECT_EQ(Set("run.backend", "INPROC").run().backend(), proto::INPROC);
  EXPECT_EQ(Set("data.path", "a b=c.txt").data().path(), "a b=c.txt");
  EXPECT_EQ(Set("data.path", "\"a\\x62\"").data().path(), "ab");
  EXPECT_EQ(Set("data.path", "").data().has_path(), true);
}

TEST(SetOptionTest, OverridesWhatWasSet) {
  EXPECT_EQ(Set("model.layers", "7", Set("model.layers", "6")).model().layers(), 7);
}

TEST(SetOptionTest, AnIndexNamesAGroupAndOnePastTheEndAppends) {
  proto::Train message = Set("optimizer.group[0].adamw.beta1", "0.8");
  message = Set("optimizer.group[1].adamw.beta2", "0.7", message);
  message = Set("optimizer.group[0].adamw.beta2", "0.6", message);
  EXPECT_EQ(message.ShortDebugString(),
            "optimizer { group { adamw { beta1: 0.8 beta2: 0.6 } } group { adamw { beta2: 0.7 } } }");
  EXPECT_THAT(Refusal("optimizer.group[1].adamw.beta1", "0.8"), HasSubstr("index 1 is more than one past the end, 0"));
}

TEST(SetOptionTest, AOneofTakesTheNameOfAField) {
  proto::Train message = Set("optimizer.group[0].rule", "sgd");
  EXPECT_EQ(message.ShortDebugString(), "optimizer { group { sgd { } } }");
  message = Set("optimizer.group[0].sgd.momentum", "0.9", message);
  message = Set("optimizer.group[0].rule", "sgd", message);
  EXPECT_EQ(message.ShortDebugString(), "optimizer { group { sgd { momentum: 0.9 } } }") << "chosen again, it stays";
  EXPECT_FALSE(SetOption("optimizer.group[0].lion.beta1", "0.9", &message).ok()) << "sgd would be dropped";
  message = Set("optimizer.group[0].rule", "lion", message);
  EXPECT_EQ(message.ShortDebugString(), "optimizer { group { lion { } } }");
  EXPECT_THAT(Refusal("optimizer.group[0].rule", "adam"), HasSubstr("must be one of adamw, sgd, lion"));
  EXPECT_THAT(Refusal("optimizer.group[0].rule.beta1", "0.9"), HasSubstr("no field \"rule\" in Group"));
  EXPECT_THAT(Refusal("optimizer { group { adamw { } sgd { } } }"),
              AllOf(HasSubstr("\"sgd\""), HasSubstr("\"adamw\"")));
}

TEST(ResolveOneofsTest, NamesTheFieldThatStandsOrTheFirst) {
  const proto::Train message = Set("optimizer.group[0].rule", "sgd");
  EXPECT_EQ(ResolveOneofs("optimizer.group[0].rule.momentum", message), "optimizer.group[0].sgd.momentum");
  EXPECT_EQ(ResolveOneofs("optimizer.group[1].rule.beta1", message), "optimizer.group[1].adamw.beta1");
  EXPECT_EQ(ResolveOneofs("optimizer.group[0].rule.beta1", proto::Train()), "optimizer.group[0].adamw.beta1");
  for (const char* path : {"optimizer.group[0].rule", "optimizer.group[0].master", "optimizer.group[x].master",
                           "model.depth", "model.layers.x", "", ".", "rule.x"}) {
    EXPECT_EQ(ResolveOneofs(path, message), path);
  }
}

TEST(SetOptionTest, X1RefusesByPath) {
  EXPECT_THAT(Refusal("model.depth", "6"), HasSubstr("no field \"depth\" in Model"));
  EXPECT_THAT(Refusal("", "6"), HasSubstr("no field \"\" in Train"));
  EXPECT_THAT(Refusal("model.", "6"), HasSubstr("no field \"\""));
  EXPECT_THAT(Refusal("model.layers.x", "6"), HasSubstr("\"layers\" has no fields"));
  EXPECT_THAT(Refusal("model", "6"), HasSubstr("names a group of fields"));
  EXPECT_THAT(Refusal("model[0].layers", "6"), HasSubstr("takes no index"));
  EXPECT_THAT(Refusal("optimizer.group.adamw.beta1", "6"), HasSubstr("needs an index"));
  for (const char* index : {"[-1]", "[x]", "[]", "[99999999999]", "]"}) {
    EXPECT_THAT(Refusal(std::string("optimizer.group") + index + ".adamw.beta1", "0.5"), HasSubstr("good index"));
  }
  for (const char* value : {"nan", "inf", "1e39", "", "6 7", "six", "9999999999999999999999", "{", "6 layers: 7"}) {
    Refusal("model.layers", value);
  }
  Refusal("schedule.seed", "-1");
  Refusal("run.backend", "MPI");
  Refusal("checkpoint.resume", "maybe");
}

}  // namespace
}  // namespace shardstep
