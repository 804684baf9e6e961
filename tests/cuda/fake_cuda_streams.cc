#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shardstep/tests/cuda/fake_cuda.h"
#include "shardstep/tests/cuda/fake_thread.h"

namespace shardstep {

// ---- Operations ----------------------------------------------------------------------------------------------------

FakeCuda::Stream* FakeCuda::FindStream(CudaStreamHandle stream) {
  const auto found = streams_.find(stream);
  return found == streams_.end() ? nullptr : found->second.get();
}

FakeCuda::Stream* FakeCuda::StreamToEnqueueOn(CudaStreamHandle handle, const char* call, ThreadState& state,
                                              int* error) {
  Stream* const stream = FindStream(handle);
  if (stream == nullptr) {
    *error = Misuse(absl::StrCat(call, " on an unknown stream"), kInvalidResourceHandle);
  } else if (stream->device != state.device) {
    *error = Misuse(absl::StrCat(call, " on a stream of device ", stream->device, ", current is ", state.device),
                    kInvalidResourceHandle);
  } else if (stream->capture != nullptr && stream->capture->invalidated) {
    *error = kStreamCaptureInvalidated;
  } else {
    *error = kSuccess;
  }
  return *error == kSuccess ? stream : nullptr;
}

void FakeCuda::Append(Stream& stream, ThreadState& state, const std::string& name, std::vector<MemoryAccess> accesses,
                      std::function<void()> run) {
  if (stream.capture != nullptr) {
    const int node = stream.capture->Append(name, std::move(accesses), stream.captured, std::move(run));
    stream.captured = {{node, ""}};
    return;
  }
  if (options_.record) recorder_.Operation(stream.id, state.number, name, std::move(accesses));
  Push(stream, std::move(run));
}

void FakeCuda::Push(Stream& stream, std::function<void()> run) {
  Device* const device = devices_[stream.device].get();
  stream.queue.Push([this, &stream, device, run = std::move(run)] {
    DelayRandomly(stream);
    if (device->error == kSuccess) run();
  });
}

std::shared_ptr<FakeMark> FakeCuda::PushMark(Stream& stream) {
  auto mark = std::make_shared<FakeMark>();
  stream.queue.Push([mark] { mark->Reach(); });
  return mark;
}

void FakeCuda::DelayRandomly(Stream& stream) const {
  if (options_.delay_seed == 0) return;
  const uint64_t random = stream.delays();
  if (random % 4 != 0) return;
  std::this_thread::sleep_for(std::chrono::microseconds(random / 4 % 200));
}

int FakeCuda::Enqueue(CudaStreamHandle handle, const std::string& name, std::vector<MemoryAccess> accesses,
                      std::function<void()> run) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("Enqueue", {}, state);
  if (error != kSuccess) return error;
  Stream* const stream = StreamToEnqueueOn(handle, name.c_str(), state, &error);
  if (stream != nullptr) Append(*stream, state, name, std::move(accesses), std::move(run));
  return error;
}

int FakeCuda::DeviceOf(CudaStreamHandle handle) {
  MutexLock lock(&mutex_);
  const Stream* const stream = FindStream(handle);
  return stream == nullptr ? -1 : stream->device;
}

int FakeCuda::LaunchHostFunction(CudaStreamHandle handle, void (*function)(void*), void* data) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("LaunchHostFunction", {}, state);
  if (error != kSuccess) return error;
  Stream* const stream = StreamToEnqueueOn(handle, "LaunchHostFunction", state, &error);
  if (stream == nullptr) return error;
  Device* const device = devices_[stream->device].get();
  Append(*stream, state, "LaunchHostFunction", {},
         [this, device, function, data] { RunHostFunction(*device, [=] { function(data); }); });
  return kSuccess;
}

void FakeCuda::RunHostFunction(Device& device, const std::function<void()>& function) {
  const auto done = std::make_shared<FakeMark>();
  {
    MutexLock lock(&device.host_functions_mutex);
    device.host_functions.Push([this, done, function] {
      thread().in_host_function = true;
      function();
      done->Reach();
    });
  }
  done->Wait();
}

int FakeCuda::StreamWaitValue(CudaStreamHandle handle, const uint32_t* word, uint32_t value) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("StreamWaitValue", {}, state);
  if (error != kSuccess) return error;
  const auto allocation = FindAllocation(word);
  if (allocation == allocations_.end() || allocation->second.device >= 0) {
    return Misuse("StreamWaitValue for what is not pinned memory", kInvalidValue);
  }
  Stream* const stream = StreamToEnqueueOn(handle, "StreamWaitValue", state, &error);
  if (stream == nullptr) return error;
  if (stream->capture != nullptr) {
    stream->capture->invalidated = true;
    return kStreamCaptureUnsupported;
  }
  if (options_.record) recorder_.StreamWaitValue(stream->id, state.number, word, value);
  Device* const device = devices_[stream->device].get();
  Push(*stream, [this, device, word, value] {
    const std::atomic_ref<uint32_t> current(*const_cast<uint32_t*>(word));
    while (static_cast<int32_t>(current.load(std::memory_order_acquire) - value) < 0) {
      if (ending_ || device->error != kSuccess) return;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  });
  return kSuccess;
}

void FakeCuda::Signal(uint32_t* word, uint32_t value) {
  if (options_.record) {
    MutexLock lock(&mutex_);
    ThreadState& state = thread();
    if (state.number < 0) state.number = threads_++;
    recorder_.Signal(state.number, word, value);
  }
  std::atomic_ref<uint32_t>(*word).store(value, std::memory_order_release);
}

// ---- Streams -------------------------------------------------------------------------------------------------------

int FakeCuda::StreamCreate(CudaStreamHandle* handle) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("StreamCreate", {}, thread()); error != kSuccess) return error;
  auto stream = std::make_shared<Stream>();
  stream->id = static_cast<int>(all_streams_.size());
  stream->device = thread().device;
  stream->delays.seed(options_.delay_seed + static_cast<uint64_t>(stream->id));
  all_streams_.push_back(stream);
  *handle = NewHandle();
  streams_[*handle] = std::move(stream);
  return kSuccess;
}

int FakeCuda::StreamDestroy(CudaStreamHandle handle) {
  MutexLock lock(&mutex_);
  const int error = Begin("StreamDestroy", {}, thread());
  if (error == kNotPermitted) return error;
  const Stream* const stream = FindStream(handle);
  if (stream == nullptr) return Misuse("StreamDestroy of an unknown stream", kInvalidResourceHandle);
  if (stream->capture != nullptr) Misuse("StreamDestroy of a stream that captures", kSuccess);
  streams_.erase(handle);  // what is queued still runs
  return error;
}

int FakeCuda::StreamSynchronize(CudaStreamHandle handle) {
  std::shared_ptr<FakeMark> mark;
  int item = FakeRecorder::kNothing;
  Device* device = nullptr;
  {
    MutexLock lock(&mutex_);
    if (const int error = Begin("StreamSynchronize", {.blocks = true}, thread()); error != kSuccess) return error;
    Stream* const stream = FindStream(handle);
    if (stream == nullptr) return Misuse("StreamSynchronize of an unknown stream", kInvalidResourceHandle);
    if (stream->capture != nullptr) {
      stream->capture->invalidated = true;
      return kStreamCaptureUnsupported;
    }
    mark = PushMark(*stream);
    item = recorder_.Last(stream->id);
    device = devices_[stream->device].get();
  }
  mark->Wait();
  RecordHostWait("StreamSynchronize", {item});
  return device->error;
}

// ---- Events --------------------------------------------------------------------------------------------------------

FakeCuda::Event* FakeCuda::FindEvent(CudaEventHandle event) {
  const auto found = events_.find(event);
  return found == events_.end() ? nullptr : &found->second;
}

int FakeCuda::EventCreate(CudaEventHandle* event, bool timing) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("EventCreate", {}, thread()); error != kSuccess) return error;
  *event = NewHandle();
  events_[*event] = Event{.device = thread().device, .timing = timing};
  return kSuccess;
}

int FakeCuda::EventDestroy(CudaEventHandle event) {
  MutexLock lock(&mutex_);
  const int error = Begin("EventDestroy", {}, thread());
  if (error == kNotPermitted) return error;
  if (events_.erase(event) == 0) return Misuse("EventDestroy of an unknown event", kInvalidResourceHandle);
  return error;
}

int FakeCuda::EventRecord(CudaEventHandle handle, CudaStreamHandle stream_handle) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("EventRecord", {}, state);
  if (error != kSuccess) return error;
  Event* const event = FindEvent(handle);
  if (event == nullptr) return Misuse("EventRecord of an unknown event", kInvalidResourceHandle);
  Stream* const stream = StreamToEnqueueOn(stream_handle, "EventRecord", state, &error);
  if (stream == nullptr) return error;
  if (event->device != stream->device) return Misuse("EventRecord on another device", kInvalidResourceHandle);
  event->capture = stream->capture;
  event->captured = stream->captured;
  event->mark = stream->capture == nullptr ? PushMark(*stream) : nullptr;
  event->item = recorder_.Last(stream->id);
  return kSuccess;
}

int FakeCuda::StreamWaitEvent(CudaStreamHandle stream_handle, CudaEventHandle event_handle) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  if (const int error = Begin("StreamWaitEvent", {}, state); error != kSuccess) return error;
  Stream* const stream = FindStream(stream_handle);
  const Event* const event = FindEvent(event_handle);
  if (stream == nullptr) return Misuse("StreamWaitEvent on an unknown stream", kInvalidResourceHandle);
  if (event == nullptr) return Misuse("StreamWaitEvent for an unknown event", kInvalidResourceHandle);
  const bool ignored = wait_calls_++ == options_.ignored_wait;
  const std::string name = WaitName(state);
  if (ignored) return kSuccess;
  if (stream->capture != nullptr || event->capture != nullptr) return WaitInCapture(*stream, *event, name);
  if (event->mark == nullptr) return kSuccess;  // never recorded
  if (options_.record) recorder_.StreamWait(stream->id, state.number, event->item, name);
  stream->queue.Push([mark = event->mark] { mark->Wait(); });
  return kSuccess;
}

int FakeCuda::EventQuery(CudaEventHandle handle) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("EventQuery", {.unsafe = true}, thread()); error != kSuccess) return error;
  const Event* const event = FindEvent(handle);
  if (event == nullptr) return Misuse("EventQuery of an unknown event", kInvalidResourceHandle);
  if (event->capture != nullptr) {
    event->capture->invalidated = true;
    return kCapturedEvent;
  }
  if (event->mark != nullptr && !event->mark->reached()) return kNotReady;
  if (options_.record) recorder_.HostWait(thread().number, "EventQuery", {event->item});
  return devices_[event->device]->error;
}

int FakeCuda::EventSynchronize(CudaEventHandle handle) {
  std::shared_ptr<FakeMark> mark;
  int item = FakeRecorder::kNothing;
  Device* device = nullptr;
  {
    MutexLock lock(&mutex_);
    if (const int error = Begin("EventSynchronize", {.blocks = true}, thread()); error != kSuccess) return error;
    const Event* const event = FindEvent(handle);
    if (event == nullptr) return Misuse("EventSynchronize of an unknown event", kInvalidResourceHandle);
    if (event->capture != nullptr) {
      event->capture->invalidated = true;
      return kCapturedEvent;
    }
    mark = event->mark;
    item = event->item;
    device = devices_[event->device].get();
  }
  if (mark != nullptr) mark->Wait();
  RecordHostWait("EventSynchronize", {item});
  return device->error;
}

int FakeCuda::EventElapsedMs(float* milliseconds, CudaEventHandle begin_handle, CudaEventHandle end_handle) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("EventElapsedMs", {}, thread()); error != kSuccess) return error;
  const Event* const begin = FindEvent(begin_handle);
  const Event* const end = FindEvent(end_handle);
  if (begin == nullptr || end == nullptr || begin->mark == nullptr || end->mark == nullptr || !begin->timing ||
      !end->timing) {
    return Misuse("EventElapsedMs of events without times", kInvalidResourceHandle);
  }
  if (!begin->mark->reached() || !end->mark->reached()) return kNotReady;
  *milliseconds = static_cast<float>(end->mark->milliseconds() - begin->mark->milliseconds());
  return kSuccess;
}

}  // namespace shardstep
