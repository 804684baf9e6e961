#include "shardstep/tools/bench/cuda_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

namespace shardstep {
namespace {

using ::testing::ElementsAreArray;

// Readers of the benchmark's output go by their order.
constexpr const char* kColumns[] = {"device",         "parameters",
                                    "ranks",          "rule",
                                    "master",         "transport",
                                    "exchange",       "graph",
                                    "micro_steps",    "clip",
                                    "step_ms",        "step_ms_min",
                                    "step_ms_max",    "bytes_per_parameter",
                                    "gb_per_s",       "floor_ms",
                                    "floor_ratio",    "floor_by",
                                    "wire_ms",        "update_of_twin",
                                    "update_of_copy", "norm_of_twin",
                                    "copy_gb_per_s",  "blocking_calls",
                                    "memory_mb",      "estimated_mb",
                                    "wrong"};

CudaBenchRow Row() {
  CudaBenchRow row;
  row.step = {.ranks = 2, .hosts = 2};
  row.parameters = 1000000;
  row.device = "Some \"GPU\" 80GB";
  row.transport = "nccl";
  row.exchange = "exact";
  row.max_norm = 0.5;
  row.step_ms = {9, 4, 5};
  row.gradient_ms = {1, 3, 2};
  row.update_ms = {2, 1, 7};
  row.wire_ms = {3, 1, 2};
  row.norm = {.bytes = 8000000, .kernel_ms = {4, 5, 6}, .twin_ms = {4, 4, 4}};
  row.update = {.bytes = 15000000, .kernel_ms = {2, 2, 9}, .twin_ms = {1, 1, 1}};
  row.copied_bytes = 20000000;
  row.copy_ms = {1, 2, 4, 2};
  row.memory_bytes = 12340000;
  row.estimated_bytes = 12000000;
  row.wrong = 0;
  return row;
}

TEST(CudaReportTest, RatiosAreOfMedians) {
  const CudaBenchRow row = Row();
  EXPECT_EQ(row.floor_ms(), 2 + 2);
  EXPECT_EQ(row.floor_ratio(), 5.0 / 4);
  EXPECT_EQ(row.norm.of_twin(), 4.0 / 5);
  EXPECT_EQ(row.update.of_twin(), 1.0 / 2);
  // 20 MB in 2 ms; 15 MB in 2 ms.
  EXPECT_EQ(row.copy_gb_per_s(), 10);
  EXPECT_EQ(row.update_of_copy(), 0.75);
}

TEST(CudaReportTest, WhatWasNotMeasuredHasNoRatio) {
  const CudaBenchRow nothing;
  for (const double ratio : {nothing.floor_ratio(), nothing.norm.of_twin(), nothing.update.of_twin(),
                             nothing.update_of_copy(), nothing.copy_gb_per_s()}) {
    EXPECT_TRUE(std::isnan(ratio));
  }
}

std::vector<std::string> Words(const std::string& line) { return absl::StrSplit(line, ' ', absl::SkipEmpty()); }

TEST(CudaReportTest, ColumnsInTheirOrder) {
  EXPECT_THAT(Words(CudaBenchHeader()), ElementsAreArray(kColumns));
  const std::string line = CudaBenchLine(Row());
  EXPECT_EQ(line.size(), CudaBenchHeader().size());
  // Half of the parameters' 38 bytes each, in 5 ms.
  const std::vector<std::string> expected = {
      "Some_GPU_80GB", "1000000", "2",     "adamw", "fp32", "nccl", "exact", "no",    "1",
      "0.5",           "5.000",   "4.000", "9.000", "38",   "3.8",  "4.000", "1.250", "twins",
      "2.000",         "0.500",   "0.750", "0.800", "10.0", "0",    "12.3",  "12.0",  "0"};
  EXPECT_THAT(Words(line), ElementsAreArray(expected));
}

TEST(CudaReportTest, JsonHasTheSameKeysAndValues) {
  CudaBenchRow row = Row();
  row.graph = true;
  row.floor_has_twins = false;
  row.update.twin_ms.clear();
  row.wire_ms.clear();
  row.wrong.reset();
  row.max_norm.reset();
  const auto json = nlohmann::ordered_json::parse(CudaBenchJson(row));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_THAT(keys, ElementsAreArray(kColumns));
  EXPECT_EQ(json["device"], "Some_GPU_80GB");
  EXPECT_EQ(json["graph"], "yes");
  EXPECT_EQ(json["clip"], "off");
  EXPECT_EQ(json["floor_by"], "copies");
  EXPECT_EQ(json["step_ms"], 5.0);
  EXPECT_EQ(json["norm_of_twin"], 0.8);
  for (const char* missing : {"wrong", "wire_ms", "update_of_twin"}) EXPECT_TRUE(json[missing].is_null()) << missing;
}

}  // namespace
}  // namespace shardstep
