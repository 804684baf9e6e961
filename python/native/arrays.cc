#include "arrays.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

namespace nb = nanobind;

constexpr nb::dlpack::dtype kBits16{static_cast<uint8_t>(nb::dlpack::dtype_code::UInt), 16, 1};
constexpr nb::dlpack::dtype kBf16{static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat), 16, 1};
constexpr nb::dlpack::dtype kFp32{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 32, 1};

std::string NameOf(nb::dlpack::dtype dtype) {
  if (dtype == kBf16) return "bf16";
  constexpr const char* kCodes[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
  return absl::StrCat(dtype.code < std::size(kCodes) ? kCodes[dtype.code] : "?", static_cast<int>(dtype.bits));
}

std::string NameOf(int device_type, int device_id) {
  if (device_type == nb::device::cpu::value) return "the CPU";
  return device_type == nb::device::cuda::value ? absl::StrCat("cuda:", device_id)
                                                : absl::StrCat("device type ", device_type);
}

bool IsContiguous(const ReadArray& array) {
  if (array.size() == 0) return true;
  int64_t stride = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != stride) return false;
    stride *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

}  // namespace

OutArray ToPython(void* data, DType dtype, absl::Span<const int64_t> shape, nb::handle owner, Gpu gpu, bool as_bits) {
  const std::vector<size_t> extents(shape.begin(), shape.end());
  const nb::dlpack::dtype bf16 = as_bits ? kBits16 : kBf16;
  return OutArray(data, extents.size(), extents.data(), owner, nullptr, dtype == DType::kFp32 ? kFp32 : bf16,
                  gpu < 0 ? nb::device::cpu::value : nb::device::cuda::value, gpu < 0 ? 0 : gpu);
}

OutArray ToPython(std::vector<float> values) {
  auto* kept = new std::vector<float>(std::move(values));
  const nb::capsule owner(kept, [](void* pointer) noexcept { delete static_cast<std::vector<float>*>(pointer); });
  const size_t size = kept->size();
  return OutArray(kept->data(), 1, &size, owner, nullptr, kFp32, nb::device::cpu::value);
}

absl::Status CheckArray(const ReadArray& array, absl::string_view what, DType dtype, int64_t elements, Gpu gpu) {
  const auto wrong = [what](absl::string_view is, absl::string_view must_be) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": is ", is, ", must be ", must_be));
  };
  const bool is_bf16 = array.dtype() == kBf16 || array.dtype() == kBits16;
  if (dtype == DType::kFp32 ? array.dtype() != kFp32 : !is_bf16) return wrong(NameOf(array.dtype()), Name(dtype));
  const int device_type = gpu < 0 ? nb::device::cpu::value : nb::device::cuda::value;
  if (array.device_type() != device_type || (gpu >= 0 && array.device_id() != gpu)) {
    return wrong(absl::StrCat("on ", NameOf(array.device_type(), array.device_id())),
                 absl::StrCat("on ", NameOf(device_type, gpu)));
  }
  if (static_cast<int64_t>(array.size()) != elements) {
    return wrong(absl::StrCat("of ", array.size(), " elements"), absl::StrCat("of ", elements));
  }
  if (!IsContiguous(array)) return wrong("not contiguous", "so, and is not copied silently");
  return absl::OkStatus();
}

}  // namespace shardstep
