#include "python_optimizer.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/runtime/joint_decision.h"
#include "shardstep/runtime/options_text.h"
#include "status_error.h"

namespace shardstep {

namespace nb = nanobind;

namespace {

template <typename T>
absl::Span<const T> SpanOf(const ReadArray& values) {
  return absl::MakeConstSpan(static_cast<const T*>(values.data()), values.size());
}

// Of Python's text of an error: what was raised, without where.
absl::string_view LastLine(absl::string_view text) {
  text = absl::StripTrailingAsciiWhitespace(text);
  const size_t end_of_others = text.rfind('\n');
  return end_of_others == absl::string_view::npos ? text : text.substr(end_of_others + 1);
}

}  // namespace

struct PythonOptimizer::InJob {
  const pid_t process = getpid();
  OptimizerOptions options;
  std::shared_ptr<Job> decision;  // what a joint decision meets over
  Job job;
  // What the optimizer reads and writes of the caller's, as long as it lives.
  std::map<int, nb::object> bound_weights, bound_gradients;
  std::unique_ptr<ShardedOptimizer> optimizer;  // goes first
};

PythonOptimizer::PythonOptimizer(const JobOptions& job, std::vector<ParameterSpec> parameters,
                                 const std::string& options)
    : in_job_(new InJob, [](InJob* in_job) {
        // A forked child has none of the threads that destruction would wait for, and no part in the job.
        if (getpid() == in_job->process) delete in_job;
      }) {
  const nb::gil_scoped_release released;
  const OptimizerOptions& parsed = in_job_->options = ValueOrThrow(OptionsFromText(options));
  in_job_->job = ValueOrThrow(JoinJob(job, parsed));
  in_job_->optimizer =
      ValueOrThrow(ShardedOptimizer::Create(parsed, std::move(parameters), std::move(in_job_->job.communicators),
                                            in_job_->job.rendezvous.get(), in_job_->job.device.get()));
}

ShardedOptimizer& PythonOptimizer::optimizer() const {
  if (in_job_ == nullptr) throw StatusError{absl::FailedPreconditionError("the optimizer is closed")};
  ThrowIfError(broken_);
  return *in_job_->optimizer;
}

PythonOptimizer::~PythonOptimizer() { Close(); }

void PythonOptimizer::EnterStep(const absl::Status& returned) {
  ThrowIfError(returned);
  inside_step_ = true;
}

void PythonOptimizer::Close() {
  if (in_job_ == nullptr) return;
  // Arrays may keep this rank in the job for long, and the others would wait for it.
  if (inside_step_ && in_job_->process == getpid()) {
    in_job_->optimizer->Abort(absl::CancelledError("the optimizer was closed inside a step"));
  }
  LetGo(std::exchange(in_job_, nullptr));
}

void PythonOptimizer::LetGo(std::shared_ptr<InJob> in_job) {
  if (in_job.use_count() > 1) return;
  const auto weights = std::move(in_job->bound_weights);
  const auto gradients = std::move(in_job->bound_gradients);
  const nb::gil_scoped_release released;
  in_job.reset();
}

const ParameterSpec& PythonOptimizer::Parameter(int p) const {
  const ShardLayout& layout = optimizer().layout();
  if (p >= 0 && p < layout.parameter_count()) return layout.parameter(p);
  throw StatusError{
      absl::InvalidArgumentError(absl::StrCat("parameter ", p, " is not in [0, ", layout.parameter_count(), ")"))};
}

OutArray PythonOptimizer::View(int p, DType dtype, const void* bf16, const void* fp32, bool as_bits) const {
  auto* kept = new std::shared_ptr<InJob>(in_job_);
  const nb::capsule owner(kept, [](void* pointer) noexcept {
    const std::unique_ptr<std::shared_ptr<InJob>> mine(static_cast<std::shared_ptr<InJob>*>(pointer));
    LetGo(std::move(*mine));
  });
  const void* data = dtype == DType::kFp32 ? fp32 : bf16;
  return ToPython(const_cast<void*>(data), dtype, Parameter(p).shape, owner, in_job_->job.gpu, as_bits);
}

int64_t PythonOptimizer::BeginAppliedStep(int p) const {
  Parameter(p);
  return optimizer().begin_applied_step(p);
}

OutArray PythonOptimizer::Weights(int p, bool as_bits) const {
  const DType dtype = Parameter(p).weight_dtype;
  return View(p, dtype, optimizer().weights(p).data(), optimizer().fp32_weights(p).data(), as_bits);
}

OutArray PythonOptimizer::Gradient(int p, bool as_bits) const {
  const DType dtype = Parameter(p).gradient_dtype;
  return View(p, dtype, optimizer().gradient(p).data(), optimizer().fp32_gradient(p).data(), as_bits);
}

void PythonOptimizer::CopyGradient(int p, uintptr_t address, int64_t size_bytes) const {
  const DType dtype = Parameter(p).gradient_dtype;
  void* const to = dtype == DType::kFp32 ? static_cast<void*>(optimizer().fp32_gradient(p).data())
                                         : static_cast<void*>(optimizer().gradient(p).data());
  const int64_t expected = optimizer().layout().elements(p) * SizeBytes(dtype);
  if (in_job_->job.gpu >= 0 || size_bytes != expected) {
    throw StatusError{absl::InvalidArgumentError(absl::StrCat("copy_gradient of \"", Parameter(p).name,
                                                              "\": size_bytes = ", size_bytes, ": must be ", expected,
                                                              ", and gradients on the host"))};
  }
  static const std::unique_ptr<ShardKernels> kernels = CreateCpuShardKernels(/*threads=*/1).value();
  InlineStream stream;
  const std::shared_ptr<InJob> kept = in_job_;
  const nb::gil_scoped_release released;
  ThrowIfError(
      kernels->Copy({.from = reinterpret_cast<const void*>(address), .to = to, .size_bytes = size_bytes}, stream));
}

void PythonOptimizer::Bind(BindCall call, const char* what, int p, DType dtype, nb::object array,
                           std::map<int, nb::object> InJob::*kept) {
  BufferView buffer;
  if (!array.is_none()) {
    WrittenArray given;
    if (!nb::try_cast(array, given, /*convert=*/false)) {
      throw StatusError{absl::InvalidArgumentError(absl::StrCat(what, " of \"", Parameter(p).name,
                                                                "\": no array that DLPack or the buffer protocol "
                                                                "gives, to be read and written"))};
    }
    ThrowIfError(CheckArray(ReadArray(given), absl::StrCat(what, " of \"", Parameter(p).name, "\""), dtype,
                            optimizer().layout().elements(p), in_job_->job.gpu));
    buffer = {static_cast<std::byte*>(given.data()), static_cast<int64_t>(given.nbytes())};
  }
  ThrowIfError((optimizer().*call)(p, buffer));
  ((*in_job_).*kept)[p] = std::move(array);
}

void PythonOptimizer::BindWeights(int p, nb::object array) {
  Bind(&ShardedOptimizer::BindWeights, "weights", p, Parameter(p).weight_dtype, std::move(array),
       &InJob::bound_weights);
}

void PythonOptimizer::BindGradient(int p, nb::object array) {
  Bind(&ShardedOptimizer::BindGradient, "gradient", p, Parameter(p).gradient_dtype, std::move(array),
       &InJob::bound_gradients);
}

void PythonOptimizer::Initialize(const nb::callable& fill) {
  std::unique_ptr<nb::python_error> error;
  absl::Status status;
  {
    const nb::gil_scoped_release released;
    status = optimizer().Initialize([&](int p, int64_t begin, absl::Span<float> values) {
      if (error != nullptr) return;
      const nb::gil_scoped_acquire acquired;
      try {
        // Python may keep the array, so it is no view of `values`.
        const OutArray filled = ToPython(std::vector<float>(values.begin(), values.end()));
        fill(p, begin, filled);
        std::copy_n(static_cast<const float*>(filled.data()), values.size(), values.begin());
      } catch (nb::python_error& raised) {
        error = std::make_unique<nb::python_error>(std::move(raised));
      }
    });
  }
  if (error != nullptr) {
    // The other ranks have weights that are whole but for this rank's, and wait in a step or a meeting.
    broken_ = absl::AbortedError(absl::StrCat("initialize: fill raised ", LastLine(error->what())));
    in_job_->optimizer->Abort(broken_);
    in_job_->job.rendezvous->Fail(broken_);
    throw nb::python_error(std::move(*error));
  }
  ThrowIfError(status);
}

void PythonOptimizer::SetWeights(const std::string& parameter, const ReadArray& values) {
  const int p = optimizer().layout().FindParameter(parameter);
  if (p < 0) throw StatusError{absl::NotFoundError(absl::StrCat("set_weights: no parameter \"", parameter, "\""))};
  const DType dtype = Parameter(p).weight_dtype;
  const int64_t elements = optimizer().layout().elements(p);
  ThrowIfError(CheckArray(values, absl::StrCat("set_weights: the values of \"", parameter, "\""), dtype, elements,
                          /*gpu=*/-1));
  const nb::gil_scoped_release released;
  ThrowIfError(dtype == DType::kFp32 ? optimizer().SetWeights(parameter, SpanOf<float>(values))
                                     : optimizer().SetWeights(parameter, SpanOf<Bf16>(values)));
}

void PythonOptimizer::SetState(const std::string& parameter, StateKind kind, const ReadArray& values) {
  // How many there must be, the library says.
  ThrowIfError(CheckArray(values, absl::StrCat("set_state: the ", Name(kind), " of \"", parameter, "\""), DType::kFp32,
                          static_cast<int64_t>(values.size()), /*gpu=*/-1));
  const nb::gil_scoped_release released;
  ThrowIfError(optimizer().SetState(parameter, kind, SpanOf<float>(values)));
}

void PythonOptimizer::JoinDecisions(const JobOptions& job, const std::vector<PythonOptimizer*>& optimizers,
                                    const std::vector<std::string>& names) {
  if (optimizers.empty() || optimizers.size() != names.size()) {
    throw StatusError{absl::InvalidArgumentError(
        absl::StrCat("join_decisions: ", optimizers.size(), " optimizers with ", names.size(), " names"))};
  }
  if (job.device != "cpu") {
    throw StatusError{absl::UnimplementedError(
        absl::StrCat("device = \"", job.device, "\": optimizers decide together on CPUs only"))};
  }
  std::vector<JointMember> members;
  std::vector<const OptimizerOptions*> options;
  for (size_t i = 0; i < optimizers.size(); ++i) {
    members.push_back({.optimizer = &optimizers[i]->optimizer(), .name = names[i]});
    options.push_back(&optimizers[i]->in_job_->options);
  }
  const nb::gil_scoped_release released;
  const auto decision = std::make_shared<Job>(ValueOrThrow(JoinJob(job, OptionsOfJointDecision(options))));
  ThrowIfError(shardstep::JoinDecisions(std::move(decision->communicators.host), decision->rendezvous.get(), members));
  for (PythonOptimizer* optimizer : optimizers) optimizer->in_job_->decision = decision;
}

void PythonOptimizer::AllWeightsReady() const {
  for (int p = 0; p < optimizer().layout().parameter_count(); ++p) ThrowIfError(optimizer().WeightsReady(p));
}

}  // namespace shardstep
