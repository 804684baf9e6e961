#ifndef SHARDSTEP_TESTS_COMM_STAGED_TRAINER_H_
#define SHARDSTEP_TESTS_COMM_STAGED_TRAINER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "shardstep/tests/comm/contract_trainer.h"
#include "shardstep/tests/comm/staged_machine.h"

namespace shardstep {

/// A rank that trains what ContractTrainer trains, in the order of the plan, on the fake GPU, and never waits: all that
/// it does is put on streams. Kernels say what they touch. `pause` is run by each of them.
class StagedTrainer {
 public:
  StagedTrainer(StagedMachine& machine, Communicator& communicator, ContractLoad load, std::function<void()> pause = {})
      : cuda_(machine.cuda),
        communicator_(communicator),
        load_(std::move(load)),
        pause_(std::move(pause)),
        device_{&cuda_, machine.device(communicator.rank())},
        memory_(machine.memory(communicator.rank())) {
    for (std::unique_ptr<CudaStream>* const stream : {&caller_, &exchange_, &update_}) {
      *stream = CudaStream::Create(device_, "trainer").value();
    }
    reduction_ = memory_.Allocate(sizeof(SmallReduction), "reduction", PageBacking::kOnCreation).value();
    for (const BucketExtent& bucket : load_.buckets) {
      sums_.push_back(memory_.Allocate(bucket.shard_elements * 4, "sums", PageBacking::kOnCreation).value());
    }
    updated_.resize(load_.buckets.size());
  }

  /// One step, and the forward after it, which reads all weights.
  absl::Status Step(int64_t step) {
    for (int64_t k = 0; k < load_.micro_steps; ++k) {
      for (int b = 0; b < load_.bucket_count(); ++b) {
        SHARDSTEP_RETURN_IF_ERROR(MicroStep(b, step * load_.micro_steps + k));
      }
    }
    SHARDSTEP_RETURN_IF_ERROR(Decide());
    for (int b = load_.bucket_count() - 1; b >= 0; --b) {
      SHARDSTEP_RETURN_IF_ERROR(Update(b));
      exchange_->Wait(updated_[static_cast<size_t>(b)]);
      NameWaits("Publish", step);
      SHARDSTEP_RETURN_IF_ERROR(communicator_.Publish(b, step, *exchange_));
      cuda_.BeginPhase("trainer");
    }
    for (int b = 0; b < load_.bucket_count(); ++b) {
      NameWaits("AwaitPublished", step);
      SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitPublished(b, step, *caller_));
    }
    return Forward(step);
  }

  /// Waits for all of it.
  absl::Status Finish() {
    for (const auto* const stream : {&caller_, &exchange_, &update_}) {
      SHARDSTEP_RETURN_IF_ERROR((*stream)->Synchronize((*stream)->Record()));
    }
    return wrong_ == 0 ? absl::OkStatus() : absl::InternalError(absl::StrCat(wrong_.load(), " wrong values"));
  }

 private:
  absl::Status Launch(CudaStream& stream, const char* name, std::vector<MemoryAccess> accesses,
                      std::function<void()> run) {
    return stream.Enqueue(name, [&](CudaStreamHandle handle) {
      return cuda_.Enqueue(handle, name, std::move(accesses), [pause = pause_, run = std::move(run)] {
        if (pause) pause();
        run();
      });
    });
  }

  /// Waits of communicators have the same names in all steps but the first, which has fewer.
  void NameWaits(const char* operation, int64_t number) {
    cuda_.BeginPhase(absl::StrCat(number == 0 ? "first " : "", operation));
  }

  absl::Status MicroStep(int b, int64_t micro_step) {
    NameWaits("AwaitReleased", micro_step);
    if (micro_step > 0) SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitReleased(b, micro_step - 1, *caller_));
    SHARDSTEP_RETURN_IF_ERROR(Backward(b, micro_step));
    cuda_.BeginPhase("trainer");
    exchange_->Wait(caller_->Record());
    const auto slots = static_cast<size_t>(communicator_.traits().landing_buckets);
    if (releases_.size() >= slots) exchange_->Wait(releases_[releases_.size() - slots]);
    NameWaits("Exchange", micro_step);
    SHARDSTEP_RETURN_IF_ERROR(communicator_.Exchange(b, micro_step, {}, *exchange_));
    NameWaits("AwaitSlices", micro_step);
    SHARDSTEP_RETURN_IF_ERROR(communicator_.AwaitSlices(b, micro_step, *update_));
    SHARDSTEP_RETURN_IF_ERROR(Reduce(b, micro_step));
    SHARDSTEP_RETURN_IF_ERROR(communicator_.Release(b, micro_step, *update_));
    releases_.push_back(update_->Record());
    return absl::OkStatus();
  }

  absl::Status Backward(int b, int64_t micro_step) {
    const BucketExtent& bucket = load_.bucket(b);
    std::byte* const data = communicator_.gradients().data + bucket.gradient_begin_byte;
    const int64_t elements = bucket.shard_elements * communicator_.world_size();
    return Launch(*caller_, "Backward", {{data, elements * SizeBytes(bucket.gradient_dtype), true}},
                  [=, rank = communicator_.rank()] {
                    for (int64_t i = 0; i < elements; ++i) {
                      StoreBits(data, bucket.gradient_dtype, i, ContractLoad::Gradient(rank, 0, micro_step, b, i));
                    }
                  });
  }

  absl::Status Reduce(int b, int64_t micro_step) {
    const int64_t elements = load_.bucket(b).shard_elements;
    auto* const sums = sums_[static_cast<size_t>(b)].as<uint32_t>();
    const absl::Span<const Slice> span = communicator_.slices(b, micro_step);
    const std::vector<Slice> slices(span.begin(), span.end());
    std::vector<MemoryAccess> accesses = {{sums, elements * 4, true}};
    for (const Slice& slice : slices) accesses.push_back({slice.data, elements * SizeBytes(slice.dtype), false});
    return Launch(*update_, "Reduce", accesses, [=] {
      for (const Slice& slice : slices) {
        for (int64_t i = 0; i < elements; ++i) sums[i] = sums[i] * 3 + LoadBits(slice.data, slice.dtype, i);
      }
    });
  }

  absl::Status Decide() {
    auto* const words = reduction_.as<SmallReduction>();
    const int64_t bytes = sizeof(SmallReduction);
    cuda_.BeginPhase("trainer");
    update_->Wait(caller_->Record());
    SHARDSTEP_RETURN_IF_ERROR(Launch(*update_, "Contribute", {{words, bytes, true}}, [words] {
      *words = SmallReduction();
      words->sums[SmallReduction::kArrivals] = 1;
    }));
    cuda_.BeginPhase("AllReduceSmall");
    SHARDSTEP_RETURN_IF_ERROR(communicator_.AllReduceSmall(words, *update_));
    cuda_.BeginPhase("trainer");
    return Launch(*update_, "Decide", {{words, bytes, false}}, [this, words] {
      if (words->sums[SmallReduction::kArrivals] != communicator_.world_size()) ++wrong_;
    });
  }

  absl::Status Update(int b) {
    const BucketExtent& bucket = load_.bucket(b);
    const auto* const sums = sums_[static_cast<size_t>(b)].as<uint32_t>();
    void* const to = communicator_.Destinations(b)[0];
    const int64_t elements = bucket.shard_elements;
    SHARDSTEP_RETURN_IF_ERROR(Launch(
        *update_, "Update", {{sums, elements * 4, false}, {to, elements * SizeBytes(bucket.weight_dtype), true}}, [=] {
          for (int64_t i = 0; i < elements; ++i) StoreBits(to, bucket.weight_dtype, i, sums[i]);
        }));
    updated_[static_cast<size_t>(b)] = update_->Record();
    return absl::OkStatus();
  }

  absl::Status Forward(int64_t step) {
    const auto expected = SerialWeights(load_, communicator_.world_size(), load_.micro_steps * (step + 1), 0);
    const BufferView weights = communicator_.weights();
    return Launch(*caller_, "Forward", {{weights.data, weights.size_bytes, false}}, [=, this] {
      for (size_t i = 0; i < expected.size(); ++i) wrong_ += weights.as<uint8_t>()[i] != expected[i];
    });
  }

  FakeCuda& cuda_;
  Communicator& communicator_;
  const ContractLoad load_;
  const std::function<void()> pause_;
  const CudaDeviceRef device_;
  Memory& memory_;
  std::atomic<int64_t> wrong_ = 0;
  Buffer reduction_;
  std::vector<Buffer> sums_;     ///< by bucket
  std::vector<Event> updated_;   ///< by bucket
  std::vector<Event> releases_;  ///< by exchange
  std::unique_ptr<CudaStream> caller_;
  std::unique_ptr<CudaStream> exchange_;
  std::unique_ptr<CudaStream> update_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_STAGED_TRAINER_H_
