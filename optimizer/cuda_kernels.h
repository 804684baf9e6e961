#ifndef SHARDSTEP_OPTIMIZER_CUDA_KERNELS_H_
#define SHARDSTEP_OPTIMIZER_CUDA_KERNELS_H_

#include <cstdint>

#include "shardstep/comm/bf16.h"
#include "shardstep/comm/cuda/cuda_api.h"
#include "shardstep/comm/small_reduction.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/step_words.h"
#include "shardstep/optimizer/update_rule.h"

namespace shardstep {

/// What a launch gets, by value: pointers are to device memory, or to pinned host memory where said.

/// A segment as kernels see it; in a table on the device. Kernels work on blocks of 1024 elements, numbered through all
/// segments of a launch.
struct CudaSegment {
  int64_t first_block = 0;
  int64_t shard_begin_element = 0;
  int64_t elements = 0;
  int64_t global_begin_element = 0;
  double norm_weight = 1.0;
  int32_t scalars = 0;
};

struct CudaSegments {
  const CudaSegment* table = nullptr;
  int32_t count = 0;
  int64_t blocks = 0;
};

/// Addition of sum_schedule.h.
struct CudaAddition {
  const void* data = nullptr;
  int64_t micro_batch = 0;
  int64_t last_micro_batch = 0;
  bool fp32 = false;
  bool to_group = false;
  bool ends_group = false;
  bool partial = false;
};

/// SumSchedule of sum_schedule.h, in a kernel's parameters.
struct CudaSumSchedule {
  static constexpr int kMaxAdditions = 256;

  const float* accumulator = nullptr;
  const float* group_accumulator = nullptr;
  int64_t before_micro_batch = -1;
  int32_t additions_count = 0;
  bool begins_with_end = false;
  /// s is the plain sum of all additions, and of the accumulator if there is one.
  bool plain = true;
  /// All additions are bf16.
  bool bf16 = true;
  CudaAddition additions[kMaxAdditions];
};

/// See nonfinite_element.h.
SHARDSTEP_HOST_DEVICE inline int32_t AdditionCount(const CudaSumSchedule& sum) { return sum.additions_count; }
SHARDSTEP_HOST_DEVICE inline bool IsFp32(const CudaAddition& addition) { return addition.fp32; }

struct CudaReduce {
  CudaSegments segments;
  float* accumulator_out = nullptr;
  float* group_accumulator_out = nullptr;
  Bf16* rounded_out = nullptr;
  bool take_norm = false;
  ScanResult* scan = nullptr;
};

struct CudaUpdate {
  UpdateKind kind;
  bool fp32_weights = false;
  CudaSegments segments;
  float* master = nullptr;
  uint16_t* remainder = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  void* weights = nullptr;  ///< the one destination
  const UpdateScalars* scalars = nullptr;
  const RuleScalars* rules = nullptr;
};

struct CudaDigest {
  DigestForm form = DigestForm::kFp32;
  const void* values = nullptr;
  const uint16_t* remainder = nullptr;
  int64_t parameter = 0;
  int64_t first_block = 0;
  int64_t elements = 0;
  DigestSum* sum = nullptr;
};

/// The launches of the CUDA backend; what is returned is a cudaError_t. The real ones are in its shared object; tests
/// put in their place loops on the host over the same bodies (cuda_*-inl.h). `sum` is taken by value before they
/// return.
class CudaKernels {
 public:
  virtual ~CudaKernels() = default;
  /// Loads all kernels onto the current device. A first launch would do it too, and may have to wait for the device,
  /// which is not for the middle of a step.
  virtual int Load() = 0;
  virtual int Reduce(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) = 0;
  virtual int Update(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) = 0;
  virtual int Contribute(const ContributeWords& words, CudaStreamHandle stream) = 0;
  virtual int Decide(const DecideWords& words, CudaStreamHandle stream) = 0;
  virtual int Digest(const CudaDigest& args, CudaStreamHandle stream) = 0;
  /// Twins of Reduce (with a norm) and Update of AdamW with an fp32 master: they move the same bytes and compute next
  /// to nothing. What is written back are the bits that were there, and weights that are copies of upper halves.
  virtual int ReduceTwin(const CudaReduce& args, const CudaSumSchedule& sum, CudaStreamHandle stream) = 0;
  virtual int UpdateTwin(const CudaUpdate& args, const CudaSumSchedule& sum, CudaStreamHandle stream) = 0;
  /// Of the current device, for messages and reports: "sm_90".
  virtual const char* Target() = 0;
};

}  // namespace shardstep

#endif  // SHARDSTEP_OPTIMIZER_CUDA_KERNELS_H_
