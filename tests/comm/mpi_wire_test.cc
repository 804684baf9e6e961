#include "shardstep/comm/mpi/mpi_wire.h"

#include <limits>
#include <set>

#include "gtest/gtest.h"

namespace shardstep {
namespace {

std::byte* const kBase = reinterpret_cast<std::byte*>(uintptr_t{1} << 46);  // never read

TEST(MpiWireTest, TheLongestMessageFitsAnIntAndKeepsCutsAligned) {
  EXPECT_EQ(LongestMessageBytes(4096), 4096);
  EXPECT_EQ(LongestMessageBytes(5000), 4992);
  EXPECT_EQ(LongestMessageBytes(std::numeric_limits<int64_t>::max()), 2'147'483'584);
}

TEST(MpiWireTest, CutsCoverEveryByteOnce) {
  for (const int64_t size_bytes : {0, 1, 4095, 4096, 4097, 12288, 100'000}) {
    std::vector<Message> messages;
    AppendMessages({.direction = Message::kReceive, .member = 3, .tag = 7}, kBase, size_bytes, 4096, &messages);
    std::byte* end = kBase;
    for (const Message& message : messages) {
      EXPECT_EQ(message.data, end);
      EXPECT_GT(message.bytes, 0);
      EXPECT_LE(message.bytes, 4096);
      EXPECT_EQ(message.direction, Message::kReceive);
      EXPECT_EQ(message.member, 3);
      EXPECT_EQ(message.tag, 7);
      end += message.bytes;
    }
    EXPECT_EQ(end - kBase, size_bytes);
  }
}

// L3: lengths and offsets beyond 31 and 32 bits.
TEST(MpiWireTest, CutsOfMoreThanFourGigabytesDoNotWrap) {
  const int64_t size_bytes = (int64_t{5} << 30) + 12;
  std::vector<Message> messages;
  AppendMessages({}, kBase, size_bytes, LongestMessageBytes(std::numeric_limits<int64_t>::max()), &messages);
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[2].data - kBase, int64_t{2} * 2'147'483'584);
  EXPECT_EQ(messages[2].bytes, size_bytes - int64_t{2} * 2'147'483'584);
}

TEST(MpiWireTest, NeighborsOfOneCommunicatorNeverShareATagAcrossPurposes) {
  const MessageTags tags{2048};
  std::set<int> small = {tags.small()};
  std::set<int> exchanges;
  std::set<int> publishes;
  for (int bucket = 0; bucket < 200; ++bucket) {
    for (int64_t number = 0; number < 9; ++number) {
      exchanges.insert(tags.exchange(bucket, number));
      publishes.insert(tags.publish(bucket, number));
    }
  }
  std::set<int> all = small;
  all.insert(exchanges.begin(), exchanges.end());
  all.insert(publishes.begin(), publishes.end());
  EXPECT_EQ(all.size(), small.size() + exchanges.size() + publishes.size());
  EXPECT_GE(*all.begin(), tags.first);
  EXPECT_LT(*all.rbegin(), tags.first + kTagsPerCommunicator);
  EXPECT_EQ(exchanges.size(), 256u);
  EXPECT_NE(tags.exchange(5, 0), tags.exchange(5, 1));
  EXPECT_NE(tags.exchange(5, 0), tags.exchange(6, 0));
}

TEST(MpiWireTest, AnAbortKeepsCodeCauseAndText) {
  const absl::Status status = AbortedBy(3, absl::StatusCode::kDataLoss, "aborted: torn");
  EXPECT_EQ(StatusOf(AbortMessage(status)), status);
  EXPECT_EQ(CauseOf(StatusOf(AbortMessage(status))), absl::StatusCode::kDataLoss);
}

TEST(MpiWireTest, ALongTextIsCutAlikeOnBothSides) {
  const absl::Status status = absl::AbortedError(std::string(5000, 'x'));
  const absl::Status cut = StatusOf(AbortMessage(status));
  EXPECT_GT(cut.message().size(), 500u);
  EXPECT_LT(cut.message().size(), 5000u);
  EXPECT_EQ(StatusOf(AbortMessage(cut)), cut);
}

}  // namespace
}  // namespace shardstep
