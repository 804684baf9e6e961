#ifndef SHARDSTEP_TESTS_TOOLS_TRACE_CHECKS_H_
#define SHARDSTEP_TESTS_TOOLS_TRACE_CHECKS_H_

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace shardstep {

/// What a viewer makes of a trace.
struct ReadTrace {
  struct Slice {
    std::string name, process, thread;
    double begin_us = 0, end_us = 0;
    nlohmann::json args;
  };
  std::vector<Slice> slices;
  /// By number, the slices that an arrow goes through, by index.
  std::map<int64_t, std::vector<size_t>> arrows;
  std::vector<std::string> remarks;

  std::vector<std::string> Through(int64_t arrow) const {
    std::vector<std::string> names;
    for (const size_t slice : arrows.at(arrow)) names.push_back(slices[slice].name);
    return names;
  }
};

/// Expects that the text is a trace: tracks have names, slices of one do not overlap, arrows begin, go on and end at
/// slices that there are, in order of time.
inline ReadTrace ParseTrace(const std::string& text) {
  ReadTrace trace;
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << text.substr(0, 2000);
  if (json.is_discarded()) return trace;
  std::map<int, std::string> processes;
  std::map<std::pair<int, int>, std::string> threads;
  for (const auto& event : json["traceEvents"]) {
    if (event["ph"] != "M") continue;
    const std::string what = event["name"];
    if (what == "process_name") processes[event["pid"]] = event["args"]["name"];
    if (what == "thread_name") threads[{event["pid"], event["tid"]}] = event["args"]["name"];
  }
  std::map<std::pair<int, int>, std::vector<size_t>> tracks;
  for (const auto& event : json["traceEvents"]) {
    if (event["ph"] == "i") trace.remarks.push_back(event["name"]);
    if (event["ph"] != "X") continue;
    const std::pair<int, int> track = {event["pid"], event["tid"]};
    EXPECT_TRUE(threads.contains(track)) << event;
    EXPECT_GE(event["ts"].get<double>(), 0) << event;
    EXPECT_GT(event["dur"].get<double>(), 0) << event;
    tracks[track].push_back(trace.slices.size());
    trace.slices.push_back({.name = event["name"],
                            .process = processes[track.first],
                            .thread = threads[track],
                            .begin_us = event["ts"],
                            .end_us = event["ts"].get<double>() + event["dur"].get<double>(),
                            .args = event["args"]});
  }
  // Times have three digits behind the point.
  constexpr double kRoundingUs = 1e-4;
  for (auto& [track, slices] : tracks) {
    for (size_t i = 1; i < slices.size(); ++i) {
      const ReadTrace::Slice &before = trace.slices[slices[i - 1]], &after = trace.slices[slices[i]];
      EXPECT_LE(before.end_us, after.begin_us + kRoundingUs) << before.name << ", " << after.name;
    }
  }
  std::map<int64_t, std::vector<std::string>> phases;
  for (const auto& event : json["traceEvents"]) {
    const std::string phase = event["ph"];
    if (phase != "s" && phase != "t" && phase != "f") continue;
    EXPECT_EQ(event["bp"], "e");
    const double ts = event["ts"];
    std::vector<size_t> found;
    for (const size_t i : tracks[{event["pid"], event["tid"]}]) {
      if (trace.slices[i].begin_us <= ts && ts < trace.slices[i].end_us) found.push_back(i);
    }
    EXPECT_EQ(found.size(), 1u) << event << " lies in no slice, or several";
    if (found.empty()) continue;
    phases[event["id"]].push_back(phase);
    trace.arrows[event["id"]].push_back(found[0]);
  }
  for (const auto& [arrow, slices] : trace.arrows) {
    EXPECT_GE(slices.size(), 2u);
    EXPECT_EQ(phases[arrow].front(), "s");
    for (size_t i = 1; i < slices.size(); ++i) {
      EXPECT_GE(trace.slices[slices[i]].begin_us, trace.slices[slices[i - 1]].begin_us);
      EXPECT_EQ(trace.slices[slices[i]].process, trace.slices[slices[0]].process);
      EXPECT_EQ(phases[arrow][i], i + 1 < slices.size() ? "t" : "f");
    }
  }
  return trace;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_TOOLS_TRACE_CHECKS_H_
