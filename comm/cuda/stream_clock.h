#ifndef SHARDSTEP_COMM_CUDA_STREAM_CLOCK_H_
#define SHARDSTEP_COMM_CUDA_STREAM_CLOCK_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace shardstep {

/// How far a point of a stream is behind each stream: a vector clock (Fidge 1988, Mattern 1989). By it a wait is left
/// out for what the stream already comes after, directly or through others.
class StreamClock {
 public:
  /// What tells streams apart, also those that are gone.
  using Identity = std::shared_ptr<const char>;

  bool IsBehind(const Identity& stream, int64_t position) const {
    const auto found = Find(stream);
    return found != positions_.end() && found->second >= position;
  }
  void Advance(const Identity& stream, int64_t position) {
    const auto found = Find(stream);
    if (found == positions_.end()) {
      positions_.push_back({stream, position});
    } else {
      positions_[static_cast<size_t>(found - positions_.begin())].second = std::max(found->second, position);
    }
  }
  void Merge(const StreamClock& other) {
    for (const auto& [stream, position] : other.positions_) Advance(stream, position);
  }

 private:
  using Positions = std::vector<std::pair<Identity, int64_t>>;
  Positions::const_iterator Find(const Identity& stream) const {
    return std::find_if(positions_.begin(), positions_.end(), [&](const auto& entry) { return entry.first == stream; });
  }

  Positions positions_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_CUDA_STREAM_CLOCK_H_
