#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <utility>

#include "shardstep/comm/nccl/nccl_abi.h"
#include "shardstep/comm/nccl/nccl_api.h"

namespace shardstep {
namespace {

int NcclType(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return nccl_abi::kBfloat16;
    case DType::kFp32:
      return nccl_abi::kFloat32;
    case DType::kFp16:
      return nccl_abi::kFloat16;
  }
  return -1;
}

struct Functions {
  nccl_abi::GetVersion get_version = nullptr;
  nccl_abi::GetUniqueId get_unique_id = nullptr;
  nccl_abi::CommInitRankConfig comm_init_rank_config = nullptr;
  nccl_abi::CommGetAsyncError comm_get_async_error = nullptr;
  nccl_abi::CommOnly comm_finalize = nullptr;
  nccl_abi::CommOnly comm_destroy = nullptr;
  nccl_abi::CommOnly comm_abort = nullptr;
  nccl_abi::GetErrorString get_error_string = nullptr;
  nccl_abi::Group group_start = nullptr;
  nccl_abi::Group group_end = nullptr;
  nccl_abi::Send send = nullptr;
  nccl_abi::Recv recv = nullptr;
  nccl_abi::AllGather all_gather = nullptr;
  nccl_abi::ReduceScatter reduce_scatter = nullptr;
  nccl_abi::AllReduce all_reduce = nullptr;
  // Not in every version.
  nccl_abi::GetLastError get_last_error = nullptr;
  nccl_abi::AllToAll all_to_all = nullptr;
  nccl_abi::CommRevoke comm_revoke = nullptr;
};

class LoadedNccl final : public NcclApi {
 public:
  LoadedNccl(const Functions& functions, std::string version) : f_(functions), version_(std::move(version)) {}

  std::string Version() override { return version_; }
  bool HasAllToAll() override { return f_.all_to_all != nullptr; }
  bool HasRevoke() override { return f_.comm_revoke != nullptr; }

  std::string ErrorText(int result, NcclHandle communicator) override {
    const char* const meaning = f_.get_error_string(result);
    std::string text = meaning == nullptr ? absl::StrCat("ncclResult_t ", result) : std::string(meaning);
    const char* const last = f_.get_last_error == nullptr ? nullptr : f_.get_last_error(communicator);
    if (last != nullptr && *last != '\0') absl::StrAppend(&text, " (", last, ")");
    return text;
  }

  int GetUniqueId(NcclId* id) override {
    nccl_abi::UniqueId unique{};
    const int result = f_.get_unique_id(&unique);
    std::memcpy(id->data(), unique.internal, id->size());
    return result;
  }
  int CommInitRank(NcclHandle* communicator, int world_size, const NcclId& id, int rank) override {
    nccl_abi::UniqueId unique{};
    std::memcpy(unique.internal, id.data(), id.size());
    nccl_abi::Config config;
    return f_.comm_init_rank_config(communicator, world_size, unique, rank, &config);
  }
  int CommGetAsyncError(NcclHandle communicator, int* result) override {
    return f_.comm_get_async_error(communicator, result);
  }
  int CommFinalize(NcclHandle communicator) override { return f_.comm_finalize(communicator); }
  int CommDestroy(NcclHandle communicator) override { return f_.comm_destroy(communicator); }
  int CommRevoke(NcclHandle communicator) override { return f_.comm_revoke(communicator, nccl_abi::kRevokeDefault); }
  int CommAbort(NcclHandle communicator) override { return f_.comm_abort(communicator); }

  int GroupStart() override { return f_.group_start(); }
  int GroupEnd() override { return f_.group_end(); }
  int Send(const void* from, int64_t count, DType dtype, int peer, NcclHandle communicator,
           CudaStreamHandle stream) override {
    return f_.send(from, static_cast<size_t>(count), NcclType(dtype), peer, communicator, stream);
  }
  int Recv(void* to, int64_t count, DType dtype, int peer, NcclHandle communicator, CudaStreamHandle stream) override {
    return f_.recv(to, static_cast<size_t>(count), NcclType(dtype), peer, communicator, stream);
  }
  int AllToAll(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
               CudaStreamHandle stream) override {
    return f_.all_to_all(from, to, static_cast<size_t>(count), NcclType(dtype), communicator, stream);
  }
  int AllGather(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                CudaStreamHandle stream) override {
    return f_.all_gather(from, to, static_cast<size_t>(count), NcclType(dtype), communicator, stream);
  }
  int ReduceScatterSum(const void* from, void* to, int64_t count, DType dtype, NcclHandle communicator,
                       CudaStreamHandle stream) override {
    return f_.reduce_scatter(from, to, static_cast<size_t>(count), NcclType(dtype), nccl_abi::kSum, communicator,
                             stream);
  }
  int AllReduceSum(const int64_t* from, int64_t* to, int64_t count, NcclHandle communicator,
                   CudaStreamHandle stream) override {
    return f_.all_reduce(from, to, static_cast<size_t>(count), nccl_abi::kInt64, nccl_abi::kSum, communicator, stream);
  }
  int AllReduceMin(const uint64_t* from, uint64_t* to, int64_t count, NcclHandle communicator,
                   CudaStreamHandle stream) override {
    return f_.all_reduce(from, to, static_cast<size_t>(count), nccl_abi::kUint64, nccl_abi::kMin, communicator, stream);
  }

 private:
  const Functions f_;
  const std::string version_;
};

/// The functions of one opened library by their names; remembers the first one that is not there.
class Symbols {
 public:
  explicit Symbols(void* library) : library_(library) {}

  template <typename Function>
  void Find(const char* name, Function* function) {
    FindOptional(name, function);
    if (*function == nullptr && missing_.empty()) missing_ = name;
  }
  template <typename Function>
  void FindOptional(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(library_, name));
  }
  const std::string& missing() const { return missing_; }

 private:
  void* const library_;
  std::string missing_;
};

std::string FindFunctions(void* library, Functions* f) {
  Symbols symbols(library);
  symbols.Find("ncclGetVersion", &f->get_version);
  symbols.Find("ncclGetUniqueId", &f->get_unique_id);
  symbols.Find("ncclCommInitRankConfig", &f->comm_init_rank_config);
  symbols.Find("ncclCommGetAsyncError", &f->comm_get_async_error);
  symbols.Find("ncclCommFinalize", &f->comm_finalize);
  symbols.Find("ncclCommDestroy", &f->comm_destroy);
  symbols.Find("ncclCommAbort", &f->comm_abort);
  symbols.Find("ncclGetErrorString", &f->get_error_string);
  symbols.Find("ncclGroupStart", &f->group_start);
  symbols.Find("ncclGroupEnd", &f->group_end);
  symbols.Find("ncclSend", &f->send);
  symbols.Find("ncclRecv", &f->recv);
  symbols.Find("ncclAllGather", &f->all_gather);
  symbols.Find("ncclReduceScatter", &f->reduce_scatter);
  symbols.Find("ncclAllReduce", &f->all_reduce);
  symbols.FindOptional("ncclGetLastError", &f->get_last_error);
  symbols.FindOptional("ncclAlltoAll", &f->all_to_all);
  symbols.FindOptional("ncclCommRevoke", &f->comm_revoke);
  return symbols.missing();
}

// NCCL_VERSION: 2.8 and before 2804, later 21805.
std::string VersionText(int version) {
  const int thousands = version < 10'000 ? 1000 : 10'000;
  return absl::StrCat(version / thousands, ".", version % thousands / 100, ".", version % 100);
}

absl::StatusOr<std::unique_ptr<NcclApi>> MakeTable(void* library, const std::string& name) {
  Functions functions;
  const std::string missing = FindFunctions(library, &functions);
  int version = 0;
  const bool knows_version = functions.get_version != nullptr && functions.get_version(&version) == nccl_abi::kSuccess;
  // An old library lacks functions too; its version says more.
  if (knows_version && version < nccl_abi::kLeastVersion) {
    return absl::FailedPreconditionError(absl::StrCat("NCCL: ", name, " is version ", VersionText(version), ", ",
                                                      VersionText(nccl_abi::kLeastVersion), " or later is needed"));
  }
  if (!missing.empty()) return absl::FailedPreconditionError(absl::StrCat("NCCL: ", name, " has no ", missing));
  if (!knows_version) return absl::FailedPreconditionError(absl::StrCat("NCCL: ", name, " does not tell its version"));
  return std::make_unique<LoadedNccl>(functions, VersionText(version));
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclApi>> LoadNccl(const std::string& path) {
  const std::string name = path.empty() ? "libnccl.so.2" : path;
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = dlerror();
    return absl::NotFoundError(absl::StrCat("NCCL: ", name, ": ", reason == nullptr ? "cannot be loaded" : reason));
  }
  absl::StatusOr<std::unique_ptr<NcclApi>> table = MakeTable(library, name);
  if (!table.ok()) dlclose(library);
  return table;
}

}  // namespace shardstep
