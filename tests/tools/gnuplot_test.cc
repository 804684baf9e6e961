#include "shardstep/tools/gnuplot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;

class GnuplotTest : public ::testing::Test {
 protected:
  GnuplotTest() : folder_(std::filesystem::path(::testing::TempDir()) / absl::StrCat("gnuplot_test.", getpid())) {
    std::filesystem::create_directories(folder_);
    const char* path = std::getenv("PATH");
    path_ = path == nullptr ? "" : path;
  }
  ~GnuplotTest() override {
    setenv("PATH", path_.c_str(), 1);
    std::filesystem::remove_all(folder_);
  }
  // A gnuplot that writes its argument, and the lines of that file, to "called", and ends with `code`.
  void PutGnuplot(int code) {
    const std::filesystem::path program = folder_ / "gnuplot";
    std::ofstream(program) << "#!/bin/sh\necho \"$1\" >called\ncat \"$1\" >>called 2>/dev/null\nexit " << code << "\n";
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    setenv("PATH", absl::StrCat(folder_.string(), ":", path_).c_str(), 1);
  }
  static std::string Read(const std::filesystem::path& path) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }

  const std::filesystem::path folder_;
  std::string path_;
};

TEST_F(GnuplotTest, RunsTheScriptInItsFolder) {
  PutGnuplot(0);
  const std::string plots = folder_ / "new/plots";
  const std::vector<PlotFile> files = {{"a.gp", "draw\n"}, {"a.dat", "1 2\n"}};
  ASSERT_TRUE(WritePlotFiles(plots, files).ok());
  EXPECT_EQ(Read(plots + "/a.dat"), "1 2\n");
  const absl::Status status = RunGnuplot(plots, "a.gp");
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Read(plots + "/called"), "a.gp\ndraw\n");
}

TEST_F(GnuplotTest, AFailureNamesTheScript) {
  PutGnuplot(3);
  const absl::Status status = RunGnuplot(folder_, "a.gp");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("3 drawing ", (folder_ / "a.gp").string())));
}

TEST_F(GnuplotTest, IsRequiredByName) {
  std::filesystem::current_path(folder_);  // where the program writes "called"
  PutGnuplot(0);
  EXPECT_TRUE(RequireGnuplot().ok());
  PutGnuplot(1);
  EXPECT_EQ(RequireGnuplot().code(), absl::StatusCode::kFailedPrecondition) << "one that does not run";
  setenv("PATH", (folder_ / "nowhere").c_str(), 1);
  const absl::Status status = RequireGnuplot();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("gnuplot-nox"));
}

TEST_F(GnuplotTest, AFolderThatIsAFileIsNamed) {
  std::ofstream(folder_ / "file") << "x";
  const PlotFile script{"a.gp", ""};
  const absl::Status status = WritePlotFiles(folder_ / "file/plots", {&script, 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_THAT(std::string(status.message()), HasSubstr((folder_ / "file/plots").string()));
}

TEST(GnuplotScriptTest, DrawsEverythingAsSvgAndAsPng) {
  const std::string script = GnuplotScript("set output \"a.KIND\"\n");
  const size_t svg = script.find("set terminal svg");
  const size_t png = script.find("set terminal png");
  ASSERT_LT(svg, png);
  EXPECT_THAT(script.substr(svg, png - svg), HasSubstr("set output \"a.svg\""));
  EXPECT_THAT(script.substr(png), HasSubstr("set output \"a.png\""));
}

TEST(GnuplotStringTest, HasNoEscapes) { EXPECT_EQ(GnuplotString("it's $a\\n"), "'it''s $a\\n'"); }

}  // namespace
}  // namespace shardstep
