#include "status_error.h"

#include <nanobind/stl/string.h>

#include <exception>
#include <string>

namespace shardstep {
namespace {

namespace nb = nanobind;

void SetPythonError(const absl::Status& status) {
  const nb::object make = nb::module_::import_("shardstep._errors").attr("make_error");
  const nb::object error = make(absl::StatusCodeToString(status.code()), absl::StatusCodeToString(CauseOf(status)),
                                std::string(status.message()));
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
}

}  // namespace

void RegisterStatusErrors() {
  nb::register_exception_translator(
      [](const std::exception_ptr& thrown, void*) {
        try {
          std::rethrow_exception(thrown);
        } catch (const StatusError& error) {
          SetPythonError(error.status);
        }
      },
      nullptr);
}

}  // namespace shardstep
