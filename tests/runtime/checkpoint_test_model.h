#ifndef SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_MODEL_H_
#define SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_MODEL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "checkpoint_test_weights.h"
#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/optimizer/shard_state.h"
#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/file_system.h"
#include "shardstep/runtime/state_access.h"

namespace shardstep {

inline ParameterSpec Spec(std::string name, std::vector<int64_t> shape) {
  ParameterSpec spec;
  spec.name = std::move(name);
  spec.shape = std::move(shape);
  return spec;
}

/// A parameter over several buckets and ranks, small, scalar and empty ones, and names that JSON must escape.
inline std::vector<ParameterSpec> MixedParameters() {
  return {Spec("embed", {65, 100}), Spec("bias/\"q\"", {7}), Spec("scalar", {}), Spec("empty", {0, 4}),
          Spec("gr\xc3\xbc\xc3\x9f"
               "e",
               {2, 1024})};
}

/// The value of one element: every (salt below 16, kind, parameter below 8, element below 8192) has its own bits.
inline float ValueOf(int salt, int kind, int parameter, int64_t element) {
  return static_cast<float>(((salt * 3 + kind) * 8 + parameter) * 8192 + static_cast<int>(element)) / 1024.0F;
}

/// A model and how it is kept: what a save and a load may differ in.
struct TestModel {
  TestModel() = default;
  TestModel(std::vector<ParameterSpec> specs) : parameters(std::move(specs)) {}  // NOLINT: a conversion
  TestModel(std::initializer_list<ParameterSpec> specs) : parameters(specs) {}   // NOLINT: a conversion

  ShardLayout Layout(int world_size) const {
    LayoutOptions options;
    options.bucket_bytes = 4096;
    options.world_size = world_size;
    options.groups = groups;
    if (reversed_ranks) {
      for (int rank = world_size - 1; rank >= 0; --rank) options.ranks_by_position.push_back(rank);
    }
    return *ShardLayout::Create(parameters, options);
  }

  bool frozen(const ParameterSpec& spec) const { return spec.frozen || frozen_now.count(spec.name) > 0; }
  /// Whether nothing is kept beside bf16 weights.
  bool rounds(const ParameterSpec& spec) const {
    const Master master = groups[static_cast<size_t>(spec.group)].master;
    return spec.weight_dtype == DType::kBf16 && (spec.frozen || master == Master::kNone);
  }
  bool has(int kind, const ParameterSpec& spec) const {
    const UpdateKind& update = groups[static_cast<size_t>(spec.group)];
    return kind == 0 || (!frozen(spec) && (kind == 1 ? update.has_first_moment() : update.has_second_moment()));
  }

  std::vector<CheckpointParameterInfo> Infos() const {
    std::vector<CheckpointParameterInfo> infos;
    for (const ParameterSpec& spec : parameters) {
      const auto begin = begins.find(spec.name);
      infos.push_back({.update = groups[static_cast<size_t>(spec.group)],
                       .frozen = frozen(spec),
                       .begin_applied_step = begin == begins.end() ? 0 : begin->second});
    }
    return infos;
  }

  std::vector<ParameterSpec> parameters;
  std::vector<UpdateKind> groups = std::vector<UpdateKind>(1);
  bool reversed_ranks = false;
  std::set<std::string> frozen_now;  ///< besides those registered so; their buckets have state
  std::map<std::string, int64_t> begins;
  int64_t sum_group = 1;
};

/// The value of one element of kind 0, 1 or 2 before it is rounded, by parameter of the model.
using TestValues = std::function<float(int kind, int parameter, int64_t element)>;
inline TestValues Salted(int salt) {
  return [salt](int kind, int parameter, int64_t element) { return ValueOf(salt, kind, parameter, element); };
}

/// The state of one rank.
struct RankState {
  RankState(const TestModel& test_model, int world_size, int rank)
      : model(test_model),
        layout(model.Layout(world_size)),
        state(*ShardState::Create(layout, {})),
        weights(layout, rank, 2),
        access(&layout, &state, &weights) {}

  // Of all parameters the model has; what is not kept is left out.
  void Fill(const TestValues& value) {
    for (int b = 0; b < layout.bucket_count(); ++b) {
      for (const Segment& segment : layout.Segments(b, weights.rank())) {
        for (const StateKind kind : kStateKinds) {
          if (!model.has(static_cast<int>(kind), layout.parameter(segment.parameter))) continue;
          std::vector<float> values(static_cast<size_t>(segment.elements));
          for (int64_t i = 0; i < segment.elements; ++i) {
            values[static_cast<size_t>(i)] =
                value(static_cast<int>(kind), segment.parameter, segment.begin_element + i);
          }
          access.Write(kind, b, segment.shard_begin_element, values);
        }
      }
    }
  }

  /// Every byte, padding included.
  bool operator==(const RankState& other) const {
    for (int b = 0; b < layout.bucket_count(); ++b) {
      const BucketState& mine = state.bucket(b);
      const BucketState& its = other.state.bucket(b);
      const auto bytes = static_cast<size_t>(layout.shard_elements(b)) * sizeof(float);
      for (const auto& [one, another] : {std::pair(mine.master, its.master),
                                         {mine.first_moment, its.first_moment},
                                         {mine.second_moment, its.second_moment}}) {
        if (one != nullptr && std::memcmp(one, another, bytes) != 0) return false;
      }
      if (mine.remainder != nullptr && std::memcmp(mine.remainder, its.remainder, bytes / 2) != 0) return false;
    }
    return weights.copies() == other.weights.copies();
  }

  const TestModel model;
  const ShardLayout layout;
  ShardState state;
  TestWeights weights;
  StateAccess access;
};

/// Computed from whole parameters, without shards.
inline std::vector<Digest> DigestsOf(const TestModel& model, const TestValues& value) {
  const ShardLayout layout = model.Layout(1);
  std::vector<Digest> digests(3);
  for (int k = 0; k < 3; ++k) {
    for (int p = 0; p < layout.parameter_count(); ++p) {
      const ParameterSpec& spec = layout.parameter(p);
      if (layout.owner(p) != p || !model.has(k, spec)) continue;
      std::vector<float> whole(static_cast<size_t>(layout.elements(p)));
      for (size_t i = 0; i < whole.size(); ++i) {
        whole[i] = value(k, p, static_cast<int64_t>(i));
        if (k == 0 && model.rounds(spec)) whole[i] = ToFloat(ToBf16(whole[i]));
      }
      digests[static_cast<size_t>(k)] += DigestOf(p, 0, absl::Span<const float>(whole));
    }
  }
  return digests;
}

inline CheckpointInfo InfoOf(const TestModel& model, int salt, int64_t step) {
  CheckpointInfo info;
  info.step = step;
  info.applied_steps = step - step / 3;
  info.skipped_steps = step / 3;
  info.consecutive_skips = step > 3 ? 1 : 0;
  info.sum_group = model.sum_group;
  info.parameters = model.Infos();
  info.options = {"bucket_bytes = 4096", "salt = " + std::to_string(salt)};
  info.caller_state = std::string("caller\0state", 12);
  info.digests = DigestsOf(model, Salted(salt));
  return info;
}

/// Runs `body` on ranks that are threads.
inline void RunRanks(int world_size, const std::function<void(int rank, Rendezvous&)>& body) {
  ThreadRendezvousGroup group(world_size);
  if (world_size == 1) return body(0, *group.Join(0));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] { body(rank, *group.Join(rank)); });
  }
  for (std::thread& thread : threads) thread.join();
}

/// A fresh directory, removed with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "shardstep_checkpoint_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct TestSave {
  TestModel model = MixedParameters();
  int world_size = 1;
  int salt = 1;
  int64_t step = 1;
  int keep = 3;
  int64_t chunk_bytes = 1024;
  std::vector<FileSystem*> file_systems = {};  // by rank; empty: the real one
};

/// One status per rank.
inline std::vector<absl::Status> SaveOnAll(const std::string& directory, const TestSave& save) {
  std::vector<absl::Status> statuses(static_cast<size_t>(save.world_size));
  RunRanks(save.world_size, [&](int rank, Rendezvous& rendezvous) {
    RankState state(save.model, save.world_size, rank);
    state.Fill(Salted(save.salt));
    CheckpointPolicy policy;
    policy.keep = save.keep;
    policy.chunk_bytes = save.chunk_bytes;
    policy.deadline = absl::Seconds(60);
    if (!save.file_systems.empty()) policy.file_system = save.file_systems[static_cast<size_t>(rank)];
    statuses[static_cast<size_t>(rank)] = SaveCheckpoint(directory, state.layout, state.access,
                                                         InfoOf(save.model, save.salt, save.step), rendezvous, policy);
  });
  return statuses;
}

struct TestLoad {
  TestModel model = MixedParameters();
  int world_size = 1;
  TestValues expected = Salted(1);
  std::vector<FileSystem*> file_systems = {};  // by rank; empty: the real one
};

struct LoadOutcome {
  absl::Status status;
  CheckpointInfo info;
  std::vector<std::string> warnings;
  bool equal = false;  ///< every byte, padding included, is as the expected values make it
};

/// One outcome per rank.
inline std::vector<LoadOutcome> LoadOnAll(const std::string& directory, const TestLoad& load) {
  std::vector<LoadOutcome> outcomes(static_cast<size_t>(load.world_size));
  RunRanks(load.world_size, [&](int rank, Rendezvous& rendezvous) {
    RankState state(load.model, load.world_size, rank);
    RankState expected(load.model, load.world_size, rank);
    expected.Fill(load.expected);
    LoadOutcome& outcome = outcomes[static_cast<size_t>(rank)];
    CheckpointPolicy policy;
    policy.deadline = absl::Seconds(60);
    if (!load.file_systems.empty()) policy.file_system = load.file_systems[static_cast<size_t>(rank)];
    const std::vector<CheckpointParameterInfo> parameters = load.model.Infos();
    const CheckpointTarget target = {.parameters = parameters, .sum_group = load.model.sum_group};
    absl::StatusOr<CheckpointInfo> info =
        LoadCheckpoint(directory, state.layout, state.access, target, rendezvous, policy, &outcome.warnings);
    outcome.status = info.status();
    if (info.ok()) outcome.info = *info;
    outcome.equal = state == expected;
  });
  return outcomes;
}

inline std::vector<LoadOutcome> LoadOnAll(const std::string& directory, int world_size, int salt,
                                          const TestModel& model = MixedParameters(),
                                          std::vector<FileSystem*> file_systems = {}) {
  return LoadOnAll(
      directory,
      TestLoad{
          .model = model, .world_size = world_size, .expected = Salted(salt), .file_systems = std::move(file_systems)});
}

inline void ExpectSaved(const std::string& directory, const TestSave& save) {
  for (const absl::Status& status : SaveOnAll(directory, save)) ASSERT_TRUE(status.ok()) << status;
}

inline std::string ReadBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

inline std::vector<std::string> Names(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_MODEL_H_
