#ifndef SHARDSTEP_TESTS_COMM_DELAYING_COMMUNICATOR_H_
#define SHARDSTEP_TESTS_COMM_DELAYING_COMMUNICATOR_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "shardstep/comm/communicator.h"

namespace shardstep {

struct DelayOptions {
  uint64_t seed = 0;
  int64_t max_delay_us = 200;  ///< each delay is uniform in [0, max_delay_us]
  int rank = -1;               ///< the only rank that is delayed; -1: every rank, differently
};

/// Any communicator, late: before every stream-ordered operation it sleeps twice, at the call and again in stream order
/// on the stream. The lengths are a function of (seed, rank, operation, bucket, number), whatever the threads do.
class DelayingCommunicator : public Communicator {
 public:
  DelayingCommunicator(std::unique_ptr<Communicator> inner, const DelayOptions& options)
      : inner_(std::move(inner)), options_(options) {}

  int rank() const override { return inner_->rank(); }
  int world_size() const override { return inner_->world_size(); }
  CommunicatorTraits traits() const override { return inner_->traits(); }
  absl::Status Allocate(const ArenaRequest& request) override { return inner_->Allocate(request); }
  BufferView gradients() override { return inner_->gradients(); }
  BufferView weights() override { return inner_->weights(); }

  absl::Status Exchange(int bucket, int64_t micro_step, absl::Span<const Slice> contributions,
                        Stream& stream) override {
    Delay(1, bucket, micro_step, stream);
    return inner_->Exchange(bucket, micro_step, contributions, stream);
  }
  absl::Status AwaitSlices(int bucket, int64_t micro_step, Stream& stream) override {
    Delay(2, bucket, micro_step, stream);
    return inner_->AwaitSlices(bucket, micro_step, stream);
  }
  absl::Span<const Slice> slices(int bucket, int64_t micro_step) override { return inner_->slices(bucket, micro_step); }
  absl::Status Release(int bucket, int64_t micro_step, Stream& stream) override {
    Delay(3, bucket, micro_step, stream);
    return inner_->Release(bucket, micro_step, stream);
  }
  absl::Status AwaitReleased(int bucket, int64_t micro_step, Stream& stream) override {
    Delay(4, bucket, micro_step, stream);
    return inner_->AwaitReleased(bucket, micro_step, stream);
  }
  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override {
    Delay(5, 0, reductions_.fetch_add(1), stream);
    return inner_->AllReduceSmall(reduction, stream);
  }
  absl::Span<void* const> Destinations(int bucket) override { return inner_->Destinations(bucket); }
  absl::Status Publish(int bucket, int64_t step, Stream& stream) override {
    Delay(6, bucket, step, stream);
    return inner_->Publish(bucket, step, stream);
  }
  absl::Status AwaitPublished(int bucket, int64_t step, Stream& stream) override {
    Delay(7, bucket, step, stream);
    return inner_->AwaitPublished(bucket, step, stream);
  }
  void Abort(const absl::Status& reason) override { inner_->Abort(reason); }
  absl::Status AsyncStatus() const override { return inner_->AsyncStatus(); }
  void SetAway(absl::Duration duration) override { inner_->SetAway(duration); }

 private:
  static uint64_t Mix(uint64_t x) {  // splitmix64
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  static void Sleep(uint64_t delay_us) {
    if (delay_us == 0) return;
    std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
  }

  void Delay(uint64_t operation, int bucket, int64_t number, Stream& stream) const {
    if (options_.max_delay_us <= 0 || (options_.rank >= 0 && options_.rank != rank())) return;
    const auto choices = static_cast<uint64_t>(options_.max_delay_us) + 1;
    uint64_t hash = Mix(options_.seed);
    for (const uint64_t part :
         {static_cast<uint64_t>(rank()), operation, static_cast<uint64_t>(bucket), static_cast<uint64_t>(number)}) {
      hash = Mix(hash ^ part);
    }
    Sleep(hash % choices);
    if (auto* host_stream = dynamic_cast<HostStream*>(&stream)) {
      host_stream->Enqueue("injected delay", [delay_us = Mix(hash) % choices] {
        Sleep(delay_us);
        return absl::OkStatus();
      });
    }
  }

  const std::unique_ptr<Communicator> inner_;
  const DelayOptions options_;
  std::atomic<int64_t> reductions_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_DELAYING_COMMUNICATOR_H_
