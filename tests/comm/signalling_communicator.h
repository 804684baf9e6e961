#ifndef SHARDSTEP_TESTS_COMM_SIGNALLING_COMMUNICATOR_H_
#define SHARDSTEP_TESTS_COMM_SIGNALLING_COMMUNICATOR_H_

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/comm/communicator.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {

/// Pinned words of a FakeCuda by which host threads of all ranks order each other, so that its recorder sees it.
class RecordedSignals {
 public:
  explicit RecordedSignals(FakeCuda& cuda) : cuda_(cuda) {}
  ~RecordedSignals() {
    for (const auto& [name, word] : words_) cuda_.FreeHost(word);
  }
  RecordedSignals(const RecordedSignals&) = delete;
  RecordedSignals& operator=(const RecordedSignals&) = delete;

  void Signal(const std::string& name) { cuda_.Signal(Word(name), 1); }
  /// What this thread does from here on comes after the Signal.
  void Await(const std::string& name) {
    CudaStreamHandle stream = nullptr;
    cuda_.StreamCreate(&stream);
    cuda_.StreamWaitValue(stream, Word(name), 1);
    cuda_.StreamSynchronize(stream);
    cuda_.StreamDestroy(stream);
  }

 private:
  uint32_t* Word(const std::string& name) {
    const MutexLock lock(&mutex_);
    uint32_t*& word = words_[name];
    if (word == nullptr) {
      void* pointer = nullptr;
      cuda_.HostAlloc(&pointer, sizeof(uint32_t));
      word = static_cast<uint32_t*>(pointer);
      *word = 0;
    }
    return word;
  }

  FakeCuda& cuda_;
  Mutex mutex_;
  std::map<std::string, uint32_t*> words_ ABSL_GUARDED_BY(mutex_);
};

/// A communicator of the host, for inline streams, that tells a recorder no more than what the contract promises: who
/// awaits comes after all ranks whose part it awaits.
class SignallingCommunicator : public Communicator {
 public:
  SignallingCommunicator(std::unique_ptr<Communicator> inner, RecordedSignals& signals)
      : inner_(std::move(inner)), signals_(signals) {}

  int rank() const override { return inner_->rank(); }
  int world_size() const override { return inner_->world_size(); }
  CommunicatorTraits traits() const override { return inner_->traits(); }
  absl::Status Allocate(const ArenaRequest& request) override { return inner_->Allocate(request); }
  BufferView gradients() override { return inner_->gradients(); }
  BufferView weights() override { return inner_->weights(); }
  absl::Status Exchange(int b, int64_t k, absl::Span<const Slice> contributions, Stream& stream) override {
    Signal("exchanged", b, k);
    return inner_->Exchange(b, k, contributions, stream);
  }
  absl::Status AwaitSlices(int b, int64_t k, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(inner_->AwaitSlices(b, k, stream));
    return AwaitAll("exchanged", b, k, stream);
  }
  absl::Span<const Slice> slices(int b, int64_t k) override { return inner_->slices(b, k); }
  absl::Status Release(int b, int64_t k, Stream& stream) override {
    Signal("released", b, k);
    return inner_->Release(b, k, stream);
  }
  absl::Status AwaitReleased(int b, int64_t k, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(inner_->AwaitReleased(b, k, stream));
    return AwaitAll("released", b, k, stream);
  }
  absl::Status AllReduceSmall(SmallReduction* reduction, Stream& stream) override {
    const int64_t number = reductions_++;
    Signal("reduced", 0, number);
    SHARDSTEP_RETURN_IF_ERROR(inner_->AllReduceSmall(reduction, stream));
    return AwaitAll("reduced", 0, number, stream);
  }
  absl::Span<void* const> Destinations(int b) override { return inner_->Destinations(b); }
  absl::Status Publish(int b, int64_t step, Stream& stream) override {
    Signal("published", b, step);
    return inner_->Publish(b, step, stream);
  }
  absl::Status AwaitPublished(int b, int64_t step, Stream& stream) override {
    SHARDSTEP_RETURN_IF_ERROR(inner_->AwaitPublished(b, step, stream));
    return AwaitAll("published", b, step, stream);
  }
  void Abort(const absl::Status& reason) override { inner_->Abort(reason); }
  absl::Status AsyncStatus() const override { return inner_->AsyncStatus(); }
  void SetAway(absl::Duration duration) override { inner_->SetAway(duration); }

 private:
  static std::string Name(const char* what, int b, int64_t number, int rank) {
    return absl::StrCat(what, " ", b, " ", number, " by ", rank);
  }
  void Signal(const char* what, int b, int64_t number) { signals_.Signal(Name(what, b, number, rank())); }
  absl::Status AwaitAll(const char* what, int b, int64_t number, Stream& stream) {
    SHARDSTEP_RETURN_IF_ERROR(stream.status());
    for (int rank = 0; rank < world_size(); ++rank) signals_.Await(Name(what, b, number, rank));
    return absl::OkStatus();
  }

  const std::unique_ptr<Communicator> inner_;
  RecordedSignals& signals_;
  int64_t reductions_ = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_SIGNALLING_COMMUNICATOR_H_
