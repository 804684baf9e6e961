#include "shardstep/comm/mpi/linked_host.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "shardstep/comm/shm/futex.h"

namespace shardstep {
namespace {

class LinkedHost final : public Communicator {
 public:
  explicit LinkedHost(std::shared_ptr<HostLink> link) : link_(std::move(link)), host_(link_->host()) {}

  int rank() const override { return host_.rank(); }
  int world_size() const override { return host_.world_size(); }
  CommunicatorTraits traits() const override { return host_.traits(); }
  absl::Status Allocate(const ArenaRequest& request) override { return host_.Allocate(request); }
  BufferView gradients() override { return host_.gradients(); }
  BufferView weights() override { return host_.weights(); }
  absl::Status Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                        Stream& stream) override {
    return host_.Exchange(bucket, micro_step, contributions, stream);
  }
  absl::Status AwaitSlices(int bucket, int64_t micro_step, Stream& stream) override {
    return host_.AwaitSlices(bucket, micro_step, stream);
  }
  absl::Span<const Slice> slices(int bucket, int64_t micro_step) override { return host_.slices(bucket, micro_step); }
  absl::Status Release(int bucket, int64_t micro_step, Stream& stream) override {
    return host_.Release(bucket, micro_step, stream);
  }
  absl::Status AwaitReleased(int bucket, int64_t micro_step, Stream& stream) override {
    return host_.AwaitReleased(bucket, micro_step, stream);
  }
  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override {
    return host_.AllReduceSmall(reduction, stream);
  }
  absl::Span<void* const> Destinations(int bucket) override { return host_.Destinations(bucket); }
  absl::Status Publish(int bucket, int64_t step, Stream& stream) override {
    return host_.Publish(bucket, step, stream);
  }
  absl::Status AwaitPublished(int bucket, int64_t step, Stream& stream) override {
    return host_.AwaitPublished(bucket, step, stream);
  }
  void Abort(const absl::Status& reason) override { host_.Abort(reason); }
  absl::Status AsyncStatus() const override { return host_.AsyncStatus(); }
  void SetAway(absl::Duration duration) override { link_->SetOwnAway(duration); }

 private:
  const std::shared_ptr<HostLink> link_;
  Communicator& host_;
};

}  // namespace

void HostLink::SetAway(absl::Duration duration, int64_t* until_ns) {
  const MutexLock lock(&mutex_);
  const int64_t now_ns = MonotonicNs();
  const int64_t longest_ns = std::numeric_limits<int64_t>::max() - now_ns;
  *until_ns = now_ns + std::min(absl::ToInt64Nanoseconds(duration), longest_ns);
  host_->SetAway(absl::Nanoseconds(std::max(int64_t{0}, std::max(own_until_ns_, others_until_ns_) - now_ns)));
}

std::unique_ptr<Communicator> MakeLinkedHost(std::shared_ptr<HostLink> link) {
  return std::make_unique<LinkedHost>(std::move(link));
}

}  // namespace shardstep
