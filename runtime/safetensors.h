#ifndef SHARDSTEP_RUNTIME_SAFETENSORS_H_
#define SHARDSTEP_RUNTIME_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shardstep/comm/status.h"

namespace shardstep {

/// One tensor of a safetensors file. Offsets are in bytes from the end of the header, half-open.
struct SafetensorsTensor {
  std::string name;
  std::string dtype;  ///< "F32", "BF16", ...
  std::vector<int64_t> shape;
  int64_t begin_byte = 0;
  int64_t end_byte = 0;

  bool operator==(const SafetensorsTensor&) const = default;
};

/// What stands in front of the data.
struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsTensor> tensors;  ///< in the order of the data

  bool operator==(const SafetensorsHeader&) const = default;
};

/// Files begin with the length of the JSON text in so many bytes.
inline constexpr int64_t kSafetensorsLengthBytes = 8;
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 64 << 20;

/// Length and JSON text, with spaces so that the data begin at a multiple of 64. Names are valid UTF-8.
std::string EncodeSafetensorsHeader(const SafetensorsHeader& header);

/// Bytes of the length and the JSON text together, from the first 8 bytes of a file of `file_bytes`. DataLoss when
/// that is more than the file, or more than kMaxSafetensorsHeaderBytes.
absl::StatusOr<int64_t> SafetensorsHeaderBytes(absl::string_view first_bytes, int64_t file_bytes);

/// Parses the JSON text of a file with `data_bytes` of data. DataLoss, naming the key, unless it is exactly such an
/// object: no unknown, missing or repeated field, offsets that agree with dtype and shape, no overlap, no gap, nothing
/// beyond the data. Memory is a small multiple of the text, whatever it says.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json, int64_t data_bytes);

/// Bytes of one element, or 0 for a dtype that is not known.
int64_t SafetensorsDtypeBytes(absl::string_view dtype);

/// What JSON text can hold: valid UTF-8.
bool IsUtf8(absl::string_view text);

}  // namespace shardstep

#endif  // SHARDSTEP_RUNTIME_SAFETENSORS_H_
