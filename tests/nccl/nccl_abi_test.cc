// What we declare of NCCL is what nccl.h declares. Built where nccl.h is found.

#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "gtest/gtest.h"
#include "shardstep/comm/nccl/nccl_abi.h"
#include "shardstep/comm/nccl/nccl_api.h"

namespace shardstep {
namespace {

static_assert(nccl_abi::kSuccess == ncclSuccess && NcclApi::kSuccess == ncclSuccess);
static_assert(nccl_abi::kRemoteError == ncclRemoteError && NcclApi::kRemoteError == ncclRemoteError);
static_assert(nccl_abi::kInProgress == ncclInProgress && NcclApi::kInProgress == ncclInProgress);
static_assert(nccl_abi::kInt64 == ncclInt64 && nccl_abi::kUint64 == ncclUint64);
static_assert(nccl_abi::kFloat16 == ncclFloat16 && nccl_abi::kFloat32 == ncclFloat32);
static_assert(nccl_abi::kBfloat16 == ncclBfloat16);
static_assert(nccl_abi::kSum == ncclSum && nccl_abi::kMin == ncclMin);
static_assert(nccl_abi::kLeastVersion == NCCL_VERSION(2, 14, 0));

static_assert(sizeof(nccl_abi::UniqueId) == sizeof(ncclUniqueId) && sizeof(NcclId) == sizeof(ncclUniqueId));
static_assert(sizeof(ncclResult_t) == sizeof(int) && sizeof(ncclDataType_t) == sizeof(int));
static_assert(sizeof(ncclRedOp_t) == sizeof(int) && sizeof(ncclComm_t) == sizeof(void*));

static_assert(offsetof(nccl_abi::Config, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(nccl_abi::Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(nccl_abi::Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(nccl_abi::Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(nccl_abi::Config, padding) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(sizeof(nccl_abi::Config) <= sizeof(ncclConfig_t));

// A function of NCCL takes as many arguments, each of the size and kind, as we pass: enums as int, handles as pointers.
template <typename T>
using Passed = std::conditional_t<
    std::is_enum_v<T>, int,
    std::conditional_t<std::is_pointer_v<T>, const void*,
                       std::conditional_t<std::is_same_v<T, ncclUniqueId> || std::is_same_v<T, nccl_abi::UniqueId>,
                                          nccl_abi::UniqueId, T>>>;
template <typename T>
struct Signature;
template <typename Result, typename... Arguments>
struct Signature<Result (*)(Arguments...)> {
  using Type = Passed<Result> (*)(Passed<Arguments>...);
};
template <typename Ours, typename Theirs>
constexpr bool kAlike = std::is_same_v<typename Signature<Ours>::Type, typename Signature<Theirs>::Type>;

static_assert(kAlike<nccl_abi::GetVersion, decltype(&ncclGetVersion)>);
static_assert(kAlike<nccl_abi::GetUniqueId, decltype(&ncclGetUniqueId)>);
static_assert(kAlike<nccl_abi::CommInitRankConfig, decltype(&ncclCommInitRankConfig)>);
static_assert(kAlike<nccl_abi::CommGetAsyncError, decltype(&ncclCommGetAsyncError)>);
static_assert(kAlike<nccl_abi::CommOnly, decltype(&ncclCommFinalize)>);
static_assert(kAlike<nccl_abi::CommOnly, decltype(&ncclCommDestroy)>);
static_assert(kAlike<nccl_abi::CommOnly, decltype(&ncclCommAbort)>);
static_assert(kAlike<nccl_abi::GetErrorString, decltype(&ncclGetErrorString)>);
static_assert(kAlike<nccl_abi::GetLastError, decltype(&ncclGetLastError)>);
static_assert(kAlike<nccl_abi::Group, decltype(&ncclGroupStart)>);
static_assert(kAlike<nccl_abi::Group, decltype(&ncclGroupEnd)>);
static_assert(kAlike<nccl_abi::Send, decltype(&ncclSend)>);
static_assert(kAlike<nccl_abi::Recv, decltype(&ncclRecv)>);
static_assert(kAlike<nccl_abi::AllGather, decltype(&ncclAllGather)>);
static_assert(kAlike<nccl_abi::ReduceScatter, decltype(&ncclReduceScatter)>);
static_assert(kAlike<nccl_abi::AllReduce, decltype(&ncclAllReduce)>);
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
static_assert(kAlike<nccl_abi::AllToAll, decltype(&ncclAlltoAll)>);
#endif
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 7)
static_assert(kAlike<nccl_abi::CommRevoke, decltype(&ncclCommRevoke)>);
static_assert(nccl_abi::kRevokeDefault == NCCL_REVOKE_DEFAULT);
#endif

TEST(NcclAbiTest, TheConfigIsNcclsOwnAsFarAsItGoes) {
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  const nccl_abi::Config ours;
  EXPECT_EQ(ours.magic, theirs.magic);
  EXPECT_EQ(ours.size, sizeof(ours));
  EXPECT_EQ(ours.version, static_cast<unsigned int>(NCCL_VERSION(2, 14, 0)));
  EXPECT_EQ(ours.padding, NCCL_CONFIG_UNDEF_INT);
  EXPECT_EQ(ours.blocking, 0);
}

}  // namespace
}  // namespace shardstep
