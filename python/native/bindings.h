#ifndef SHARDSTEP_PYTHON_NATIVE_BINDINGS_H_
#define SHARDSTEP_PYTHON_NATIVE_BINDINGS_H_

#include <nanobind/nanobind.h>

namespace shardstep {

/// Each adds its classes and functions to the module; the later ones use the earlier ones' classes.
void BindJob(nanobind::module_& module);
void BindRecord(nanobind::module_& module);
void BindOptimizer(nanobind::module_& module);

}  // namespace shardstep

#endif  // SHARDSTEP_PYTHON_NATIVE_BINDINGS_H_
