#include "shardstep/tools/train/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace shardstep {
namespace {

using ::testing::HasSubstr;

class CorpusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(::testing::TempDir()) / ("corpus_test." + std::to_string(getpid()));
  }
  void TearDown() override { std::filesystem::remove(path_); }

  /// Byte i is i mod 251.
  void Write(int64_t bytes) {
    std::string text(bytes, '\0');
    for (int64_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i % 251);
    std::ofstream(path_, std::ios::binary) << text;
  }

  std::string path_;
};

TEST_F(CorpusTest, TheLastTenthIsHeldOut) {
  Write(1009);
  const auto corpus = Corpus::Open(path_, 16);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_EQ(corpus->training().size(), 909);
  EXPECT_EQ(corpus->held_out().size(), 100);
  EXPECT_EQ(corpus->training().front(), 0);
  EXPECT_EQ(corpus->held_out().front(), 909 % 251);
  EXPECT_EQ(corpus->held_out().back(), 1008 % 251);
}

TEST_F(CorpusTest, RefusalsNameTheFile) {
  const auto refusal = [&](absl::StatusCode code) {
    const auto corpus = Corpus::Open(path_, 16);
    EXPECT_EQ(corpus.status().code(), code) << corpus.status();
    EXPECT_THAT(std::string(corpus.status().message()), HasSubstr(path_));
    return std::string(corpus.status().message());
  };
  refusal(absl::StatusCode::kNotFound);
  Write(0);
  EXPECT_THAT(refusal(absl::StatusCode::kInvalidArgument), HasSubstr("empty"));
  Write(169);
  EXPECT_THAT(refusal(absl::StatusCode::kInvalidArgument), HasSubstr("169 bytes; a context of 16 needs at least 170"));
  Write(170);
  EXPECT_TRUE(Corpus::Open(path_, 16).ok());
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(refusal(absl::StatusCode::kInvalidArgument), HasSubstr("not a regular file"));
  std::filesystem::remove(path_);
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  EXPECT_THAT(refusal(absl::StatusCode::kInvalidArgument), HasSubstr("not a regular file"));
}

TEST_F(CorpusTest, TrainingWindowsAreAPureFunctionThatUsesEveryNumber) {
  Write(100000);
  const auto corpus = Corpus::Open(path_, 16);
  ASSERT_TRUE(corpus.ok());
  const auto place = [&](const WindowNumber& number) {
    const auto window = corpus->TrainingWindow(number);
    EXPECT_EQ(window.size(), 17);
    return window.data() - corpus->training().data();
  };
  // Pinned: another value would train another model from the same options.
  const WindowNumber number = {.seed = 1, .step = 2, .micro_batch = 3, .sequence = 4};
  EXPECT_EQ(place(number), 23110);
  EXPECT_EQ(place(number), place(number));
  std::set<int64_t> places = {place(number)};
  for (const WindowNumber& other : {WindowNumber{2, 2, 3, 4}, WindowNumber{1, 3, 3, 4}, WindowNumber{1, 2, 4, 4},
                                    WindowNumber{1, 2, 3, 5}, WindowNumber{1, 3, 2, 4}, WindowNumber{1, 2, 4, 3}}) {
    places.insert(place(other));
  }
  EXPECT_EQ(places.size(), 7);
}

TEST_F(CorpusTest, TrainingWindowsCoverAllOfTheTrainingTextAndNothingElse) {
  Write(200);
  const auto corpus = Corpus::Open(path_, 16);
  ASSERT_TRUE(corpus.ok());
  std::set<int64_t> begins;
  for (int64_t step = 1; step <= 4000; ++step) {
    begins.insert(corpus->TrainingWindow({.seed = 7, .step = step}).data() - corpus->training().data());
  }
  EXPECT_EQ(*begins.begin(), 0);
  EXPECT_EQ(*begins.rbegin(), 180 - 17);
  EXPECT_EQ(begins.size(), 180 - 17 + 1);
}

TEST_F(CorpusTest, HeldOutWindowsAreSpreadEvenly) {
  Write(1000);
  const auto corpus = Corpus::Open(path_, 16);
  ASSERT_TRUE(corpus.ok());
  const auto place = [&](int64_t window, int64_t windows) {
    EXPECT_EQ(corpus->HeldOutWindow(window, windows).size(), 17);
    return corpus->HeldOutWindow(window, windows).data() - corpus->held_out().data();
  };
  EXPECT_EQ(place(0, 1), 0);
  EXPECT_EQ(place(0, 4), 0);
  EXPECT_EQ(place(1, 4), 21);
  EXPECT_EQ(place(3, 4), 63);
  EXPECT_LE(place(999, 1000), 100 - 17);
}

TEST_F(CorpusTest, Moves) {
  Write(1000);
  auto first = Corpus::Open(path_, 16);
  ASSERT_TRUE(first.ok());
  Corpus second = *std::move(first);
  Write(2000);
  auto third = Corpus::Open(path_, 16);
  ASSERT_TRUE(third.ok());
  second = *std::move(third);
  EXPECT_EQ(second.held_out().size(), 200);
  EXPECT_EQ(second.held_out().back(), 1999 % 251);
}

}  // namespace
}  // namespace shardstep
