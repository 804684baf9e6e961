#include "shardstep/runtime/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint_test_model.h"

namespace shardstep {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

SafetensorsTensor Tensor(std::string name, std::vector<int64_t> shape, int64_t begin, int64_t end) {
  SafetensorsTensor tensor;
  tensor.name = std::move(name);
  tensor.dtype = "F32";
  tensor.shape = std::move(shape);
  tensor.begin_byte = begin;
  tensor.end_byte = end;
  return tensor;
}

TEST(SafetensorsTest, ParsesWhatItEncodes) {
  SafetensorsHeader header;
  header.metadata = {{"a \"quoted\" key", "line\nbreak"}, {"empty", ""}};
  header.tensors = {Tensor("x\\y", {2, 3}, 0, 24), Tensor("scalar", {}, 24, 28), Tensor("none", {0, 5}, 28, 28)};
  const std::string bytes = EncodeSafetensorsHeader(header);
  EXPECT_EQ(bytes.size() % 64, 0U);
  EXPECT_EQ(*SafetensorsHeaderBytes(bytes, static_cast<int64_t>(bytes.size()) + 28),
            static_cast<int64_t>(bytes.size()));
  const absl::StatusOr<SafetensorsHeader> parsed = ParseSafetensorsHeader(bytes.substr(8), 28);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, header);
}

std::string Length(uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

// X4
TEST(SafetensorsTest, X4HeaderLengthIsBounded) {
  EXPECT_TRUE(SafetensorsHeaderBytes(Length(92), 100).ok());
  EXPECT_FALSE(SafetensorsHeaderBytes(Length(93), 100).ok());
  EXPECT_FALSE(SafetensorsHeaderBytes(Length((64 << 20) + 1), int64_t{1} << 40).ok());
  EXPECT_FALSE(SafetensorsHeaderBytes(Length(~uint64_t{0}), int64_t{1} << 40).ok());
  EXPECT_FALSE(SafetensorsHeaderBytes("1234567", 7).ok());
}

// X4, X3: texts that must be refused, each for its own reason.
TEST(SafetensorsTest, X4RefusesEverythingElse) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  ASSERT_TRUE(ParseSafetensorsHeader(good + "   ", 8).ok());
  const std::pair<std::string, const char*> bad[] = {
      {"", "not JSON"},
      {good.substr(0, 20), "not JSON"},
      {good + "x", "not JSON"},
      {good + std::string(1, '\0'), "not JSON"},
      {"[]", "begins with"},
      {"7", "begins with"},
      {std::string(100000, '['), "begins with"},
      {"{\"a\":" + std::string(100000, '['), "an array"},
      {"\xef\xbb\xbf" + good, "begins with"},
      {R"({"a":[1]})", "an array"},
      {R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", "an array"},
      {R"({"a":{"dtype":"F32","shape":[{}],"data_offsets":[0,8]}})", "an object"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})", "unknown field"},
      {R"({"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", "repeated field"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", "not exactly"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", "not exactly"},
      {R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", "a number"},
      {R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", "unknown dtype"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "negative"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", "no 64-bit integer"},
      {R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}})", "no 64-bit integer"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", "above 2^63"},
      {R"({"a":{"dtype":"F32","shape":[1152921504606846976,16],"data_offsets":[0,8]}})", "beyond 2^63"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}})", "beyond 2^63"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "backwards"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "needs 12 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", "gap"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "twice"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "cover 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", "cover 12 bytes"},
      {R"({"__metadata__":{"k":7}})", "a number"},
      {R"({"__metadata__":{"k":"v","k":"v"}})", "repeated key"},
      {R"({"__metadata__":{},"__metadata__":{}})", "second __metadata__"},
      {R"({"a":null})", "null"},
      {R"({"a":true})", "truth"},
      {"{\"\xff\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "not JSON"},
  };
  for (const auto& [text, why] : bad) {
    const absl::StatusOr<SafetensorsHeader> parsed = ParseSafetensorsHeader(text, 8);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss) << text.substr(0, 80);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(why)) << text.substr(0, 80);
  }
}

// X3, in small: whatever single byte changes, no crash.
TEST(SafetensorsTest, AnyOneByteChangedDoesNotCrash) {
  const std::string good = R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  for (size_t at = 0; at < good.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string text = good;
      text[at] = static_cast<char>(value);
      const absl::StatusOr<SafetensorsHeader> parsed = ParseSafetensorsHeader(text, 8);
      if (parsed.ok()) {
        EXPECT_EQ(parsed->tensors[0].end_byte, 8);
      }
    }
  }
}

TEST(SafetensorsTest, Utf8) {
  EXPECT_TRUE(IsUtf8("plain \"quoted\" \\ \n gr\xc3\xbc\xc3\x9f"));
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_FALSE(IsUtf8("\xff"));
  EXPECT_FALSE(IsUtf8("\xc0\xaf"));
  EXPECT_FALSE(IsUtf8("cut \xc3"));
}

// A reader written from safetensors' own description alone finds every element of a checkpoint in its shards.
TEST(SafetensorsTest, ShardsAreReadableByAnIndependentReader) {
  TemporaryDirectory directory;
  ExpectSaved(directory.path(), {.world_size = 3, .salt = 6, .step = 4});
  const std::vector<ParameterSpec> parameters = MixedParameters();
  int64_t elements = 0;
  for (int rank = 0; rank < 3; ++rank) {
    const std::string bytes =
        ReadBytes(directory / "step-000000000004/shard-" + std::to_string(rank) + "-of-3.safetensors");
    uint64_t length;
    std::memcpy(&length, bytes.data(), 8);
    const nlohmann::json header = nlohmann::json::parse(bytes.substr(8, length));
    size_t end = 8 + length;
    for (const auto& [key, tensor] : header.items()) {
      if (key == "__metadata__") continue;
      const size_t at = key.rfind('@'), slash = key.rfind('/');
      const int64_t begin = std::stoll(key.substr(at + 1));
      const std::vector<std::string> kinds = {"master", "first_moment", "second_moment"};
      const auto kind = std::find(kinds.begin(), kinds.end(), key.substr(slash + 1, at - slash - 1)) - kinds.begin();
      const auto parameter = std::find_if(parameters.begin(), parameters.end(),
                                          [&](const ParameterSpec& p) { return p.name == key.substr(0, slash); }) -
                             parameters.begin();
      EXPECT_EQ(tensor["dtype"], "F32");
      const int64_t count = tensor["shape"][0];
      for (int64_t i = 0; i < count; ++i) {
        float value;
        std::memcpy(&value, bytes.data() + 8 + length + tensor["data_offsets"][0].get<size_t>() + i * 4, 4);
        ASSERT_EQ(value, ValueOf(6, static_cast<int>(kind), static_cast<int>(parameter), begin + i)) << key;
      }
      elements += count;
      end = std::max(end, 8 + length + tensor["data_offsets"][1].get<size_t>());
    }
    EXPECT_EQ(end, bytes.size());
  }
  EXPECT_EQ(elements, 3 * (6500 + 7 + 1 + 2048));
}

}  // namespace
}  // namespace shardstep
