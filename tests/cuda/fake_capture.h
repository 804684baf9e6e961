#ifndef SHARDSTEP_TESTS_CUDA_FAKE_CAPTURE_H_
#define SHARDSTEP_TESTS_CUDA_FAKE_CAPTURE_H_

#include <functional>
#include <string>
#include <vector>

#include "shardstep/tests/cuda/fake_recorder.h"

namespace shardstep {

/// A node that operations of a capture start after, and the wait that said so (empty: the order of a stream).
using FakeEdge = FakeRecordedNode::Edge;

/// What streams have captured so far, and later a graph ready to be launched. Nodes in issue order, which is one of the
/// orders that their edges allow.
struct FakeCapture {
  int origin_stream = 0;
  int thread = 0;  ///< that began it
  bool active = true;
  bool invalidated = false;
  std::vector<FakeRecordedNode> nodes;
  std::vector<std::function<void()>> functions;  ///< by node

  /// Appends a node; returns its index.
  int Append(const std::string& name, std::vector<MemoryAccess> accesses, const std::vector<FakeEdge>& after,
             std::function<void()> function);
  /// Whether every node is among `last` or what these come after.
  bool IsJoinedBy(const std::vector<FakeEdge>& last) const;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_FAKE_CAPTURE_H_
