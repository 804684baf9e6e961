#include "shardstep/tests/recording/recording.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

constexpr size_t kProblemsToReport = 5;

bool Conflict(const MemoryAccess& a, const MemoryAccess& b) {
  const auto* a_begin = static_cast<const char*>(a.begin);
  const auto* b_begin = static_cast<const char*>(b.begin);
  return (a.write || b.write) && a_begin < b_begin + b.size_bytes && b_begin < a_begin + a.size_bytes;
}

bool Conflict(const std::vector<MemoryAccess>& a, const std::vector<MemoryAccess>& b) {
  return std::any_of(a.begin(), a.end(), [&](const MemoryAccess& x) {
    return std::any_of(b.begin(), b.end(), [&](const MemoryAccess& y) { return Conflict(x, y); });
  });
}

bool Has(const std::vector<uint64_t>& bits, int i) {
  const auto n = static_cast<size_t>(i);
  return n / 64 < bits.size() && ((bits[n / 64] >> (n % 64)) & 1) != 0;
}

}  // namespace

int Recording::Append(int stream, const std::string& name, std::vector<MemoryAccess> accesses) {
  const int id = static_cast<int>(items_.size());
  items_.push_back({.stream = stream, .name = name, .accesses = std::move(accesses), .after = {}});
  const auto last = last_of_stream_.find(stream);
  if (last != last_of_stream_.end()) AddNaturalEdge(last->second, id);
  last_of_stream_[stream] = id;
  return id;
}

void Recording::AddEdge(int earlier, int waiter, const std::string& key) {
  keys_.insert(key);
  if (deleted_.count(key) != 0) return;
  const int number = key_numbers_.emplace(key, static_cast<int>(key_numbers_.size())).first->second;
  items_[waiter].after.push_back({earlier, number});
}

void Recording::AddEdgeToLabel(const std::string& label, int waiter, const std::string& key) {
  keys_.insert(key);
  if (deleted_.count(key) == 0) label_edges_.push_back({label, waiter});
}

int Recording::AppendTransfer(int after, const std::string& name, std::vector<MemoryAccess> accesses) {
  const int item = Append(--transfers_, name, std::move(accesses));
  AddNaturalEdge(after, item);
  return item;
}

std::vector<std::vector<int>> Recording::Earlier(const std::set<std::string>& without,
                                                 std::vector<std::string>* problems) const {
  std::set<int> left_out;
  for (const std::string& key : without) {
    const auto found = key_numbers_.find(key);
    if (found != key_numbers_.end()) left_out.insert(found->second);
  }
  std::vector<std::vector<int>> earlier(items_.size());
  for (size_t i = 0; i < items_.size(); ++i) {
    for (const Edge& edge : items_[i].after) {
      if (left_out.count(edge.key) == 0) earlier[i].push_back(edge.earlier);
    }
  }
  for (const LabelEdge& edge : label_edges_) {
    const auto found = labels_.find(edge.label);
    if (found == labels_.end()) {
      problems->push_back(absl::StrCat(items_[edge.waiter].name, " waits forever for ", edge.label));
    } else {
      earlier[edge.waiter].push_back(found->second);
    }
  }
  return earlier;
}

std::vector<Recording::Bits> Recording::Reachability(const std::set<std::string>& without,
                                                     std::vector<std::string>* problems) const {
  const size_t n = items_.size();
  const std::vector<std::vector<int>> after = Earlier(without, problems);
  // Depth first: an item's ancestors are its direct ones and theirs.
  std::vector<Bits> ancestors(n);
  std::vector<int> state(n, 0);
  for (size_t root = 0; root < n; ++root) {
    std::vector<int> stack = {static_cast<int>(root)};
    while (!stack.empty()) {
      const int item = stack.back();
      if (state[item] == 2) {
        stack.pop_back();
        continue;
      }
      if (state[item] == 0) {
        state[item] = 1;
        for (const int earlier : after[item]) {
          if (state[earlier] == 1) problems->push_back(absl::StrCat("deadlock at ", items_[item].name));
          if (state[earlier] == 0) stack.push_back(earlier);
        }
        continue;
      }
      ancestors[item].assign((n + 63) / 64, 0);
      for (const int earlier : after[item]) {
        ancestors[item][static_cast<size_t>(earlier) / 64] |= uint64_t{1} << (static_cast<size_t>(earlier) % 64);
        for (size_t i = 0; i < ancestors[earlier].size(); ++i) ancestors[item][i] |= ancestors[earlier][i];
      }
      state[item] = 2;
      stack.pop_back();
    }
  }
  return ancestors;
}

const std::vector<std::pair<int, int>>& Recording::Conflicts() const {
  for (; compared_ < items_.size(); ++compared_) {
    const Item& item = items_[compared_];
    if (item.accesses.empty()) continue;
    for (size_t i = 0; i < compared_; ++i) {
      if (items_[i].stream != item.stream && Conflict(items_[i].accesses, item.accesses)) {
        conflicts_.emplace_back(static_cast<int>(i), static_cast<int>(compared_));
      }
    }
  }
  return conflicts_;
}

std::vector<std::string> Recording::Problems(const std::set<std::string>& without) const {
  std::vector<std::string> problems;
  const std::vector<Bits> ancestors = Reachability(without, &problems);
  for (const auto& [first, second] : Conflicts()) {
    if (problems.size() >= kProblemsToReport) break;
    if (Has(ancestors[second], first) || Has(ancestors[first], second)) continue;
    problems.push_back(absl::StrCat(items_[first].name, " races with ", items_[second].name));
  }
  return problems;
}

int Recording::access_count() const {
  return static_cast<int>(
      std::count_if(items_.begin(), items_.end(), [](const Item& item) { return !item.accesses.empty(); }));
}

}  // namespace shardstep
