#include "shardstep/runtime/cuda_backend.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/version.h"

namespace shardstep {
namespace {

constexpr char kLibrary[] = "libshardstep_cuda.so";

std::string LastLoaderError() {
  const char* const text = dlerror();
  return text == nullptr ? "no reason given" : text;
}

// What the function of that name in `library` returns.
template <typename T>
absl::StatusOr<T*> Call(void* library, const char* name) {
  auto* const function = reinterpret_cast<T* (*)()>(dlsym(library, name));
  if (function == nullptr) return absl::FailedPreconditionError(LastLoaderError());
  return function();
}

}  // namespace

absl::StatusOr<CudaBackend> GetCudaBackend(const std::string& path) {
  const std::string name = path.empty() ? kLibrary : path;
  // Never closed: what it returns lives for ever.
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("no CUDA backend: ", LastLoaderError(), "; it is built with SHARDSTEP_WITH_CUDA"));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const char* const version, Call<const char>(library, "shardstep_cuda_version"));
  if (absl::string_view(version) != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is of version ", version, ", this program of ", kVersion));
  }
  CudaBackend backend;
  SHARDSTEP_ASSIGN_OR_RETURN(backend.api, Call<CudaApi>(library, "shardstep_cuda_api"));
  SHARDSTEP_ASSIGN_OR_RETURN(backend.kernels, Call<CudaKernels>(library, "shardstep_cuda_kernels"));
  return backend;
}

}  // namespace shardstep
