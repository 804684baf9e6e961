#include "tested_kernels.h"

#include <utility>

#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels_cuda.h"

namespace shardstep {
namespace {

class TestedCpu : public TestedKernels {
 public:
  TestedCpu(const std::string& target, int threads) : kernels_(KernelsOf(target, threads)) {}
  ShardKernels& kernels() override { return *kernels_; }
  Stream& stream() override { return stream_; }
  int max_destinations() const override { return 3; }

 private:
  std::unique_ptr<ShardKernels> kernels_;
  InlineStream stream_;
};

template <typename T>
T Taken(absl::StatusOr<T> made) {
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

}  // namespace

HostCuda::HostCuda(const HostCudaKernelsOptions& options) : launches_(cuda_, options) {
  const CudaDeviceRef device = {.api = &cuda_, .device = 0};
  memory_ = Taken(CreateCudaMemory(device));
  kernels_ = Taken(CreateCudaShardKernels(launches_, device, *memory_));
  stream_ = Taken(CudaStream::Create(device, "kernels"));
}

std::vector<std::string> TestedKernels::Names() {
  std::vector<std::string> names = RunnableTargets();
  names.emplace_back("CUDA");
  return names;
}

std::unique_ptr<TestedKernels> TestedKernels::Create(const std::string& name, int threads) {
  if (name == "CUDA") return std::make_unique<HostCuda>();
  return std::make_unique<TestedCpu>(name, threads);
}

absl::Status TestedKernels::Reduce(const ReduceArgs& args) {
  const absl::Span<const Segment> lists[] = {args.segments};
  SHARDSTEP_RETURN_IF_ERROR(kernels().SetSegments(lists));
  SHARDSTEP_RETURN_IF_ERROR(kernels().Reduce(args, stream()));
  return stream().Synchronize(stream().Record());
}

absl::Status TestedKernels::Update(const UpdateArgs& args) {
  const absl::Span<const Segment> lists[] = {args.segments};
  SHARDSTEP_RETURN_IF_ERROR(kernels().SetSegments(lists));
  SHARDSTEP_RETURN_IF_ERROR(kernels().Update(args, stream()));
  return stream().Synchronize(stream().Record());
}

absl::Status TestedKernels::Digest(const DigestArgs& args) {
  SHARDSTEP_RETURN_IF_ERROR(kernels().Digest(args, stream()));
  return stream().Synchronize(stream().Record());
}

::testing::AssertionResult TestedKernels::JudgedByReference(const KernelCase& start) {
  KernelCase expected = start;
  KernelCase actual = start;
  ReduceReference(expected.Reduce());
  const absl::Status reduced = Reduce(actual.Reduce());
  if (!reduced.ok()) return ::testing::AssertionFailure() << reduced;
  if (auto same = SameResults(actual, expected); !same) return same << " after Reduce";
  UpdateReference(expected.Update());
  const absl::Status updated = Update(actual.Update());
  if (!updated.ok()) return ::testing::AssertionFailure() << updated;
  return SameResults(actual, expected);
}

}  // namespace shardstep
