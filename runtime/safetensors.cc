#include "shardstep/runtime/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_join.h"

namespace shardstep {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little endian and read in place");

using Json = nlohmann::json;
constexpr int64_t kDataAlignmentBytes = 64;
constexpr size_t kMaxDimensions = 64;

std::string Quoted(const std::string& text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); }

// Builds a header from parse events. Unlike a document tree it sees repeated keys, never nests deeper than the format
// and holds nothing that the format has no place for.
class HeaderReader : public Json::json_sax_t {
 public:
  const std::string& error() const { return error_; }
  SafetensorsHeader TakeHeader() { return std::move(header_); }

  bool null() override { return Refuse("null"); }
  bool boolean(bool) override { return Refuse("a truth value"); }
  bool number_integer(number_integer_t) override { return Refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Refuse("a number that is no 64-bit integer"); }
  bool binary(binary_t&) override { return Refuse("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) return Refuse("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return Refuse("a number above 2^63");
    std::vector<int64_t>& numbers = place_ == Place::kShape ? tensor_.shape : offsets_;
    if (numbers.size() == kMaxDimensions) return Refuse("too many numbers");
    numbers.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      return header_.metadata.emplace(key_, value).second || Refuse("a repeated key");
    }
    if (place_ != Place::kTensor || key_ != "dtype") return Refuse("a string");
    tensor_.dtype = value;
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) return Enter(Place::kTop);
    if (place_ != Place::kTop) return Refuse("an object");
    if (key_ == "__metadata__") return Enter(Place::kMetadata);
    tensor_ = SafetensorsTensor();
    tensor_.name = key_;
    offsets_.clear();
    fields_.clear();
    return Enter(Place::kTensor);
  }

  bool key(string_t& value) override {
    key_ = value;
    if (place_ == Place::kTop && key_ == "__metadata__") {
      if (has_metadata_) return Refuse("a second __metadata__");
      has_metadata_ = true;
    }
    if (place_ != Place::kTensor) return true;
    if (key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") return Refuse("an unknown field");
    if (std::find(fields_.begin(), fields_.end(), key_) != fields_.end()) return Refuse("a repeated field");
    fields_.push_back(key_);
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTop) return Enter(Place::kEnd);
    if (place_ == Place::kTensor) {
      if (fields_.size() != 3 || offsets_.size() != 2) return Refuse("not exactly dtype, shape, two data_offsets");
      tensor_.begin_byte = offsets_[0];
      tensor_.end_byte = offsets_[1];
      header_.tensors.push_back(std::move(tensor_));
    }
    return Enter(Place::kTop);
  }

  bool start_array(size_t) override {
    if (place_ == Place::kTensor && key_ == "shape") return Enter(Place::kShape);
    if (place_ == Place::kTensor && key_ == "data_offsets") return Enter(Place::kOffsets);
    return Refuse("an array");
  }
  bool end_array() override { return Enter(Place::kTensor); }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    error_ = absl::StrCat("not JSON at byte ", position);
    return false;
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool Enter(Place place) {
    place_ = place;
    return true;
  }

  bool Refuse(absl::string_view what) {
    const std::string tensor = place_ == Place::kTop ? key_ : tensor_.name;
    error_ = absl::StrCat("key \"", tensor, "\": ", what, " where none belongs");
    return false;
  }

  Place place_ = Place::kStart;
  SafetensorsHeader header_;
  bool has_metadata_ = false;
  std::string key_;
  SafetensorsTensor tensor_;
  std::vector<int64_t> offsets_;
  std::vector<std::string> fields_;
  std::string error_;
};

absl::Status CheckTensor(const SafetensorsTensor& tensor) {
  const int64_t element_bytes = SafetensorsDtypeBytes(tensor.dtype);
  if (element_bytes == 0) return absl::DataLossError(absl::StrCat("unknown dtype \"", tensor.dtype, "\""));
  if (tensor.begin_byte > tensor.end_byte) return absl::DataLossError("data_offsets run backwards");
  int64_t bytes = element_bytes;
  for (const int64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return absl::DataLossError("shape beyond 2^63 bytes");
  }
  if (bytes == tensor.end_byte - tensor.begin_byte) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("shape [", absl::StrJoin(tensor.shape, ","), "] of ", tensor.dtype, " needs ",
                                          bytes, " bytes, data_offsets give ", tensor.end_byte - tensor.begin_byte));
}

absl::Status CheckNamesDiffer(const std::vector<SafetensorsTensor>& tensors) {
  std::vector<const std::string*> names;
  names.reserve(tensors.size());
  for (const SafetensorsTensor& tensor : tensors) names.push_back(&tensor.name);
  std::sort(names.begin(), names.end(), [](const std::string* a, const std::string* b) { return *a < *b; });
  const auto twice = std::adjacent_find(names.begin(), names.end(),
                                        [](const std::string* a, const std::string* b) { return *a == *b; });
  if (twice == names.end()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("key \"", **twice, "\": twice"));
}

}  // namespace

std::string EncodeSafetensorsHeader(const SafetensorsHeader& header) {
  std::vector<std::string> members;
  members.reserve(header.tensors.size() + 1);
  if (!header.metadata.empty()) {
    members.push_back(absl::StrCat(
        "\"__metadata__\":{",
        absl::StrJoin(header.metadata, ",",
                      [](auto* out, const auto& x) { absl::StrAppend(out, Quoted(x.first), ":", Quoted(x.second)); }),
        "}"));
  }
  for (const SafetensorsTensor& tensor : header.tensors) {
    members.push_back(absl::StrCat(Quoted(tensor.name), ":{\"dtype\":", Quoted(tensor.dtype), ",\"shape\":[",
                                   absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", tensor.begin_byte, ",",
                                   tensor.end_byte, "]}"));
  }
  std::string text(static_cast<size_t>(kSafetensorsLengthBytes), '\0');
  absl::StrAppend(&text, "{", absl::StrJoin(members, ","), "}");
  text.resize((text.size() + kDataAlignmentBytes - 1) / kDataAlignmentBytes * kDataAlignmentBytes, ' ');
  const uint64_t length = text.size() - kSafetensorsLengthBytes;
  std::memcpy(text.data(), &length, sizeof(length));
  return text;
}

absl::StatusOr<int64_t> SafetensorsHeaderBytes(absl::string_view first_bytes, int64_t file_bytes) {
  uint64_t length = 0;
  if (first_bytes.size() < sizeof(length)) return absl::DataLossError("shorter than a header's length");
  std::memcpy(&length, first_bytes.data(), sizeof(length));
  if (length > kMaxSafetensorsHeaderBytes) return absl::DataLossError(absl::StrCat("header of ", length, " bytes"));
  const int64_t bytes = kSafetensorsLengthBytes + static_cast<int64_t>(length);
  if (bytes > file_bytes) {
    return absl::DataLossError(absl::StrCat("header of ", length, " bytes, file of ", file_bytes));
  }
  return bytes;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json, int64_t data_bytes) {
  // The parser takes a zero byte for the end of its input and skips a byte order mark.
  if (json.empty() || json[0] != '{' || json.find('\0') != absl::string_view::npos) {
    return absl::DataLossError("not JSON text that begins with {");
  }
  HeaderReader reader;
  if (!Json::sax_parse(json.begin(), json.end(), &reader)) {
    return absl::DataLossError(reader.error().empty() ? "header is not JSON" : reader.error());
  }
  SafetensorsHeader header = reader.TakeHeader();
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
                     return std::pair(a.begin_byte, a.end_byte) < std::pair(b.begin_byte, b.end_byte);
                   });
  int64_t end = 0;
  for (const SafetensorsTensor& tensor : header.tensors) {
    const std::string context = absl::StrCat("key \"", tensor.name, "\"");
    SHARDSTEP_RETURN_IF_ERROR(Annotate(CheckTensor(tensor), context));
    if (tensor.begin_byte != end) {
      return absl::DataLossError(absl::StrCat(context, ": ", tensor.begin_byte < end ? "overlap" : "gap", " at byte ",
                                              std::min(end, tensor.begin_byte), " of the data"));
    }
    end = tensor.end_byte;
  }
  if (end != data_bytes) {
    return absl::DataLossError(absl::StrCat("keys cover ", end, " bytes of data, the file has ", data_bytes));
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckNamesDiffer(header.tensors));
  return header;
}

int64_t SafetensorsDtypeBytes(absl::string_view dtype) {
  static constexpr std::array<std::pair<absl::string_view, int64_t>, 12> kDtypes = {{{"F64", 8},
                                                                                     {"F32", 4},
                                                                                     {"F16", 2},
                                                                                     {"BF16", 2},
                                                                                     {"I64", 8},
                                                                                     {"I32", 4},
                                                                                     {"I16", 2},
                                                                                     {"I8", 1},
                                                                                     {"U64", 8},
                                                                                     {"U32", 4},
                                                                                     {"U16", 2},
                                                                                     {"U8", 1}}};
  for (const auto& [name, bytes] : kDtypes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

bool IsUtf8(absl::string_view text) {
  // A JSON string is UTF-8 or does not parse; control characters, quotes and backslashes are escaped by Quoted.
  const std::string quoted = Quoted(std::string(text));
  const Json parsed = Json::parse(quoted, nullptr, false);
  return parsed.is_string() && parsed.get_ref<const std::string&>() == text;
}

}  // namespace shardstep
