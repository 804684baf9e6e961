#ifndef SHARDSTEP_TESTS_RECORDING_RECORDING_H_
#define SHARDSTEP_TESTS_RECORDING_RECORDING_H_

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "shardstep/optimizer/shard_kernels.h"

namespace shardstep {

/// Everything that happens on any stream of any rank, as a graph: items in stream order, edges where one item waits for
/// another. Two items race when they touch the same bytes, one of them writes, and no path joins them.
///
/// A wait can be deleted by its key (the same in every step and on every rank), to see whether the check misses it:
/// while it is recorded, which has an effect on labels too, or afterwards, as often as one likes.
class Recording {
 public:
  explicit Recording(std::set<std::string> deleted = {}) : deleted_(std::move(deleted)) {}

  /// Appends an item to a stream (any number that names one) and returns its id.
  int Append(int stream, const std::string& name, std::vector<MemoryAccess> accesses);
  /// `waiter` starts after `earlier`. No effect when `key` is deleted.
  void AddEdge(int earlier, int waiter, const std::string& key);
  /// An edge that is in the nature of things and no wait of anybody's.
  void AddNaturalEdge(int earlier, int waiter) { items_[waiter].after.push_back({earlier, kNatural}); }
  /// The same for items that are known by name, on whichever rank, once all is recorded: "Exchange 3 7 of rank 1".
  void Label(int item, const std::string& label) { labels_[label] = item; }
  void AddEdgeToLabel(const std::string& label, int waiter, const std::string& key);
  void AddNaturalEdgeToLabel(const std::string& label, int waiter) { label_edges_.push_back({label, waiter}); }
  /// Appends an item that nobody's stream orders: a transfer that is under way.
  int AppendTransfer(int after, const std::string& name, std::vector<MemoryAccess> accesses);

  /// All waits, deleted ones too.
  const std::set<std::string>& keys() const { return keys_; }
  /// Descriptions of races, and of labels waited for that nobody recorded (a deadlock); at most a few.
  std::vector<std::string> Problems() const { return Problems({}); }
  /// The same as if AddEdge had not heard of `without`.
  std::vector<std::string> Problems(const std::set<std::string>& without) const;
  /// The number of items that touch memory.
  int access_count() const;
  /// The number of items.
  int size() const { return static_cast<int>(items_.size()); }

 private:
  static constexpr int kNatural = -1;
  struct Edge {
    int earlier = 0;
    int key = kNatural;  ///< of key_numbers_
  };
  struct Item {
    int stream = 0;
    std::string name;
    std::vector<MemoryAccess> accesses;
    std::vector<Edge> after;
  };
  struct LabelEdge {
    std::string label;
    int waiter;
  };
  using Bits = std::vector<uint64_t>;

  std::vector<std::vector<int>> Earlier(const std::set<std::string>& without, std::vector<std::string>* problems) const;
  std::vector<Bits> Reachability(const std::set<std::string>& without, std::vector<std::string>* problems) const;
  const std::vector<std::pair<int, int>>& Conflicts() const;

  const std::set<std::string> deleted_;
  std::vector<Item> items_;
  std::map<int, int> last_of_stream_;
  std::map<std::string, int> labels_;
  std::vector<LabelEdge> label_edges_;
  std::set<std::string> keys_;
  std::map<std::string, int> key_numbers_;
  int transfers_ = 0;
  mutable std::vector<std::pair<int, int>> conflicts_;  ///< pairs of items in conflict, among the first so many
  mutable size_t compared_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_RECORDING_RECORDING_H_
