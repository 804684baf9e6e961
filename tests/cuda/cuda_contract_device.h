#ifndef SHARDSTEP_TESTS_CUDA_CUDA_CONTRACT_DEVICE_H_
#define SHARDSTEP_TESTS_CUDA_CUDA_CONTRACT_DEVICE_H_

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/tests/comm/contract_device.h"
#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {

/// A device of a FakeCuda, for the contract suites. Host functions run on the streams' threads.
class CudaContractDevice : public ContractDevice {
 public:
  CudaContractDevice(FakeCuda& cuda, int device, Memory& memory) : cuda_(cuda), device_(device), memory_(memory) {}

  std::unique_ptr<Stream> MakeStream() override {
    auto stream = CudaStream::Create({&cuda_, device_}, "test");
    EXPECT_TRUE(stream.ok()) << stream.status();
    return stream.ok() ? *std::move(stream) : nullptr;
  }
  std::unique_ptr<Stream> MakeCallerStream() override { return MakeStream(); }
  void Enqueue(Stream& stream, absl::string_view name, HostStream::Work work) override {
    auto& cuda_stream = static_cast<CudaStream&>(stream);
    const absl::Status enqueued = cuda_stream.Enqueue(name, [&](CudaStreamHandle handle) {
      return cuda_.Enqueue(handle, std::string(name), {},
                           [&cuda_stream, work = std::move(work)] { cuda_stream.Fail(work()); });
    });
    EXPECT_TRUE(enqueued.ok()) << enqueued;
  }
  Memory& memory() override { return memory_; }

 private:
  FakeCuda& cuda_;
  const int device_;
  Memory& memory_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_CUDA_CONTRACT_DEVICE_H_
