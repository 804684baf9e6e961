#include "shardstep/tools/gpu_check/kernel_target.h"

#include <cstring>
#include <utility>

#include "shardstep/comm/cuda/cuda_memory.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/decision_formula.h"
#include "shardstep/optimizer/master_weights.h"
#include "shardstep/optimizer/shard_kernels_cuda.h"

namespace shardstep::gpu_check {
namespace {

class ReferenceTarget : public KernelTarget {
 public:
  std::string name() const override { return "reference"; }

  absl::StatusOr<std::vector<std::byte>> Run(KernelCase& kernel_case) override {
    std::vector<std::byte> bytes = kernel_case.bytes();
    ReduceReference(kernel_case.Reduce(bytes.data()));
    UpdateReference(kernel_case.Update(bytes.data()));
    return bytes;
  }

  absl::Status Run(DecisionCase* decision) override {
    ContributeScans({.order = &decision->order,
                     .scan = &decision->scan,
                     .exchange_scan = &decision->exchange_scan,
                     .reduction = &decision->reduction});
    DecideStep({.order = &decision->order,
                .reduction = &decision->reduction,
                .facts = decision->with_facts ? &decision->facts : nullptr,
                .settings = decision->settings.data(),
                .settings_count = static_cast<int32_t>(decision->settings.size()),
                .scalars = &decision->scalars,
                .rules = decision->rules.data(),
                .report = &decision->report});
    if (decision->scalars.apply) decision->report.applied_in_step = decision->order.step;
    return absl::OkStatus();
  }

  absl::StatusOr<Digest> Run(const DigestCase& digest) override;
};

constexpr int64_t kDigestParameter = 7;

std::vector<float> AsFp32(const DigestCase& digest) {
  std::vector<float> values(static_cast<size_t>(digest.elements));
  for (size_t i = 0; i < values.size(); ++i) {
    const Bf16 weight{digest.values[i]};
    values[i] =
        digest.remainders.empty() ? ToFloat(weight) : Join({.weight = weight, .remainder = digest.remainders[i]});
  }
  if (digest.form == DigestForm::kFp32) std::memcpy(values.data(), digest.values.data(), 4 * values.size());
  return values;
}

// Memory for one case, kept for the next.
class Scratch {
 public:
  explicit Scratch(Memory& memory, bool for_both = false) : memory_(memory), for_both_(for_both) {}

  absl::StatusOr<std::byte*> OfSize(size_t size_bytes) {
    const auto size = static_cast<int64_t>(size_bytes);
    if (size > buffer_.size_bytes()) {
      buffer_ = Buffer();
      SHARDSTEP_ASSIGN_OR_RETURN(buffer_, for_both_ ? memory_.AllocateForBoth(size, "a case")
                                                    : memory_.Allocate(size, "a case", PageBacking::kOnCreation));
    }
    return buffer_.view().data;
  }

 private:
  Memory& memory_;
  const bool for_both_;
  Buffer buffer_;
};

absl::StatusOr<Digest> ReferenceTarget::Run(const DigestCase& digest) {
  if (digest.form != DigestForm::kBf16) {
    return DigestOf(kDigestParameter, digest.begin_element, absl::MakeConstSpan(AsFp32(digest)));
  }
  std::vector<Bf16> values;
  for (const uint16_t bits : digest.values) values.push_back({bits});
  return DigestOf(kDigestParameter, digest.begin_element, absl::MakeConstSpan(values));
}

// Where the words of a decision lie on a device.
struct DeviceWords {
  ScanResult scan;
  ScanResult exchange_scan;
  StepFacts facts;
  SmallReduction reduction;
  UpdateScalars scalars;
};
struct WordsOfBoth {
  StepOrder order;
  StepReport report;
};

// Kernels on arrays in a memory of their own.
class LaunchingTarget : public KernelTarget {
 public:
  LaunchingTarget(std::unique_ptr<Memory> own_memory, Memory& memory, std::unique_ptr<ShardKernels> kernels,
                  std::unique_ptr<Stream> stream)
      : own_memory_(std::move(own_memory)),
        memory_(memory),
        kernels_(std::move(kernels)),
        stream_(std::move(stream)),
        arrays_(memory),
        device_words_(memory),
        words_of_both_(memory, /*for_both=*/true) {}

  std::string name() const override { return std::string(kernels_->target()); }

  absl::StatusOr<std::vector<std::byte>> Run(KernelCase& kernel_case) override {
    std::vector<std::byte> bytes = kernel_case.bytes();
    const auto size_bytes = static_cast<int64_t>(bytes.size());
    SHARDSTEP_ASSIGN_OR_RETURN(std::byte* const base, arrays_.OfSize(bytes.size()));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Write(bytes.data(), base, size_bytes));
    const absl::Span<const Segment> lists[] = {kernel_case.segments()};
    SHARDSTEP_RETURN_IF_ERROR(kernels_->SetSegments(lists));
    SHARDSTEP_RETURN_IF_ERROR(kernels_->Reduce(kernel_case.Reduce(base), *stream_));
    SHARDSTEP_RETURN_IF_ERROR(kernels_->Update(kernel_case.Update(base), *stream_));
    SHARDSTEP_RETURN_IF_ERROR(stream_->Synchronize(stream_->Record()));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Read(base, bytes.data(), size_bytes));
    return bytes;
  }

  absl::Status Run(DecisionCase* decision) override {
    const size_t count = decision->settings.size();
    SHARDSTEP_ASSIGN_OR_RETURN(std::byte* const device,
                               device_words_.OfSize(sizeof(DeviceWords) + count * sizeof(RuleScalars)));
    SHARDSTEP_ASSIGN_OR_RETURN(std::byte* const both,
                               words_of_both_.OfSize(sizeof(WordsOfBoth) + count * sizeof(RuleSettings)));
    auto* const words = reinterpret_cast<DeviceWords*>(device);
    auto* const rules = reinterpret_cast<RuleScalars*>(device + sizeof(DeviceWords));
    auto* const shared = new (both) WordsOfBoth{.order = decision->order, .report = decision->report};
    auto* const settings = reinterpret_cast<RuleSettings*>(both + sizeof(WordsOfBoth));
    for (size_t i = 0; i < count; ++i) new (settings + i) RuleSettings(decision->settings[i]);

    DeviceWords host = {.scan = decision->scan,
                        .exchange_scan = decision->exchange_scan,
                        .facts = decision->facts,
                        .reduction = decision->reduction,
                        .scalars = decision->scalars};
    const auto rules_bytes = static_cast<int64_t>(count * sizeof(RuleScalars));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Write(&host, words, sizeof(host)));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Write(decision->rules.data(), rules, rules_bytes));
    SHARDSTEP_RETURN_IF_ERROR(kernels_->Contribute({.order = &shared->order,
                                                    .scan = &words->scan,
                                                    .exchange_scan = &words->exchange_scan,
                                                    .reduction = &words->reduction},
                                                   *stream_));
    SHARDSTEP_RETURN_IF_ERROR(kernels_->Decide({.order = &shared->order,
                                                .reduction = &words->reduction,
                                                .facts = decision->with_facts ? &words->facts : nullptr,
                                                .settings = settings,
                                                .settings_count = static_cast<int32_t>(count),
                                                .scalars = &words->scalars,
                                                .rules = rules,
                                                .report = &shared->report},
                                               *stream_));
    SHARDSTEP_RETURN_IF_ERROR(stream_->Synchronize(stream_->Record()));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Read(words, &host, sizeof(host)));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Read(rules, decision->rules.data(), rules_bytes));
    decision->scan = host.scan;
    decision->exchange_scan = host.exchange_scan;
    decision->reduction = host.reduction;
    decision->scalars = host.scalars;
    decision->report = shared->report;
    return absl::OkStatus();
  }

  absl::StatusOr<Digest> Run(const DigestCase& digest) override {
    const size_t value_bytes = 2 * digest.values.size();
    const size_t remainder_bytes = 2 * digest.remainders.size();
    SHARDSTEP_ASSIGN_OR_RETURN(std::byte* const words, device_words_.OfSize(sizeof(DigestSum)));
    SHARDSTEP_ASSIGN_OR_RETURN(std::byte* const values, arrays_.OfSize(value_bytes + remainder_bytes));
    std::byte* const remainders = values + value_bytes;
    DigestSum sum;
    SHARDSTEP_RETURN_IF_ERROR(memory_.Write(&sum, words, sizeof(sum)));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Write(digest.values.data(), values, static_cast<int64_t>(value_bytes)));
    SHARDSTEP_RETURN_IF_ERROR(
        memory_.Write(digest.remainders.data(), remainders, static_cast<int64_t>(remainder_bytes)));
    SHARDSTEP_RETURN_IF_ERROR(
        kernels_->Digest({.form = digest.form,
                          .values = values,
                          .remainder = remainder_bytes == 0 ? nullptr : reinterpret_cast<uint16_t*>(remainders),
                          .parameter = kDigestParameter,
                          .begin_element = digest.begin_element,
                          .elements = digest.elements,
                          .sum = reinterpret_cast<DigestSum*>(words)},
                         *stream_));
    SHARDSTEP_RETURN_IF_ERROR(stream_->Synchronize(stream_->Record()));
    SHARDSTEP_RETURN_IF_ERROR(memory_.Read(words, &sum, sizeof(sum)));
    return ToDigest(sum);
  }

 private:
  const std::unique_ptr<Memory> own_memory_;
  Memory& memory_;
  const std::unique_ptr<ShardKernels> kernels_;
  const std::unique_ptr<Stream> stream_;
  Scratch arrays_, device_words_, words_of_both_;
};

}  // namespace

std::unique_ptr<KernelTarget> CreateReferenceTarget() { return std::make_unique<ReferenceTarget>(); }

absl::StatusOr<std::unique_ptr<KernelTarget>> CreateCpuTarget(const std::string& name, int threads) {
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<ShardKernels> kernels, CreateCpuShardKernels(threads, name));
  return std::make_unique<LaunchingTarget>(nullptr, HostMemory(), std::move(kernels), std::make_unique<InlineStream>());
}

absl::StatusOr<std::vector<std::unique_ptr<KernelTarget>>> CreateCpuTargets(int threads) {
  std::vector<std::unique_ptr<KernelTarget>> targets;
  for (const CpuTarget& target : CpuTargets()) {
    if (!target.supported) continue;
    SHARDSTEP_ASSIGN_OR_RETURN(targets.emplace_back(), CreateCpuTarget(target.name, threads));
  }
  return targets;
}

absl::StatusOr<std::unique_ptr<KernelTarget>> CreateCudaTarget(const CudaBackend& backend,
                                                               const CudaDeviceRef& device) {
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Memory> memory, CreateCudaMemory(device));
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<ShardKernels> kernels,
                             CreateCudaShardKernels(*backend.kernels, device, *memory));
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<CudaStream> stream, CudaStream::Create(device, "checks"));
  Memory& its_memory = *memory;
  return std::make_unique<LaunchingTarget>(std::move(memory), its_memory, std::move(kernels), std::move(stream));
}

}  // namespace shardstep::gpu_check
