// The optimizer's methods. What they mean, block for and refuse is said in runtime/sharded_optimizer.h.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bindings.h"
#include "python_optimizer.h"
#include "shardstep/runtime/options_text.h"
#include "status_error.h"

namespace shardstep {
namespace {

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT: "name"_a

using Released = nb::call_guard<nb::gil_scoped_release>;
using Numbers = std::map<std::string, int64_t>;

Numbers ToNumbers(const MemoryEstimate& memory) {
  return {{"weights_shared_bytes", memory.weights_shared_bytes},
          {"weights_private_bytes", memory.weights_private_bytes},
          {"gradient_bytes", memory.gradient_bytes},
          {"local_sum_bytes", memory.local_sum_bytes},
          {"master_bytes", memory.master_bytes},
          {"state_bytes", memory.state_bytes},
          {"accumulator_bytes", memory.accumulator_bytes},
          {"transit_bytes", memory.transit_bytes}};
}

Numbers EstimateMemory(std::vector<ParameterSpec> parameters, const std::string& options, int world_size) {
  return ToNumbers(ValueOrThrow(
      ShardedOptimizer::EstimateMemory(ValueOrThrow(OptionsFromText(options)), std::move(parameters), world_size)));
}

Numbers Counters(const PythonOptimizer& self) {
  const StepCounters counters = self.optimizer().counters();
  return {{"step", counters.step},
          {"applied_steps", counters.applied_steps},
          {"skipped_steps", counters.skipped_steps},
          {"consecutive_skips", counters.consecutive_skips}};
}

void SetCounters(PythonOptimizer& self, const Numbers& counters, const std::vector<int64_t>& begin_applied_steps) {
  StepCounters values;
  std::map<std::string, int64_t*> fields = {{"step", &values.step},
                                            {"applied_steps", &values.applied_steps},
                                            {"skipped_steps", &values.skipped_steps},
                                            {"consecutive_skips", &values.consecutive_skips}};
  for (const auto& [name, value] : counters) {
    const auto field = fields.find(name);
    if (field == fields.end()) {
      throw StatusError{absl::InvalidArgumentError(absl::StrCat("set_counters: no counter \"", name, "\""))};
    }
    *field->second = value;
    fields.erase(field);
  }
  if (!fields.empty()) {
    throw StatusError{absl::InvalidArgumentError(absl::StrCat("set_counters: needs \"", fields.begin()->first, "\""))};
  }
  ThrowIfError(self.optimizer().SetCounters(values, begin_applied_steps));
}

StepArguments Arguments(double learning_rate, int64_t micro_batches, std::optional<double> divisor,
                        std::optional<double> max_norm) {
  return {.learning_rate = learning_rate, .micro_batches = micro_batches, .divisor = divisor, .max_norm = max_norm};
}

StepRecord FinishStep(PythonOptimizer& self) {
  absl::StatusOr<StepRecord> record = self.optimizer().FinishStep();
  self.LeaveStep();
  return ValueOrThrow(std::move(record));
}

StateKind ParseKind(const std::string& text) {
  for (const StateKind kind : kStateKinds) {
    if (text == Name(kind)) return kind;
  }
  throw StatusError{absl::InvalidArgumentError(
      absl::StrCat("kind = \"", text, "\": must be one of master, first_moment, second_moment"))};
}

OutArray ReadState(PythonOptimizer& self, const std::string& parameter, const std::string& kind) {
  std::vector<float> values;
  {
    const nb::gil_scoped_release released;
    values = ValueOrThrow(self.optimizer().ReadState(parameter, ParseKind(kind)));
  }
  return ToPython(std::move(values));
}

std::map<std::string, std::string> Digests(PythonOptimizer& self) {
  const OptimizerDigests digests = ValueOrThrow(self.optimizer().Digests());
  return {{"weights", digests.weights.ToHex()},
          {"master", digests.master.ToHex()},
          {"first_moment", digests.first_moment.ToHex()},
          {"second_moment", digests.second_moment.ToHex()}};
}

void Save(PythonOptimizer& self, const std::filesystem::path& directory, const nb::bytes& caller_state) {
  const absl::string_view state(caller_state.c_str(), caller_state.size());
  const nb::gil_scoped_release released;
  ThrowIfError(self.optimizer().Save(directory.string(), state));
}

nb::tuple Load(PythonOptimizer& self, const std::filesystem::path& directory) {
  std::vector<std::string> warnings;
  std::string state;
  {
    const nb::gil_scoped_release released;
    state = ValueOrThrow(self.optimizer().Load(directory.string(), &warnings));
  }
  return nb::make_tuple(nb::bytes(state.data(), state.size()), warnings);
}

using Optimizer = nb::class_<PythonOptimizer>;

void BindPlace(Optimizer& optimizer) {
  optimizer.def_prop_ro("rank", [](const PythonOptimizer& self) { return self.optimizer().rank(); })
      .def_prop_ro("world_size", [](const PythonOptimizer& self) { return self.optimizer().world_size(); })
      .def_prop_ro(
          "memory", [](const PythonOptimizer& self) { return ToNumbers(self.optimizer().memory()); },
          "Bytes held by purpose, now: weights once per host or per rank, all else per rank.")
      .def_prop_ro(
          "wire", [](const PythonOptimizer& self) { return self.optimizer().DescribeWire(); },
          "What travels between hosts in each mode; empty on one host.")
      .def_static("estimate_memory", &EstimateMemory, "parameters"_a, "options"_a = "", "world_size"_a = 1,
                  "What creation would allocate, in bytes, without allocating.");
}

void BindArrays(Optimizer& optimizer) {
  optimizer
      .def(
          "weights", &PythonOptimizer::Weights, "p"_a, nb::kw_only(), "as_bits"_a = false,
          nb::sig("def weights(self, p: int, *, as_bits: bool = False) -> typing.Any"),
          "The weights of parameter p, in its shape, in place. To read between weights_ready and step. A DLPack array; "
          "as_bits: bf16 as uint16, for numpy.asarray.")
      .def("gradient", &PythonOptimizer::Gradient, "p"_a, nb::kw_only(), "as_bits"_a = false,
           nb::sig("def gradient(self, p: int, *, as_bits: bool = False) -> typing.Any"),
           "The gradient of parameter p, in its shape, in place. To write between gradient_writable and "
           "gradient_ready. As weights.")
      .def("copy_gradient", &PythonOptimizer::CopyGradient, "p"_a, "address"_a, "size_bytes"_a,
           "Writes the gradient of parameter p from the host's memory at `address`, where its `size_bytes` lie as in "
           "gradient(p): the same dtype, contiguous. Past the caches, which is faster where it is long.")
      .def("bind_weights", &PythonOptimizer::BindWeights, "p"_a, "array"_a.none(),
           "From now on weights_ready(p) copies the weights into this array of the caller's; None: no more.")
      .def("bind_gradient", &PythonOptimizer::BindGradient, "p"_a, "array"_a.none(),
           "This array of the caller's takes the place of gradient(p); None: no more.")
      .def(
          "initialize", &PythonOptimizer::Initialize, "fill"_a,
          nb::sig("def initialize(self, fill: collections.abc.Callable[[int, int, typing.Any], object]) -> None"),
          "Collective. Calls fill(p, begin, values) for what this rank owns: values is a one-dimensional fp32 array of "
          "the host, to be filled with elements [begin, begin + len) of p's master weights. An exception of fill ends "
          "the job.");
}

void BindStep(Optimizer& optimizer) {
  optimizer
      .def(
          "weights_ready", [](PythonOptimizer& self, int p) { ThrowIfError(self.optimizer().WeightsReady(p)); }, "p"_a,
          Released(), "Blocks until the weights of p are those of the last step.")
      .def("all_weights_ready", &PythonOptimizer::AllWeightsReady, Released(), "weights_ready of every parameter.")
      .def(
          "gradient_writable",
          [](PythonOptimizer& self, int p) { self.EnterStep(self.optimizer().GradientWritable(p)); }, "p"_a, Released(),
          "Blocks until this rank may overwrite the gradient of p; once per micro-step.")
      .def(
          "gradient_ready", [](PythonOptimizer& self, int p) { self.EnterStep(self.optimizer().GradientReady(p)); },
          "p"_a, Released(), "The gradient of p is written. Never blocks.")
      .def(
          "end_micro_step", [](PythonOptimizer& self) { self.EnterStep(self.optimizer().EndMicroStep()); }, Released(),
          "Ends a micro-step, micro_steps times per step on every rank; gradients that are not ready count as zeros.")
      .def(
          "set_micro_steps",
          [](PythonOptimizer& self, int64_t micro_steps) { ThrowIfError(self.optimizer().SetMicroSteps(micro_steps)); },
          "micro_steps"_a, Released(), "Collective, between steps.")
      .def(
          "step",
          [](PythonOptimizer& self, double learning_rate, int64_t micro_batches, std::optional<double> divisor,
             std::optional<double> max_norm) {
            self.EnterStep(self.optimizer().Step(Arguments(learning_rate, micro_batches, divisor, max_norm)));
          },
          nb::kw_only(), "learning_rate"_a, "micro_batches"_a = 0, "divisor"_a.none() = nb::none(),
          "max_norm"_a.none() = nb::none(), Released(),
          "Collective. Enqueues the step and returns. micro_batches: 0 for micro_steps * world_size. divisor: of the "
          "sum of gradients; None: micro_batches. max_norm: None: no clipping.")
      .def("finish_step", &FinishStep, Released(),
           "Blocks until this rank's part of the last step is done; its StepRecord.")
      .def(
          "begin_capture", [](PythonOptimizer& self) { ThrowIfError(self.optimizer().BeginCapture()); }, Released(),
          "Collective. The calls up to end_capture are captured into a CUDA graph.")
      .def(
          "end_capture", [](PythonOptimizer& self) { ThrowIfError(self.optimizer().EndCapture()); }, Released(),
          "Collective.")
      .def(
          "replay",
          [](PythonOptimizer& self, double learning_rate, int64_t micro_batches, std::optional<double> divisor,
             std::optional<double> max_norm) {
            self.EnterStep(self.optimizer().Replay(Arguments(learning_rate, micro_batches, divisor, max_norm)));
          },
          nb::kw_only(), "learning_rate"_a, "micro_batches"_a = 0, "divisor"_a.none() = nb::none(),
          "max_norm"_a.none() = nb::none(), Released(), "Collective. Before a graph of a step is launched.");
}

void BindGroups(Optimizer& optimizer) {
  optimizer
      .def(
          "set_group",
          [](PythonOptimizer& self, int group, const std::string& text) {
            ThrowIfError(self.optimizer().SetGroup(group, ValueOrThrow(GroupFromText(text))));
          },
          "group"_a, "options"_a, Released(),
          "From the next step on, also inside a step until it is called. Every rank does it alike: finish_step names "
          "two that differ. options: the text of a message Group of proto/options.proto.")
      .def(
          "add_group",
          [](PythonOptimizer& self, const std::string& text, const std::vector<std::string>& parameters) {
            return ValueOrThrow(self.optimizer().AddGroup(ValueOrThrow(GroupFromText(text)), parameters));
          },
          "options"_a, "parameters"_a, Released(), "Collective, between steps. The new group's index.")
      .def(
          "set_frozen",
          [](PythonOptimizer& self, const std::vector<std::string>& parameters, bool frozen) {
            ThrowIfError(self.optimizer().SetFrozen(parameters, frozen));
          },
          "parameters"_a, "frozen"_a, Released(), "Collective, between steps.");
}

void BindState(Optimizer& optimizer) {
  optimizer
      .def("set_weights", &PythonOptimizer::SetWeights, "parameter"_a, "values"_a.noconvert(),
           nb::sig("def set_weights(self, parameter: str, values: object) -> None"),
           "Collective. values: all of the parameter, of its dtype, on the host.")
      .def(
          "read_state", &ReadState, "parameter"_a, "kind"_a,
          nb::sig("def read_state(self, parameter: str, kind: str) -> typing.Any"),
          "Collective. All of a parameter's \"master\", \"first_moment\" or \"second_moment\", one-dimensional fp32 on "
          "the host, on every rank; empty where there is none.")
      .def(
          "set_state",
          [](PythonOptimizer& self, const std::string& parameter, const std::string& kind, const ReadArray& values) {
            self.SetState(parameter, ParseKind(kind), values);
          },
          "parameter"_a, "kind"_a, "values"_a.noconvert(),
          nb::sig("def set_state(self, parameter: str, kind: str, values: object) -> None"),
          "Collective. Takes what read_state gave.")
      .def_prop_ro("counters", &Counters, "Of the last finished step: step, applied_steps, skipped_steps, ...")
      .def("begin_applied_step", &PythonOptimizer::BeginAppliedStep, "p"_a,
           "The applied steps when the state of parameter p began: 0, or when it was thawed.")
      .def("set_counters", &SetCounters, "counters"_a, "begin_applied_steps"_a = std::vector<int64_t>(), Released(),
           "Collective. begin_applied_steps: by parameter; empty: all 0.")
      .def("digests", &Digests, Released(),
           "Collective. Hexadecimal digests of weights, master, first_moment, second_moment: equal on every rank, at "
           "every world size.")
      .def(
          "agree",
          [](PythonOptimizer& self, const std::string& what, const std::string& error) {
            ThrowIfError(
                self.optimizer().Agree(what, error.empty() ? absl::OkStatus() : absl::InvalidArgumentError(error)));
          },
          "what"_a, "error"_a = "", Released(),
          "Collective, between steps, for what all ranks must succeed in or none. Raises InvalidArgument on all when "
          "any rank gave an error, and names the lowest such rank.")
      .def("save", &Save, "directory"_a, "caller_state"_a = nb::bytes("", 0),
           nb::sig("def save(self, directory: str | os.PathLike[str], caller_state: bytes = b'') -> None"),
           "Collective. Writes a sharded checkpoint of the last finished step; rank 0's caller_state comes back.")
      .def("load", &Load, "directory"_a,
           nb::sig("def load(self, directory: str | os.PathLike[str]) -> tuple[bytes, list[str]]"),
           "Collective. Restores the newest whole checkpoint, of any world size: (caller_state, warnings).");
}

constexpr char kJoinText[] = R"(Lets several optimizers clip by one norm and skip together from now on.

Collective over the ranks of all optimizers, which `job` describes, between steps: tensor- or pipeline-parallel ranks,
which hold different parameters, and experts, whose data-parallel group is another one. names[i] is that of
optimizers[i], the same on all ranks of it and no other's. A rank with several calls step on each before it waits for
any.)";

constexpr char kOptimizerText[] = R"(The optimizer step of a data-parallel trainer, without torch.

Creation is collective over the ranks of the job. options: the text of a message Optimizer of proto/options.proto. Calls
come from one thread at a time, abort from any. Errors are shardstep.Error.)";

}  // namespace

void BindOptimizer(nb::module_& module) {
  Optimizer optimizer(module, "ShardedOptimizer", nb::is_weak_referenceable(), kOptimizerText);
  optimizer.def(nb::init<const JobOptions&, std::vector<ParameterSpec>, const std::string&>(), "job"_a, "parameters"_a,
                "options"_a = "");
  BindPlace(optimizer);
  BindArrays(optimizer);
  BindStep(optimizer);
  BindGroups(optimizer);
  BindState(optimizer);
  module.def("join_decisions", &PythonOptimizer::JoinDecisions, "job"_a, "optimizers"_a, "names"_a, kJoinText);
  optimizer
      .def(
          "set_away",
          [](PythonOptimizer& self, double seconds) {
            if (!std::isfinite(seconds) || seconds < 0) {
              throw StatusError{
                  absl::InvalidArgumentError(absl::StrCat("seconds = ", seconds, ": must be finite and at least 0"))};
            }
            self.optimizer().SetAway(absl::Seconds(seconds));
          },
          "seconds"_a, "This rank is busy elsewhere for at most so long: no deadline runs meanwhile.")
      .def(
          "abort",
          [](PythonOptimizer& self, const std::string& reason) {
            self.optimizer().Abort(absl::CancelledError(reason));
          },
          "reason"_a,
          "Ends the job, from any thread: every wait inside a step, on every rank, ends with Aborted, which names this "
          "rank and the reason.")
      .def("close", &PythonOptimizer::Close,
           "Later calls are refused. Inside a step it ends the job. The job is left and memory freed once no array of "
           "weights or gradients is left. A "
           "process under mpirun that has left its last job can join no other: MPI is finalized.");
}

}  // namespace shardstep
