#ifndef SHARDSTEP_COMM_STAGED_STAGED_COMMUNICATOR_IMPL_H_
#define SHARDSTEP_COMM_STAGED_STAGED_COMMUNICATOR_IMPL_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "shardstep/comm/staged/staged_arenas.h"
#include "shardstep/comm/staged/staged_communicator.h"
#include "shardstep/comm/staged/staged_failure.h"
#include "shardstep/comm/staged/staged_lane.h"
#include "shardstep/comm/staged/staged_layout.h"

namespace shardstep {

/// What CreateStagedCommunicator makes.
class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(const CudaDeviceRef& device, Memory& memory, Rendezvous& rendezvous,
                     std::unique_ptr<Communicator> inner, const StagedOptions& options)
      : device_(device), memory_(memory), rendezvous_(rendezvous), inner_(std::move(inner)), options_(options) {
    layout_.rank = inner_->rank();
    layout_.world_size = inner_->world_size();
  }
  ~StagedCommunicator() override;
  StagedCommunicator(const StagedCommunicator&) = delete;
  StagedCommunicator& operator=(const StagedCommunicator&) = delete;

  /// What Create does once the members exist, on this rank alone.
  absl::Status MakeLanes();

  int rank() const override { return layout_.rank; }
  int world_size() const override { return layout_.world_size; }
  CommunicatorTraits traits() const override {
    const CommunicatorTraits inner = inner_->traits();
    return {.slices_persist = false,
            .landing_buckets = options_.landing_buckets,
            .separate_exchange_stream = true,
            .joins_hosts = inner.joins_hosts,
            .memory_at_once = true,
            .inexact_mode = inner.inexact_mode};
  }

  absl::Status Allocate(const ArenaRequest& request) override;
  int64_t LandingBytes(const ArenaRequest& request) const override;
  BufferView gradients() override { return arenas_.gradients.view(); }
  BufferView weights() override { return arenas_.weights; }

  absl::Status Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions, Stream& stream) override;
  absl::Status AwaitSlices(int bucket, int64_t micro_step, Stream& stream) override;
  absl::Span<const Slice> slices(int bucket, int64_t micro_step) override;
  absl::Status Release(int bucket, int64_t micro_step, Stream& stream) override;
  absl::Status AwaitReleased(int bucket, int64_t micro_step, Stream& stream) override;

  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override;

  absl::Span<void* const> Destinations(int bucket) override {
    return absl::MakeConstSpan(destinations_).subspan(static_cast<size_t>(bucket), 1);
  }
  absl::Status Publish(int bucket, int64_t step, Stream& stream) override;
  absl::Status AwaitPublished(int bucket, int64_t step, Stream& stream) override;

  void Abort(const absl::Status& reason) override { inner_->Abort(reason); }
  absl::Status AsyncStatus() const override {
    const absl::Status failure = failure_->status();
    return failure.ok() ? inner_->AsyncStatus() : failure;
  }
  void SetAway(absl::Duration duration) override { inner_->SetAway(duration); }

 private:
  /// Where one bucket is, as far as calls have gone; numbers are the last ones, -1: none yet.
  struct BucketState {
    int64_t exchanged = -1;
    int64_t released = -1;
    int64_t published = -1;
    Event left;            ///< gradients have, of `exchanged`
    Event landed;          ///< slices have, of `exchanged`
    Event released_event;  ///< alone: of `released`
    Event published_event;
    std::map<int64_t, std::vector<Slice>> slices;  ///< by micro-step
  };
  /// The last exchange that used some memory.
  struct ExchangeState {
    int bucket = -1;  ///< -1: none yet
    int64_t micro_step = 0;
    bool released = false;
    Event landed;
  };
  struct Call {
    absl::string_view name;
    absl::string_view unit;
    int bucket = 0;
    int64_t number = 0;
    std::string Text() const { return absl::StrCat(name, " of bucket ", bucket, ", ", unit, " ", number); }
  };
  using InnerCall = absl::FunctionRef<absl::Status(Stream&)>;

  bool alone() const { return layout_.world_size == 1; }
  absl::Status CheckRequest(const ArenaRequest& request) const;
  absl::Status MakeArenas(const ArenaRequest& request, const ArenaSizes& sizes);

  /// The stream of a call, or what is wrong with it.
  absl::StatusOr<CudaStream*> Check(const Call& call, Stream& stream) const;
  absl::StatusOr<CudaStream*> CheckStream(absl::string_view name, Stream& stream) const;
  absl::Status CheckContributions(absl::Span<const Slice> contributions) const;
  BucketState& state(int bucket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return states_[static_cast<size_t>(bucket)]; }

  /// Alone: the point that `caller` has come to, as an event that outlives it.
  absl::StatusOr<Event> Relay(CudaStream& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// An error ends the communicator.
  absl::StatusOr<Event> Enqueue(StagedLane& lane, absl::Span<const Event> after, StagedLane::Work work)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status EnqueueExchange(const Call& call, absl::Span<const Slice> mine, const std::vector<Slice>& slices,
                               CudaStream& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// One call of inner, done when this returns.
  static absl::Status Do(InnerCall call);
  absl::Status Arrive(StagedLane& lane, const Call& call, absl::Span<const Slice> contributions,
                      absl::Span<const Slice> slices);
  absl::Status Reduce(StagedLane& lane, SmallReduction* reduction);

  const CudaDeviceRef device_;
  Memory& memory_;
  Rendezvous& rendezvous_;
  const std::unique_ptr<Communicator> inner_;
  const StagedOptions options_;
  const std::shared_ptr<StagedFailure> failure_ = std::make_shared<StagedFailure>();

  bool allocate_called_ = false;
  std::atomic<bool> allocated_ = false;
  StagedLayout layout_;
  StagedArenas arenas_;
  Buffer words_;                     ///< of a SmallReduction on the host
  std::vector<void*> destinations_;  ///< by bucket

  Mutex mutex_;  ///< held by a call while it enqueues
  int64_t exchanges_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<BucketState> states_ ABSL_GUARDED_BY(mutex_);      ///< by bucket
  std::vector<ExchangeState> landings_ ABSL_GUARDED_BY(mutex_);  ///< by landing slot
  std::vector<ExchangeState> stagings_ ABSL_GUARDED_BY(mutex_);  ///< by staging slot

  std::unique_ptr<CudaStream> relay_;    ///< alone
  std::unique_ptr<StagedLane> leaving_;  ///< lanes: none when alone
  std::unique_ptr<StagedLane> arriving_;
  std::unique_ptr<StagedLane> publishing_;
  std::unique_ptr<StagedLane> published_;
  std::unique_ptr<StagedLane> reducing_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_STAGED_STAGED_COMMUNICATOR_IMPL_H_
