#include "shardstep/tests/cuda/fake_cuda.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/tests/cuda/fake_thread.h"

namespace shardstep {
namespace {

uint64_t NextInstance() {
  static std::atomic<uint64_t> instances{0};
  return ++instances;
}

std::string Counted(size_t count, const std::string& noun) {
  return absl::StrCat(count, " ", noun, count == 1 ? "" : "s");
}

}  // namespace

FakeCuda::FakeCuda(const FakeCudaOptions& options) : options_(options), instance_(NextInstance()) {
  for (int i = 0; i < options.devices; ++i) devices_.push_back(std::make_unique<Device>());
}

FakeCuda::~FakeCuda() {
  ending_ = true;
  streams_.clear();
  all_streams_.clear();  // waits for their threads; does not hold the mutex, which these may want
  devices_.clear();
  for (const auto& [begin, allocation] : allocations_) std::free(const_cast<std::byte*>(begin));
  for (std::byte* const pointer : freed_) std::free(pointer);
}

FakeCuda::ThreadState& FakeCuda::thread() {
  thread_local std::map<uint64_t, ThreadState> states;
  return states[instance_];
}

int FakeCuda::Begin(const char* name, Traits traits, ThreadState& state) {
  if (state.number < 0) state.number = threads_++;
  const int64_t call = ++calls_[name];
  if (traits.blocks) ++blocking_calls_;
  if (state.in_host_function) return Misuse(absl::StrCat(name, " in a host function"), kNotPermitted);
  const auto fault =
      std::find_if(faults_.begin(), faults_.end(), [&](const Fault& f) { return f.name == name && f.call == call; });
  if (fault != faults_.end()) return fault->error;
  if (state.device >= static_cast<int>(devices_.size())) return kNoDevice;
  if (const int error = devices_[state.device]->error; error != kSuccess) return error;
  const auto captures = captures_.find(state.number);
  if ((traits.blocks || traits.unsafe) && captures != captures_.end() && !captures->second.empty()) {
    for (const auto& capture : captures->second) capture->invalidated = true;
    return kStreamCaptureUnsupported;
  }
  return kSuccess;
}

int FakeCuda::Misuse(const std::string& text, int error) {
  misuses_.push_back(text);
  return error;
}

void* FakeCuda::NewHandle() { return reinterpret_cast<void*>(0xcafe0000 + 16 * ++handles_); }

// ---- For tests -----------------------------------------------------------------------------------------------------

void FakeCuda::FailCall(const std::string& name, int nth, int error) {
  MutexLock lock(&mutex_);
  faults_.push_back({name, calls_[name] + nth, error});
}

void FakeCuda::FailDevice(int device, int error) { devices_[device]->error = error; }

int64_t FakeCuda::calls(const std::string& name) {
  MutexLock lock(&mutex_);
  const auto found = calls_.find(name);
  return found == calls_.end() ? 0 : found->second;
}

int64_t FakeCuda::blocking_calls() {
  MutexLock lock(&mutex_);
  return blocking_calls_;
}

std::string FakeCuda::leaks() {
  MutexLock lock(&mutex_);
  std::map<int, std::pair<size_t, int64_t>> by_device;
  for (const auto& [begin, allocation] : allocations_) {
    ++by_device[allocation.device].first;
    by_device[allocation.device].second += allocation.size_bytes;
  }
  std::vector<std::string> left;
  for (const auto& [device, sum] : by_device) {
    const std::string where = device < 0 ? " of pinned memory" : absl::StrCat(" of device ", device);
    left.push_back(absl::StrCat(Counted(sum.first, "allocation"), where, " (", sum.second, " bytes)"));
  }
  if (!streams_.empty()) left.push_back(Counted(streams_.size(), "stream"));
  if (!events_.empty()) left.push_back(Counted(events_.size(), "event"));
  if (!graphs_.empty()) left.push_back(Counted(graphs_.size(), "graph"));
  return absl::StrJoin(left, ", ");
}

std::vector<std::string> FakeCuda::misuses() {
  MutexLock lock(&mutex_);
  return misuses_;
}

std::map<std::string, int64_t> FakeCuda::ranges() {
  MutexLock lock(&mutex_);
  return ranges_;
}

// ---- The happens-before check --------------------------------------------------------------------------------------

void FakeCuda::BeginPhase(const std::string& phase) {
  thread().phase = phase;
  thread().waits = 0;
}

void FakeCuda::HostAccess(const std::string& name, std::vector<MemoryAccess> accesses) {
  if (!options_.record) return;
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  if (state.number < 0) state.number = threads_++;
  recorder_.HostAccess(state.number, name, std::move(accesses));
}

void FakeCuda::HostsMeet() {
  MutexLock lock(&mutex_);
  recorder_.HostsMeet();
}

std::set<std::string> FakeCuda::waits() {
  MutexLock lock(&mutex_);
  return recorder_.recording().keys();
}

std::vector<std::string> FakeCuda::Problems(const std::set<std::string>& without) {
  MutexLock lock(&mutex_);
  return recorder_.recording().Problems(without);
}

int FakeCuda::access_count() {
  MutexLock lock(&mutex_);
  return recorder_.recording().access_count();
}

void FakeCuda::RecordHostWait(const char* name, const std::vector<int>& items) {
  if (!options_.record) return;
  MutexLock lock(&mutex_);
  recorder_.HostWait(thread().number, name, items);
}

std::string FakeCuda::WaitName(ThreadState& state) {
  if (state.phase.empty()) return absl::StrCat("wait ", wait_calls_ - 1);
  return absl::StrCat(state.phase, " wait ", state.waits++);
}

// ---- Devices -------------------------------------------------------------------------------------------------------

std::string FakeCuda::ErrorText(int error) {
  switch (error) {
    case kSuccess:
      return "cudaSuccess: no error";
    case kMemoryAllocation:
      return "cudaErrorMemoryAllocation: out of memory";
    case kInsufficientDriver:
      return "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version";
    case kNoDevice:
      return "cudaErrorNoDevice: no CUDA-capable device is detected";
    case kIllegalAddress:
      return "cudaErrorIllegalAddress: an illegal memory access was encountered";
    default:
      return absl::StrCat("fake error ", error);
  }
}

int FakeCuda::GetDeviceCount(int* count) {
  MutexLock lock(&mutex_);
  const int error = Begin("GetDeviceCount", {}, thread());
  if (error == kSuccess) *count = static_cast<int>(devices_.size());
  return error;
}

int FakeCuda::SetDevice(int device) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  const int error = Begin("SetDevice", {}, state);
  // The error of another device is none of this call's.
  const bool is_sticky = state.device < static_cast<int>(devices_.size()) && error == devices_[state.device]->error;
  if (error != kSuccess && !is_sticky) return error;
  if (device < 0 || device >= static_cast<int>(devices_.size())) return kInvalidDevice;
  state.device = device;
  return kSuccess;
}

int FakeCuda::GetDeviceProperties(int device, CudaDeviceProperties* properties) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("GetDeviceProperties", {}, thread()); error != kSuccess) return error;
  if (device < 0 || device >= static_cast<int>(devices_.size())) return kInvalidDevice;
  *properties = static_cast<size_t>(device) < options_.properties.size()
                    ? options_.properties[static_cast<size_t>(device)]
                    : CudaDeviceProperties{.name = "Fake GPU", .major = 9, .minor = 0};
  if (properties->multiprocessors == 0) properties->multiprocessors = 4;
  if (properties->uuid.empty()) properties->uuid = absl::StrCat("GPU-fake-", device);
  properties->memory_bytes = options_.device_memory_bytes;
  return kSuccess;
}

int FakeCuda::MemGetInfo(int64_t* free_bytes, int64_t* total_bytes) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("MemGetInfo", {}, thread()); error != kSuccess) return error;
  *total_bytes = options_.device_memory_bytes;
  *free_bytes = *total_bytes - devices_[thread().device]->used_bytes;
  return kSuccess;
}

int FakeCuda::DeviceSynchronize() {
  {
    MutexLock lock(&mutex_);
    if (const int error = Begin("DeviceSynchronize", {.blocks = true}, thread()); error != kSuccess) return error;
  }
  WaitForDevice(thread().device);
  return devices_[thread().device]->error;
}

void FakeCuda::WaitForDevice(int device) {
  std::vector<std::shared_ptr<FakeMark>> marks;
  std::vector<int> items;
  {
    MutexLock lock(&mutex_);
    for (const auto& stream : all_streams_) {
      if (stream->device != device) continue;
      marks.push_back(PushMark(*stream));
      items.push_back(recorder_.Last(stream->id));
    }
  }
  for (const auto& mark : marks) mark->Wait();
  RecordHostWait("wait for the device", items);
}

void FakeCuda::RangePush(const char* name) {
  MutexLock lock(&mutex_);
  ++ranges_[name];
  ++thread().open_ranges;
}

void FakeCuda::RangePop() {
  MutexLock lock(&mutex_);
  if (--thread().open_ranges < 0) Misuse("RangePop without RangePush", kSuccess);
}

}  // namespace shardstep
