// The module shardstep._native: the C++ library as Python sees it. python/shardstep/__init__.py is what users import.
#include <nanobind/nanobind.h>

#include "bindings.h"
#include "shardstep/runtime/version.h"
#include "status_error.h"

NB_MODULE(_native, module) {
  // What a program still refers to when it exits is no mistake of ours.
  nanobind::set_leak_warnings(false);
  module.attr("version") = shardstep::kVersion;
  shardstep::RegisterStatusErrors();
  shardstep::BindJob(module);
  shardstep::BindRecord(module);
  shardstep::BindOptimizer(module);
}
