#include "shardstep/tools/train/corpus.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "shardstep/tools/train/model_config.h"

namespace shardstep {
namespace {

constexpr int64_t kHeldOutPart = 10;
// Keeps windows apart from initial weights, which are drawn from the same seed.
constexpr uint64_t kWindowStream = 0x77696e646f77;

absl::Status FileError(const std::string& path) { return absl::ErrnoToStatus(errno, absl::StrCat("data file ", path)); }

absl::StatusOr<int64_t> RegularFileBytes(int file, const std::string& path) {
  struct stat info {};
  if (fstat(file, &info) != 0) return FileError(path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("data file ", path, ": not a regular file"));
  }
  return info.st_size;
}

}  // namespace

absl::StatusOr<Corpus> Corpus::Open(const std::string& path, int64_t context) {
  // A pipe must not block the open.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return FileError(path);
  const absl::Cleanup close_file = [file] { close(file); };
  SHARDSTEP_ASSIGN_OR_RETURN(const int64_t bytes, RegularFileBytes(file, path));
  const int64_t needed = kHeldOutPart * (context + 1);
  if (bytes < needed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data file ", path, ": ", bytes == 0 ? "empty" : absl::StrCat("only ", bytes, " bytes"), "; a context of ",
        context, " needs at least ", needed, " bytes, so that the held-out tenth has one window"));
  }
  void* mapping = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
  if (mapping == MAP_FAILED) return FileError(path);
  return Corpus(absl::MakeConstSpan(static_cast<const uint8_t*>(mapping), bytes), context);
}

Corpus::Corpus(absl::Span<const uint8_t> bytes, int64_t context)
    : bytes_(bytes), held_out_bytes_(static_cast<int64_t>(bytes.size()) / kHeldOutPart), window_bytes_(context + 1) {}

Corpus::Corpus(Corpus&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})),
      held_out_bytes_(std::exchange(other.held_out_bytes_, 0)),
      window_bytes_(other.window_bytes_) {}

Corpus& Corpus::operator=(Corpus&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(held_out_bytes_, other.held_out_bytes_);
  std::swap(window_bytes_, other.window_bytes_);
  return *this;
}

Corpus::~Corpus() {
  if (!bytes_.empty()) munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

absl::Span<const uint8_t> Corpus::TrainingWindow(const WindowNumber& number) const {
  const uint64_t of_step = CounterRandom(number.seed, kWindowStream, number.step);
  const uint64_t bits = CounterRandom(of_step, number.micro_batch, number.sequence);
  const uint64_t places = training().size() - window_bytes_ + 1;
  return training().subspan(bits % places, window_bytes_);
}

absl::Span<const uint8_t> Corpus::HeldOutWindow(int64_t window, int64_t windows) const {
  const int64_t places = held_out_bytes_ - window_bytes_ + 1;
  // windows * places stays far below 2^63 for any file this program can train on in a lifetime.
  return held_out().subspan(window * places / windows, window_bytes_);
}

}  // namespace shardstep
