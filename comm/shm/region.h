#ifndef SHARDSTEP_COMM_SHM_REGION_H_
#define SHARDSTEP_COMM_SHM_REGION_H_

#include <cstdint>
#include <memory>
#include <string>

#include "shardstep/comm/buffer.h"
#include "shardstep/comm/host_memory.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// Page-aligned memory that several ranks of one host see, as one of them maps it. Its address never changes, and it
/// lives as long as any rank holds a Region of it.
class Region {
 public:
  virtual ~Region() = default;
  virtual BufferView view() const = 0;
};

/// A region that this rank has created: zero-filled.
class OwnedRegion : public Region {
 public:
  /// Bytes by which `peers` ranks may open this region, once each, while this object lives. They travel over a
  /// Rendezvous. To be called once.
  virtual std::string Export(int peers) = 0;
};

/// Where shared memory comes from: the heap when ranks are threads, memfd when they are processes.
class RegionProvider {
 public:
  virtual ~RegionProvider() = default;
  /// size_bytes >= 1. ResourceExhausted, naming `what` and the bytes, when there is not enough memory: nobody is
  /// killed (but memory backed on first use may be taken by others until then).
  virtual absl::StatusOr<std::unique_ptr<OwnedRegion>> Create(int64_t size_bytes, PageBacking backing,
                                                              absl::string_view what) = 0;
  /// Opens what a peer exported. FailedPrecondition when its size differs from `size_bytes`; the operating system's
  /// refusal otherwise, naming `what` and the path. `backing` as in Create: this rank's page tables.
  virtual absl::StatusOr<std::unique_ptr<Region>> Open(absl::string_view handle, int64_t size_bytes, PageAccess access,
                                                       PageBacking backing, absl::string_view what) = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_REGION_H_
