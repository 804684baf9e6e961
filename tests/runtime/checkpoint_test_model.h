#ifndef SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_MODEL_H_
#define SHARDSTEP_TESTS_RUNTIME_CHECKPOINT_TEST_MODEL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/checkpoint.h"
#include "shardstep/runtime/file_system.h"

namespace shardstep {

inline const std::vector<std::string> kKinds = {"master", "first_moment", "second_moment"};

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

/// The state of one rank.
struct RankState {
  RankState(std::vector<ParameterSpec> parameters, int world_size)
      : layout(*ShardLayout::Create(std::move(parameters), 4096, world_size)) {
    for (size_t k = 0; k < kKinds.size(); ++k) {
      values.emplace_back(static_cast<size_t>(layout.state_elements()), 0.0F);
    }
  }

  std::vector<CheckpointArray> arrays() {
    std::vector<CheckpointArray> arrays;
    for (size_t k = 0; k < kKinds.size(); ++k) arrays.push_back({kKinds[k], values[k].data()});
    return arrays;
  }

  void Fill(int rank, int salt) {
    for (int b = 0; b < layout.bucket_count(); ++b) {
      for (const Segment& segment : layout.Segments(b, rank)) {
        const int64_t begin = layout.state_begin_element(b) + segment.shard_begin_element;
        for (size_t k = 0; k < values.size(); ++k) {
          for (int64_t i = 0; i < segment.elements; ++i) {
            values[k][static_cast<size_t>(begin + i)] =
                ValueOf(salt, static_cast<int>(k), segment.parameter, segment.begin_element + i);
          }
        }
      }
    }
  }

  ShardLayout layout;
  std::vector<std::vector<float>> values;
};

/// Computed from whole parameters, without shards.
inline CheckpointInfo InfoOf(const ShardLayout& layout, int salt, int64_t step) {
  CheckpointInfo info;
  info.step = step;
  info.applied_steps = step - step / 3;
  info.skipped_steps = step / 3;
  info.consecutive_skips = step > 3 ? 1 : 0;
  info.options = {"bucket_bytes = 4096", "salt = " + std::to_string(salt)};
  info.caller_state = std::string("caller\0state", 12);
  for (size_t k = 0; k < kKinds.size(); ++k) {
    Digest digest;
    for (int p = 0; p < layout.parameter_count(); ++p) {
      std::vector<float> whole(static_cast<size_t>(layout.elements(p)));
      for (size_t i = 0; i < whole.size(); ++i) {
        whole[i] = ValueOf(salt, static_cast<int>(k), p, static_cast<int64_t>(i));
      }
      digest += DigestOf(p, 0, absl::Span<const float>(whole));
    }
    info.digests.push_back(digest);
  }
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
  std::vector<ParameterSpec> parameters = MixedParameters();
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
    RankState state(save.parameters, save.world_size);
    state.Fill(rank, save.salt);
    CheckpointPolicy policy;
    policy.keep = save.keep;
    policy.chunk_bytes = save.chunk_bytes;
    policy.deadline = absl::Seconds(60);
    if (!save.file_systems.empty()) policy.file_system = save.file_systems[static_cast<size_t>(rank)];
    statuses[static_cast<size_t>(rank)] = SaveCheckpoint(
        directory, state.layout, state.arrays(), InfoOf(state.layout, save.salt, save.step), rendezvous, policy);
  });
  return statuses;
}

struct LoadOutcome {
  absl::Status status;
  CheckpointInfo info;
  std::vector<std::string> warnings;
  bool equal = false;  ///< the arrays, padding included, are those of `salt`
};

inline std::vector<LoadOutcome> LoadOnAll(const std::string& directory, int world_size, int salt,
                                          const std::vector<ParameterSpec>& parameters = MixedParameters(),
                                          std::vector<FileSystem*> file_systems = {}) {
  std::vector<LoadOutcome> outcomes(static_cast<size_t>(world_size));
  RunRanks(world_size, [&](int rank, Rendezvous& rendezvous) {
    RankState state(parameters, world_size);
    RankState expected(parameters, world_size);
    expected.Fill(rank, salt);
    LoadOutcome& outcome = outcomes[static_cast<size_t>(rank)];
    CheckpointPolicy policy;
    policy.deadline = absl::Seconds(60);
    if (!file_systems.empty()) policy.file_system = file_systems[static_cast<size_t>(rank)];
    absl::StatusOr<CheckpointInfo> info =
        LoadCheckpoint(directory, state.layout, state.arrays(), rendezvous, policy, &outcome.warnings);
    outcome.status = info.status();
    if (info.ok()) outcome.info = *info;
    outcome.equal = state.values == expected.values;
  });
  return outcomes;
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
