#include "shardstep/comm/inproc/heap_region.h"

#include <atomic>
#include <cinttypes>
#include <utility>

#include "absl/strings/numbers.h"

namespace shardstep {
namespace {

// What a handle points to. Counted, so that no peer depends on how long the creating rank lives: the last to open it
// deletes it.
struct Ticket {
  std::shared_ptr<Buffer> buffer;
  std::atomic<int> left;
};

class HeapRegion : public OwnedRegion {
 public:
  explicit HeapRegion(std::shared_ptr<Buffer> buffer) : buffer_(std::move(buffer)) {}

  BufferView view() const override { return buffer_->view(); }
  std::string Export(int peers) override {
    if (peers == 0) return "";
    auto* ticket = new Ticket{buffer_, peers};
    return absl::StrCat(reinterpret_cast<uintptr_t>(ticket));
  }

 private:
  const std::shared_ptr<Buffer> buffer_;
};

class HeapRegionProvider : public RegionProvider {
 public:
  absl::StatusOr<std::unique_ptr<OwnedRegion>> Create(int64_t size_bytes, PageBacking backing,
                                                      absl::string_view what) override {
    SHARDSTEP_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(size_bytes, what, backing));
    return std::make_unique<HeapRegion>(std::make_shared<Buffer>(std::move(buffer)));
  }

  absl::StatusOr<std::unique_ptr<Region>> Open(absl::string_view handle, int64_t size_bytes, PageAccess /*access*/,
                                               PageBacking /*backing*/, absl::string_view what) override {
    uint64_t address = 0;
    if (!absl::SimpleAtoi(handle, &address) || address == 0) {
      return absl::InternalError(absl::StrCat(what, ": not a handle: ", handle));
    }
    auto* ticket = reinterpret_cast<Ticket*>(static_cast<uintptr_t>(address));
    std::shared_ptr<Buffer> buffer = ticket->buffer;
    if (ticket->left.fetch_sub(1) == 1) delete ticket;
    if (buffer->size_bytes() != size_bytes) {
      return absl::FailedPreconditionError(
          absl::StrCat(what, ": has ", buffer->size_bytes(), " bytes instead of ", size_bytes));
    }
    return std::make_unique<HeapRegion>(std::move(buffer));
  }
};

}  // namespace

std::unique_ptr<RegionProvider> MakeHeapRegionProvider() { return std::make_unique<HeapRegionProvider>(); }

}  // namespace shardstep
