// The checks of kernels, on kernels that the host runs: right ones pass, and one wrong bit anywhere is found.
#include "shardstep/tools/gpu_check/kernel_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "shardstep/tests/cuda/host_cuda_kernels.h"

namespace shardstep::gpu_check {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

enum class Wrong {
  kNothing,
  kWeight,        // the last bit of one
  kMoment,        // the last bit of one
  kNorm,          // one more unit
  kPlace,         // one element further
  kBeyondTheEnd,  // a write behind an array
  kDecision,      // the last bit of the scale
  kDigest,        // the highest limb
  kScanNotReset,  // after a contribution
};

// The kernels, and behind each launch what is wrong with it.
class WrongKernels : public CudaKernels {
 public:
  WrongKernels(FakeCuda& cuda, Wrong wrong) : cuda_(cuda), right_(cuda), wrong_(wrong) {}

  int Load() override { return right_.Load(); }
  int Reduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    const int error = right_.Reduce(args, sum, stream);
    return error != 0 ? error : Then(stream, [this, scan = args.scan] {
      if (wrong_ == Wrong::kNorm) scan->squared_norm.limbs()[0] += 1;
      if (wrong_ == Wrong::kPlace && scan->first_nonfinite != kNowhere) ++scan->first_nonfinite;
    });
  }
  int Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    const int error = right_.Update(args, sum, stream);
    return error != 0 ? error : Then(stream, [this, args] {
      auto* const weights = static_cast<uint16_t*>(args.weights);
      if (wrong_ == Wrong::kWeight) weights[0] ^= 1;
      if (wrong_ == Wrong::kMoment && args.second_moment != nullptr) args.second_moment[1024] = 77;
      if (wrong_ == Wrong::kBeyondTheEnd) weights[args.segments.blocks * 1024 * (args.fp32_weights ? 2 : 1)] = 0;
    });
  }
  int Contribute(const ContributeWords& words, CudaStreamHandle stream) override {
    const int error = right_.Contribute(words, stream);
    return error != 0 ? error : Then(stream, [this, words] {
      if (wrong_ == Wrong::kScanNotReset) words.scan->max_abs_bits = 1;
    });
  }
  int Decide(const DecideWords& words, CudaStreamHandle stream) override {
    const int error = right_.Decide(words, stream);
    return error != 0 ? error : Then(stream, [this, words] {
      if (wrong_ == Wrong::kDecision) words.scalars->scale = FloatFromBits(FloatBits(words.scalars->scale) ^ 1);
    });
  }
  int Digest(const CudaDigest& args, CudaStreamHandle stream) override {
    const int error = right_.Digest(args, stream);
    return error != 0 ? error : Then(stream, [this, args] {
      if (wrong_ == Wrong::kDigest) ++args.sum->limb[3];
    });
  }
  int ReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    return right_.ReduceTwin(args, sum, stream);
  }
  int UpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) override {
    return right_.UpdateTwin(args, sum, stream);
  }
  const char* Target() override { return "tested"; }

 private:
  int Then(CudaStreamHandle stream, std::function<void()> run) {
    return cuda_.Enqueue(stream, "what is wrong", {}, std::move(run));
  }

  FakeCuda& cuda_;
  HostCudaKernels right_;
  const Wrong wrong_;
};

absl::StatusOr<std::string> CheckOf(Wrong wrong) {
  FakeCuda cuda;
  WrongKernels kernels(cuda, wrong);
  const absl::StatusOr<std::unique_ptr<KernelTarget>> tested =
      CreateCudaTarget({.api = &cuda, .kernels = &kernels}, {.api = &cuda, .device = 0});
  if (!tested.ok()) return tested.status();
  const std::unique_ptr<KernelTarget> reference = CreateReferenceTarget();
  return CheckKernels(*reference, **tested, {.elements = 1, .decisions = 300});
}

TEST(GpuCheckKernelsTest, RightKernelsPass) {
  const absl::StatusOr<std::string> passed = CheckOf(Wrong::kNothing);
  ASSERT_TRUE(passed.ok()) << passed.status();
  EXPECT_THAT(*passed,
              MatchesRegex("tested has the bits of reference in 900000 elements, 300 decisions and 60 digests"));
}

TEST(GpuCheckKernelsTest, OneWrongBitIsNamed) {
  const struct {
    Wrong wrong;
    const char* name;
  } cases[] = {{Wrong::kWeight, "weights\\[0\\]: [0-9a-f]* is not "},
               {Wrong::kMoment, "second_moment\\[1024\\]: 429a0000 is not "},
               {Wrong::kNorm, "scan\\[0\\]: squared norm "},
               {Wrong::kPlace, "scan\\[0\\]: squared norm .*first not finite "},
               {Wrong::kBeyondTheEnd, "byte [0-9]*, which belongs to no array, was written"},
               {Wrong::kDecision, "scale of decision 0, seed 1"},
               {Wrong::kDigest, "digest 0, seed 1: [0-9a-f]* is not "},
               {Wrong::kScanNotReset, "the scan that was reset of decision 0"}};
  for (const auto& [wrong, name] : cases) {
    EXPECT_THAT(std::string(CheckOf(wrong).status().message()),
                MatchesRegex(absl::StrCat("tested differs from reference in ", name, ".*")));
  }
}

TEST(GpuCheckKernelsTest, N5OneHashOfTheReferenceEveryCpuTargetAndTheGpusBodies) {
  FakeCuda cuda;
  HostCudaKernels kernels(cuda);
  auto targets = CreateCpuTargets(/*threads=*/2);
  ASSERT_TRUE(targets.ok()) << targets.status();
  targets->insert(targets->begin(), CreateReferenceTarget());
  auto gpu = CreateCudaTarget({.api = &cuda, .kernels = &kernels}, {.api = &cuda, .device = 0});
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  targets->push_back(*std::move(gpu));
  const absl::StatusOr<std::string> hash = CheckOneHash(*targets);
  ASSERT_TRUE(hash.ok()) << hash.status();
  EXPECT_THAT(*hash, MatchesRegex("one hash, [0-9a-f]*: reference, .*, host"));
}

TEST(GpuCheckKernelsTest, HashesThatDifferAreNamed) {
  FakeCuda cuda;
  WrongKernels kernels(cuda, Wrong::kWeight);
  std::vector<std::unique_ptr<KernelTarget>> targets;
  targets.push_back(CreateReferenceTarget());
  auto gpu = CreateCudaTarget({.api = &cuda, .kernels = &kernels}, {.api = &cuda, .device = 0});
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  targets.push_back(*std::move(gpu));
  EXPECT_THAT(std::string(CheckOneHash(targets).status().message()),
              MatchesRegex("hashes differ: reference [0-9a-f]*, tested [0-9a-f]*"));
}

TEST(GpuCheckKernelsTest, ACaseIsTheSameBytesWhereverItIsMade) {
  for (const int64_t index : {0, 5, 10, 15}) {
    const CaseSpec spec = SpecOf(index, 6000, 1);
    std::vector<std::vector<std::byte>> bytes;
    for (int i = 0; i < 2; ++i) {
      // Whatever was on the stack and the heap before.
      std::vector<std::byte> left_over(1 << 16, std::byte(17 * i + 1));
      volatile char stack[4096];
      for (volatile char& byte : stack) byte = static_cast<char>(left_over[0]);
      left_over = {};
      bytes.push_back(KernelCase(spec).bytes());
    }
    EXPECT_EQ(bytes[0], bytes[1]) << index;
  }
}

TEST(GpuCheckKernelsTest, CasesHaveEveryRuleMasterDtypeAndKindOfValues) {
  std::set<std::string> kinds;
  for (int64_t index = 0; index < kSpecs; ++index) {
    const CaseSpec spec = SpecOf(index, 6000, 1);
    int64_t elements = 0;
    for (const int64_t size : spec.sizes) elements += size;
    EXPECT_EQ(elements, 6000);
    const int64_t dtypes = index / 60 % 3;
    for (const Slice& slice : spec.slices)
      EXPECT_TRUE(dtypes == 2 || slice.dtype == (dtypes == 1 ? DType::kFp32 : DType::kBf16));
    kinds.insert(absl::StrCat(Name(spec.kind.rule), spec.kind.momentum, Name(spec.kind.master),
                              Name(spec.kind.rounding), Name(spec.weight_dtype), static_cast<int>(spec.values), " ",
                              dtypes));
  }
  EXPECT_EQ(static_cast<int64_t>(kinds.size()), kSpecs);
}

}  // namespace
}  // namespace shardstep::gpu_check
