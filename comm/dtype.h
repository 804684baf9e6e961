#ifndef SHARDSTEP_COMM_DTYPE_H_
#define SHARDSTEP_COMM_DTYPE_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace shardstep {

/// What weights, gradients and sums are made of. kFp16 exists to be refused by name.
enum class DType { kBf16, kFp32, kFp16 };

inline constexpr int64_t SizeBytes(DType dtype) { return dtype == DType::kFp32 ? 4 : 2; }

inline constexpr absl::string_view Name(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return "bf16";
    case DType::kFp32:
      return "fp32";
    case DType::kFp16:
      return "fp16";
  }
  return "?";
}

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_DTYPE_H_
