#ifndef SHARDSTEP_TESTS_CUDA_FAKE_RECORDER_H_
#define SHARDSTEP_TESTS_CUDA_FAKE_RECORDER_H_

#include <map>
#include <string>
#include <vector>

#include "shardstep/tests/recording/recording.h"

namespace shardstep {

/// One operation of a graph as the recorder sees it, with what it starts after: indices into the graph.
struct FakeRecordedNode {
  struct Edge {
    int earlier = 0;
    std::string key;  ///< of the wait that made it; empty: the order of a stream
  };
  std::string name;
  std::vector<MemoryAccess> accesses;
  std::vector<Edge> after;
};

/// The order that CUDA's calls make, as a Recording: of operations on streams, which start after what their host thread
/// has waited for, and of host threads. Threads: one at a time.
class FakeRecorder {
 public:
  static constexpr int kNothing = -1;

  /// Appends an operation of `stream`, issued by host thread `thread`; returns its item.
  int Operation(int stream, int thread, const std::string& name, std::vector<MemoryAccess> accesses);
  /// The last item of a stream; kNothing.
  int Last(int stream) const;
  /// Later operations of `stream` start after `item`.
  void StreamWait(int stream, int thread, int item, const std::string& key);
  /// What `thread` does from here on comes after `items`.
  void HostWait(int thread, const std::string& name, const std::vector<int>& items);
  /// Something that the host does by itself.
  void HostAccess(int thread, const std::string& name, std::vector<MemoryAccess> accesses);
  /// All that any host thread does from here on comes after all that any has done.
  void HostsMeet();
  /// Memory operations of streams that wait for a word: by what the host writes, exactly `value`.
  void Signal(int thread, const void* word, uint32_t value);
  void StreamWaitValue(int stream, int thread, const void* word, uint32_t value);
  void LaunchGraph(int stream, int thread, const std::vector<FakeRecordedNode>& nodes);
  /// `later` comes after `earlier`, in the nature of things.
  void AddOrder(int earlier, int later) { recording_.AddNaturalEdge(earlier, later); }

  const Recording& recording() const { return recording_; }

 private:
  static constexpr int kHosts = 1 << 20;  ///< number of the "stream" of host thread 0
  static constexpr int kMeeting = kHosts - 1;
  void AfterHost(int thread, int item);
  int HostItem(int thread, const std::string& name, std::vector<MemoryAccess> accesses);

  Recording recording_;
  std::map<int, int> last_of_stream_;
  std::map<int, int> last_of_thread_;
  int meeting_ = kNothing;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_FAKE_RECORDER_H_
