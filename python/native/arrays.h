#ifndef SHARDSTEP_PYTHON_NATIVE_ARRAYS_H_
#define SHARDSTEP_PYTHON_NATIVE_ARRAYS_H_

/// Memory of the library in Python, and of Python in the library, by DLPack: never copied on the way.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "shardstep/comm/dtype.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// What Python gets: it has __dlpack__ and, on CPUs, Python's buffer protocol.
using OutArray = nanobind::ndarray<nanobind::array_api>;
/// What Python gives: anything that has one of them; to be written too, and only to be read.
using WrittenArray = nanobind::ndarray<>;
using ReadArray = nanobind::ndarray<nanobind::ro>;

/// Where memory is: a GPU's number, or -1 for the host.
using Gpu = int;

/// Contiguous `data` of `shape`, which `owner` keeps. With `as_bits` bf16 is uint16, for those that know no bf16.
OutArray ToPython(void* data, DType dtype, absl::Span<const int64_t> shape, nanobind::handle owner, Gpu gpu,
                  bool as_bits);
/// fp32 on the host, one-dimensional; its own.
OutArray ToPython(std::vector<float> values);

/// InvalidArgument names `what` and the first that is wrong: dtype, device, elements, contiguity. uint16 passes for
/// bf16.
absl::Status CheckArray(const ReadArray& array, absl::string_view what, DType dtype, int64_t elements, Gpu gpu);

}  // namespace shardstep

#endif  // SHARDSTEP_PYTHON_NATIVE_ARRAYS_H_
