#ifndef SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_TARGET_H_
#define SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_TARGET_H_

#include <memory>
#include <string>
#include <vector>

#include "shardstep/comm/cuda/cuda_stream.h"
#include "shardstep/comm/memory.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/digest_words.h"
#include "shardstep/optimizer/step_words.h"
#include "shardstep/runtime/cuda_backend.h"
#include "shardstep/tools/gpu_check/kernel_case.h"

namespace shardstep::gpu_check {

/// A decision as Contribute and Decide make it, with everything that they read and write.
struct DecisionCase {
  StepOrder order;
  ScanResult scan;
  ScanResult exchange_scan;
  bool with_facts = false;  ///< `facts` are there, not those of the reduction
  StepFacts facts;
  std::vector<RuleSettings> settings;
  // Written.
  SmallReduction reduction;
  UpdateScalars scalars;
  std::vector<RuleScalars> rules;  ///< as many as settings
  StepReport report;
};

/// Elements of a parameter to hash, of any form.
struct DigestCase {
  DigestForm form = DigestForm::kFp32;
  int64_t begin_element = 0;
  std::vector<uint16_t> values;      ///< bf16; kFp32: two for each
  std::vector<uint16_t> remainders;  ///< kWidened: as many as elements, or none
  int64_t elements = 0;
};

/// Something that has the step's arithmetic.
class KernelTarget {
 public:
  virtual ~KernelTarget() = default;
  /// "reference", "AVX3", "sm_90".
  virtual std::string name() const = 0;
  /// Reduces, then updates; the case's memory afterwards.
  virtual absl::StatusOr<std::vector<std::byte>> Run(KernelCase& kernel_case) = 0;
  /// Contributes, then decides.
  virtual absl::Status Run(DecisionCase* decision) = 0;
  /// The digest, of parameter 7.
  virtual absl::StatusOr<Digest> Run(const DigestCase& digest) = 0;
};

/// ReduceReference and UpdateReference, and the decision's formula.
std::unique_ptr<KernelTarget> CreateReferenceTarget();
/// One of CpuTargets(); empty: the best that this CPU has.
absl::StatusOr<std::unique_ptr<KernelTarget>> CreateCpuTarget(const std::string& name, int threads);
/// The targets that this CPU can run.
absl::StatusOr<std::vector<std::unique_ptr<KernelTarget>>> CreateCpuTargets(int threads);
/// The GPU's.
absl::StatusOr<std::unique_ptr<KernelTarget>> CreateCudaTarget(const CudaBackend& backend, const CudaDeviceRef& device);

}  // namespace shardstep::gpu_check

#endif  // SHARDSTEP_TOOLS_GPU_CHECK_KERNEL_TARGET_H_
