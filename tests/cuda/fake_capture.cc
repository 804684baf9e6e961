#include "shardstep/tests/cuda/fake_capture.h"

#include <algorithm>
#include <utility>

namespace shardstep {

int FakeCapture::Append(const std::string& name, std::vector<MemoryAccess> accesses, const std::vector<FakeEdge>& after,
                        std::function<void()> function) {
  nodes.push_back({.name = name, .accesses = std::move(accesses), .after = after});
  functions.push_back(std::move(function));
  return static_cast<int>(nodes.size()) - 1;
}

bool FakeCapture::IsJoinedBy(const std::vector<FakeEdge>& last) const {
  std::vector<bool> joined(nodes.size(), false);
  for (const FakeEdge& edge : last) joined[edge.earlier] = true;
  // Edges lead to earlier nodes only.
  for (size_t i = nodes.size(); i-- > 0;) {
    if (!joined[i]) continue;
    for (const FakeEdge& edge : nodes[i].after) joined[edge.earlier] = true;
  }
  return std::all_of(joined.begin(), joined.end(), [](bool is_joined) { return is_joined; });
}

}  // namespace shardstep
