// What describes a job and its parameters.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bindings.h"
#include "shardstep/comm/tcp/job_id.h"
#include "shardstep/optimizer/shard_layout.h"
#include "shardstep/runtime/job.h"
#include "status_error.h"

namespace shardstep {
namespace {

namespace nb = nanobind;
using namespace nb::literals;  // NOLINT: "name"_a

template <typename T>
struct Word {
  const char* word;
  T value;
};

constexpr Word<JobMeeting> kMeetings[] = {
    {"alone", JobMeeting::kAlone}, {"tcp", JobMeeting::kTcp}, {"mpi", JobMeeting::kMpi}};
constexpr Word<GpuTransport> kTransports[] = {{"nccl", GpuTransport::kNccl},
                                              {"nccl_two_levels", GpuTransport::kNcclTwoLevels},
                                              {"nccl_reduce_scatter", GpuTransport::kNcclReduceScatter},
                                              {"staged", GpuTransport::kStaged}};
constexpr Word<DType> kDTypes[] = {{"bf16", DType::kBf16}, {"fp32", DType::kFp32}};

template <typename T, size_t n>
T Parse(const char* field, const std::string& text, const Word<T> (&words)[n]) {
  std::string known;
  for (const Word<T>& word : words) {
    if (text == word.word) return word.value;
    absl::StrAppend(&known, known.empty() ? "" : ", ", word.word);
  }
  throw StatusError{absl::InvalidArgumentError(absl::StrCat(field, " = \"", text, "\": must be one of ", known))};
}

void MakeJob(JobOptions* job, const std::string& meet, const std::string& id, int rank, int world_size,
             const std::string& device, uintptr_t compute_stream, const std::string& gpu_transport,
             const std::string& host_address, double deadline_seconds) {
  if (!std::isfinite(deadline_seconds) || deadline_seconds <= 0) {
    throw StatusError{
        absl::InvalidArgumentError(absl::StrCat("deadline_seconds = ", deadline_seconds, ": must be positive"))};
  }
  new (job) JobOptions{.meet = Parse("meet", meet, kMeetings),
                       .id = id,
                       .rank = rank,
                       .world_size = world_size,
                       .device = device,
                       .compute_stream = reinterpret_cast<void*>(compute_stream),  // NOLINT: a handle
                       .gpu_transport = Parse("gpu_transport", gpu_transport, kTransports),
                       .host_address = host_address,
                       .deadline = absl::Seconds(deadline_seconds)};
}

void MakeParameter(ParameterSpec* parameter, const std::string& name, const std::vector<int64_t>& shape,
                   const std::string& weight_dtype, const std::string& gradient_dtype, int group, bool frozen,
                   const std::string& tied_to, double norm_weight) {
  const DType dtype = Parse("weight_dtype", weight_dtype, kDTypes);
  new (parameter)
      ParameterSpec{.name = name,
                    .shape = shape,
                    .group = group,
                    .weight_dtype = dtype,
                    .gradient_dtype = gradient_dtype.empty() ? dtype : Parse("gradient_dtype", gradient_dtype, kDTypes),
                    .frozen = frozen,
                    .tied_to = tied_to,
                    .norm_weight = norm_weight};
}

constexpr char kJobIdText[] = R"(A new id for a job, by which its ranks meet.

Rank 0 calls it, tells the id to all ranks by whatever means there are, and all pass it as Job(meet="tcp", id=...). The
process listens from now on. host_address: where other hosts reach this one, without a port; "": its name. The id is
secret: it lets in.)";

constexpr char kJobText[] = R"(How this process is a rank of a job. A description: the optimizer joins it.

meet: "alone"; "tcp": by id, which is one of create_job_id or "host:port" of rank 0, with rank and world_size; "mpi": the
ranks that mpirun started. device: "cpu", "cuda" (a GPU by the rank's place on its host) or "cuda:1". compute_stream: the
cudaStream_t that the trainer computes on, as an integer, not the default one. gpu_transport: "nccl", "nccl_two_levels",
"nccl_reduce_scatter" (rounds to bf16 on the way) or "staged" (through the host, without NCCL). deadline_seconds: for
ranks to meet.)";

constexpr char kParameterText[] = R"(A tensor of the model, bf16 or fp32.

shape: in elements, () for a scalar. gradient_dtype: "" for the weights' own. group: index of the options' group. frozen:
no gradient and no state until it is thawed. tied_to: the name of an earlier one, alike in all else, whose weights and
gradient these are. norm_weight: weighs its squares in the global norm.)";

}  // namespace

void BindJob(nb::module_& module) {
  module.def(
      "create_job_id", [](const std::string& host_address) { return ValueOrThrow(CreateJobId(host_address)); },
      "host_address"_a = "", kJobIdText);
  nb::class_<JobOptions>(module, "Job", kJobText)
      .def("__init__", &MakeJob, nb::kw_only(), "meet"_a = "alone", "id"_a = "", "rank"_a = 0, "world_size"_a = 1,
           "device"_a = "cpu", "compute_stream"_a = 0, "gpu_transport"_a = "nccl", "host_address"_a = "",
           "deadline_seconds"_a = 300.0)
      .def_ro("rank", &JobOptions::rank)
      .def_ro("world_size", &JobOptions::world_size)
      .def_ro("id", &JobOptions::id)
      .def_ro("device", &JobOptions::device);
  nb::class_<ParameterSpec>(module, "Parameter", kParameterText)
      .def("__init__", &MakeParameter, "name"_a, "shape"_a, nb::kw_only(), "weight_dtype"_a = "bf16",
           "gradient_dtype"_a = "", "group"_a = 0, "frozen"_a = false, "tied_to"_a = "", "norm_weight"_a = 1.0)
      .def_ro("name", &ParameterSpec::name)
      .def_ro("shape", &ParameterSpec::shape)
      .def_ro("group", &ParameterSpec::group)
      .def_ro("frozen", &ParameterSpec::frozen)
      .def_ro("tied_to", &ParameterSpec::tied_to);
}

}  // namespace shardstep
