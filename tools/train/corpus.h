#ifndef SHARDSTEP_TOOLS_TRAIN_CORPUS_H_
#define SHARDSTEP_TOOLS_TRAIN_CORPUS_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// Which window of the training text: the same for a given seed and numbers whatever the number of ranks.
struct WindowNumber {
  uint64_t seed = 0;
  int64_t step = 0;         ///< of the schedule, from 1
  int64_t micro_batch = 0;  ///< of the step, over all ranks
  int64_t sequence = 0;     ///< of the micro-batch
};

/// A file of bytes to learn from; the last tenth is held out. Mapped read-only, so ranks of a host share its pages; it
/// must not shrink meanwhile. Immutable: all threads may read.
class Corpus {
 public:
  /// NotFound, PermissionDenied and others name the file; InvalidArgument when it is no regular file, is empty, or its
  /// held-out tenth has less than one window of `context` + 1 bytes.
  static absl::StatusOr<Corpus> Open(const std::string& path, int64_t context);
  Corpus(Corpus&& other) noexcept;
  Corpus& operator=(Corpus&& other) noexcept;
  Corpus(const Corpus&) = delete;
  Corpus& operator=(const Corpus&) = delete;
  ~Corpus();

  /// The part to learn from, and the rest.
  absl::Span<const uint8_t> training() const { return bytes_.first(bytes_.size() - held_out_bytes_); }
  absl::Span<const uint8_t> held_out() const { return bytes_.last(held_out_bytes_); }

  /// `context` + 1 bytes of training(): byte i + 1 is what is to be predicted from bytes [0, i].
  absl::Span<const uint8_t> TrainingWindow(const WindowNumber& number) const;
  /// Window `window` of `windows` that are spread evenly over held_out(); `context` + 1 bytes.
  absl::Span<const uint8_t> HeldOutWindow(int64_t window, int64_t windows) const;

 private:
  Corpus(absl::Span<const uint8_t> bytes, int64_t context);

  absl::Span<const uint8_t> bytes_;  ///< the whole mapping
  int64_t held_out_bytes_ = 0;
  int64_t window_bytes_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_CORPUS_H_
