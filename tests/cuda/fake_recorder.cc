#include "shardstep/tests/cuda/fake_recorder.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

std::string SignalLabel(const void* word, uint32_t value) {
  return absl::StrCat("signal ", absl::Hex(reinterpret_cast<uintptr_t>(word)), " = ", value);
}

}  // namespace

void FakeRecorder::AfterHost(int thread, int item) {
  const auto last = last_of_thread_.find(thread);
  if (last != last_of_thread_.end()) recording_.AddNaturalEdge(last->second, item);
  if (meeting_ != kNothing) recording_.AddNaturalEdge(meeting_, item);
}

int FakeRecorder::HostItem(int thread, const std::string& name, std::vector<MemoryAccess> accesses) {
  const int item =
      recording_.Append(kHosts + thread, absl::StrCat(name, " by host thread ", thread), std::move(accesses));
  if (meeting_ != kNothing) recording_.AddNaturalEdge(meeting_, item);
  last_of_thread_[thread] = item;
  return item;
}

int FakeRecorder::Operation(int stream, int thread, const std::string& name, std::vector<MemoryAccess> accesses) {
  const int item = recording_.Append(stream, absl::StrCat(name, " on stream ", stream), std::move(accesses));
  AfterHost(thread, item);
  last_of_stream_[stream] = item;
  return item;
}

int FakeRecorder::Last(int stream) const {
  const auto last = last_of_stream_.find(stream);
  return last == last_of_stream_.end() ? kNothing : last->second;
}

void FakeRecorder::StreamWait(int stream, int thread, int item, const std::string& key) {
  if (item == kNothing) return;
  const int wait = Operation(stream, thread, key, {});
  recording_.AddEdge(item, wait, key);
}

void FakeRecorder::HostWait(int thread, const std::string& name, const std::vector<int>& items) {
  const int wait = HostItem(thread, name, {});
  for (const int item : items) {
    if (item != kNothing) recording_.AddNaturalEdge(item, wait);
  }
}

void FakeRecorder::HostAccess(int thread, const std::string& name, std::vector<MemoryAccess> accesses) {
  HostItem(thread, name, std::move(accesses));
}

void FakeRecorder::HostsMeet() {
  meeting_ = recording_.Append(kMeeting, "meeting of the host threads", {});
  for (const auto& [thread, item] : last_of_thread_) recording_.AddNaturalEdge(item, meeting_);
}

void FakeRecorder::Signal(int thread, const void* word, uint32_t value) {
  recording_.Label(HostItem(thread, "Signal", {}), SignalLabel(word, value));
}

void FakeRecorder::StreamWaitValue(int stream, int thread, const void* word, uint32_t value) {
  const std::string label = SignalLabel(word, value);
  recording_.AddNaturalEdgeToLabel(label, Operation(stream, thread, "StreamWaitValue", {}));
}

void FakeRecorder::LaunchGraph(int stream, int thread, const std::vector<FakeRecordedNode>& nodes) {
  const int begin = Operation(stream, thread, "begin of graph", {});
  std::vector<int> items;
  for (const FakeRecordedNode& node : nodes) {
    const int item = recording_.AppendTransfer(begin, node.name + " in a graph", node.accesses);
    for (const FakeRecordedNode::Edge& edge : node.after) {
      const int earlier = items[edge.earlier];
      edge.key.empty() ? recording_.AddNaturalEdge(earlier, item) : recording_.AddEdge(earlier, item, edge.key);
    }
    items.push_back(item);
  }
  const int end = Operation(stream, thread, "end of graph", {});
  for (const int item : items) recording_.AddNaturalEdge(item, end);
}

}  // namespace shardstep
