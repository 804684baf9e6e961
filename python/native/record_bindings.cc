// What a step did.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "bindings.h"
#include "shardstep/proto/record.pb.h"
#include "shardstep/runtime/step_record.h"

namespace shardstep {
namespace {

namespace nb = nanobind;

std::string Describe(const StepRecord& record) {
  proto::StepRecord message;
  ToProto(record, &message);
  return absl::StrCat("<StepRecord ", message.ShortDebugString(), ">");
}

nb::bytes Serialize(const StepRecord& record) {
  proto::StepRecord message;
  ToProto(record, &message);
  const std::string bytes = message.SerializeAsString();
  return nb::bytes(bytes.data(), bytes.size());
}

constexpr char kRecordText[] =
    R"(What one step did; identical on every rank but for times. proto/record.proto has each field.

gradient_norm: of the averaged gradient before clipping, or None. non_finite: the first inf or NaN, or None; such a step
has applied = False and changed nothing. step_ns, exposed_ns: nanoseconds.)";

}  // namespace

void BindRecord(nb::module_& module) {
  nb::class_<NonFinitePlace>(module, "NonFinitePlace", "The first inf or NaN, by micro-batch, parameter, element.")
      .def_ro("micro_batch", &NonFinitePlace::micro_batch)
      .def_ro("rank", &NonFinitePlace::rank)
      .def_ro("parameter", &NonFinitePlace::parameter)
      .def_ro("optimizer", &NonFinitePlace::optimizer)
      .def_ro("element", &NonFinitePlace::element)
      .def_ro("sum_overflow", &NonFinitePlace::sum_overflow);
  nb::class_<StepRecord>(module, "StepRecord", kRecordText)
      .def_ro("step", &StepRecord::step)
      .def_ro("applied_steps", &StepRecord::applied_steps)
      .def_ro("applied", &StepRecord::applied)
      .def_ro("consecutive_skips", &StepRecord::consecutive_skips)
      .def_ro("skipped_steps", &StepRecord::skipped_steps)
      .def_ro("micro_steps", &StepRecord::micro_steps)
      .def_ro("micro_batches", &StepRecord::micro_batches)
      .def_ro("learning_rate", &StepRecord::learning_rate)
      .def_ro("gradient_norm", &StepRecord::gradient_norm)
      .def_ro("clip_factor", &StepRecord::clip_factor)
      .def_ro("non_finite", &StepRecord::non_finite)
      .def_ro("scale_overflow", &StepRecord::scale_overflow)
      .def_ro("step_ns", &StepRecord::step_ns)
      .def_ro("exposed_ns", &StepRecord::exposed_ns)
      .def_ro("inexact_modes", &StepRecord::inexact_modes)
      .def_ro("copied_buffers", &StepRecord::copied_buffers)
      .def_ro("parameter_norms", &StepRecord::parameter_norms)
      .def("to_bytes", &Serialize, "The serialized message StepRecord of proto/record.proto.")
      .def("__repr__", &Describe);
}

}  // namespace shardstep
