#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/tests/cuda/fake_cuda.h"
#include "shardstep/tests/cuda/fake_thread.h"

namespace shardstep {
namespace {

constexpr int64_t kAlignment = 512;
constexpr int kGarbage = 0xcd;

void Copy(void* to, const void* from, int64_t size_bytes) {
  if (size_bytes > 0) std::memcpy(to, from, static_cast<size_t>(size_bytes));
}

}  // namespace

std::map<const std::byte*, FakeCuda::Allocation>::iterator FakeCuda::FindAllocation(const void* pointer) {
  const auto* const byte = static_cast<const std::byte*>(pointer);
  auto next = allocations_.upper_bound(byte);
  if (next == allocations_.begin()) return allocations_.end();
  --next;
  return byte < next->first + next->second.size_bytes ? next : allocations_.end();
}

int FakeCuda::Allocate(void** pointer, int64_t size_bytes, int device) {
  if (size_bytes < 0) return kInvalidValue;
  if (size_bytes == 0) {
    *pointer = nullptr;
    return kSuccess;
  }
  if (device >= 0 && size_bytes > options_.device_memory_bytes - devices_[device]->used_bytes) return kMemoryAllocation;
  const int64_t rounded_bytes = (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(kAlignment, static_cast<size_t>(rounded_bytes)));
  if (memory == nullptr) return kMemoryAllocation;
  std::memset(memory, kGarbage, static_cast<size_t>(size_bytes));
  allocations_[memory] = {size_bytes, device};
  if (device >= 0) devices_[device]->used_bytes += size_bytes;
  *pointer = memory;
  return kSuccess;
}

int FakeCuda::Malloc(void** pointer, int64_t size_bytes) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("Malloc", {.blocks = true}, thread()); error != kSuccess) return error;
  return Allocate(pointer, size_bytes, thread().device);
}

int FakeCuda::HostAlloc(void** pointer, int64_t size_bytes) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("HostAlloc", {.blocks = true}, thread()); error != kSuccess) return error;
  return Allocate(pointer, size_bytes, -1);
}

int FakeCuda::Free(void* pointer) { return GiveBack("Free", pointer, false); }

int FakeCuda::FreeHost(void* pointer) { return GiveBack("FreeHost", pointer, true); }

int FakeCuda::HostRegister(void* pointer, int64_t size_bytes) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("HostRegister", {.blocks = true}, thread()); error != kSuccess) return error;
  if (pointer == nullptr || size_bytes <= 0) return kInvalidValue;
  const auto* const begin = static_cast<const std::byte*>(pointer);
  const auto next = allocations_.lower_bound(begin);
  const bool overlaps =
      FindAllocation(pointer) != allocations_.end() || (next != allocations_.end() && next->first < begin + size_bytes);
  if (overlaps) return kHostMemoryAlreadyRegistered;
  allocations_[begin] = {.size_bytes = size_bytes, .registered = true};
  return kSuccess;
}

int FakeCuda::HostUnregister(void* pointer) {
  MutexLock lock(&mutex_);
  const int error = Begin("HostUnregister", {.blocks = true}, thread());
  if (error == kNotPermitted) return error;
  const auto found = allocations_.find(static_cast<const std::byte*>(pointer));
  if (found == allocations_.end() || !found->second.registered) {
    return Misuse("HostUnregister of what is not registered", kInvalidValue);
  }
  allocations_.erase(found);
  return error;
}

int FakeCuda::GiveBack(const char* call, void* pointer, bool pinned) {
  int error = kSuccess;
  int device = -1;
  {
    MutexLock lock(&mutex_);
    error = Begin(call, {.blocks = true}, thread());
    if (error == kNotPermitted || pointer == nullptr) return error;
    const auto found = allocations_.find(static_cast<const std::byte*>(pointer));
    if (found == allocations_.end()) {
      return Misuse(absl::StrCat(call, " of what is not allocated"), kInvalidValue);
    }
    device = found->second.device;
    if ((device < 0) != pinned || found->second.registered) {
      return Misuse(absl::StrCat(call, " of the other kind of memory"), kInvalidValue);
    }
  }
  // As in the runtime, whatever still runs may use it.
  for (int d = 0; d < static_cast<int>(devices_.size()); ++d) {
    if (pinned || d == device) WaitForDevice(d);
  }
  MutexLock lock(&mutex_);
  const auto found = allocations_.find(static_cast<const std::byte*>(pointer));
  if (device >= 0) devices_[device]->used_bytes -= found->second.size_bytes;
  allocations_.erase(found);
  if (options_.record) {
    freed_.push_back(static_cast<std::byte*>(pointer));
  } else {
    std::free(pointer);
  }
  return error;
}

int FakeCuda::PointerGetAttributes(const void* pointer, CudaPointerInfo* info) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("PointerGetAttributes", {}, thread()); error != kSuccess) return error;
  const auto found = FindAllocation(pointer);
  *info = {};
  if (found == allocations_.end()) {
    info->kind = CudaPointerInfo::kHost;
  } else if (found->second.device < 0) {
    *info = {CudaPointerInfo::kPinned, thread().device};
  } else {
    *info = {CudaPointerInfo::kDevice, found->second.device};
  }
  return kSuccess;
}

int FakeCuda::CheckRange(const void* pointer, int64_t size_bytes, const char* call) {
  if (size_bytes < 0) return Misuse(absl::StrCat(call, " of a negative size"), kInvalidValue);
  const auto found = FindAllocation(pointer);
  if (found == allocations_.end()) return kSuccess;
  const auto* const begin = static_cast<const std::byte*>(pointer);
  if (begin + size_bytes <= found->first + found->second.size_bytes) return kSuccess;
  return Misuse(absl::StrCat(call, " beyond the end of an allocation"), kInvalidValue);
}

int FakeCuda::Memcpy(void* to, const void* from, int64_t size_bytes) {
  int device = 0;
  {
    MutexLock lock(&mutex_);
    ThreadState& state = thread();
    device = state.device;
    const int error = Begin("Memcpy", {.blocks = true}, state);
    if (error != kSuccess) return error == kStreamCaptureUnsupported ? kStreamCaptureImplicit : error;
    for (const void* const pointer : {static_cast<const void*>(to), from}) {
      if (const int wrong = CheckRange(pointer, size_bytes, "Memcpy"); wrong != kSuccess) return wrong;
    }
    // It is ordered with no stream: ours are all non-blocking.
    if (options_.record) {
      recorder_.HostAccess(state.number, "Memcpy", {{to, size_bytes, true}, {from, size_bytes, false}});
    }
  }
  Copy(to, from, size_bytes);
  return devices_[device]->error;
}

int FakeCuda::MemcpyAsync(void* to, const void* from, int64_t size_bytes, CudaStreamHandle handle) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("MemcpyAsync", {}, state);
  if (error != kSuccess) return error;
  for (const void* const pointer : {static_cast<const void*>(to), from}) {
    if (const int wrong = CheckRange(pointer, size_bytes, "MemcpyAsync"); wrong != kSuccess) return wrong;
    if (FindAllocation(pointer) == allocations_.end()) ++blocking_calls_;
  }
  Stream* const stream = StreamToEnqueueOn(handle, "MemcpyAsync", state, &error);
  if (stream == nullptr) return error;
  Append(*stream, state, "MemcpyAsync", {{to, size_bytes, true}, {from, size_bytes, false}},
         [=] { Copy(to, from, size_bytes); });
  return kSuccess;
}

int FakeCuda::MemsetAsync(void* to, int value, int64_t size_bytes, CudaStreamHandle handle) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("MemsetAsync", {}, state);
  if (error != kSuccess) return error;
  error = CheckRange(to, size_bytes, "MemsetAsync");
  if (error == kSuccess && FindAllocation(to) == allocations_.end()) {
    error = Misuse("MemsetAsync of what is not the device's", kInvalidValue);
  }
  if (error != kSuccess) return error;
  Stream* const stream = StreamToEnqueueOn(handle, "MemsetAsync", state, &error);
  if (stream == nullptr) return error;
  Append(*stream, state, "MemsetAsync", {{to, size_bytes, true}}, [=] {
    if (size_bytes > 0) std::memset(to, value, static_cast<size_t>(size_bytes));
  });
  return kSuccess;
}

}  // namespace shardstep
