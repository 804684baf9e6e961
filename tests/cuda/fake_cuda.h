#ifndef SHARDSTEP_TESTS_CUDA_FAKE_CUDA_H_
#define SHARDSTEP_TESTS_CUDA_FAKE_CUDA_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "shardstep/comm/cuda/cuda_api.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/tests/cuda/fake_capture.h"
#include "shardstep/tests/cuda/fake_queue.h"
#include "shardstep/tests/cuda/fake_recorder.h"

namespace shardstep {

struct FakeCudaOptions {
  int devices = 1;
  int64_t device_memory_bytes = int64_t{1} << 30;
  /// Of the first devices; the others are "Fake GPU" of capability 9.0. Memory and uuid are filled in.
  std::vector<CudaDeviceProperties> properties;
  /// Not 0: random delays before operations, and graphs run in a random order that their edges allow.
  uint64_t delay_seed = 0;
  bool record = false;
  /// The number, from 0, of the call of StreamWaitEvent that does nothing.
  int64_t ignored_wait = -1;
};

/// The CUDA runtime on the host: every stream is a thread, device memory is host memory (filled with garbage) that
/// remembers its device. It keeps the runtime's rules and is stricter where the real one only may go wrong: enqueuing
/// needs the stream's device to be current, host functions of a device run one at a time and may make no call at all,
/// and between streams nothing is ordered but by events, so that ThreadSanitizer finds a missing wait. See
/// fake_cuda_test.cc.
///
/// Not here: the legacy default stream (a null handle is an error), peer access (devices reach each other's memory).
/// Destruction finishes all streams; those that wait for a word go on.
class FakeCuda : public CudaApi {
 public:
  /// Errors by their names in the runtime.
  static constexpr int kInvalidValue = 1;
  static constexpr int kInvalidDevice = 101;
  static constexpr int kInvalidResourceHandle = 400;
  static constexpr int kIllegalState = 401;
  static constexpr int kIllegalAddress = 700;
  static constexpr int kNotPermitted = 800;
  static constexpr int kStreamCaptureUnsupported = 900;
  static constexpr int kStreamCaptureInvalidated = 901;
  static constexpr int kStreamCaptureMerge = 902;
  static constexpr int kStreamCaptureUnmatched = 903;
  static constexpr int kStreamCaptureUnjoined = 904;
  static constexpr int kStreamCaptureIsolation = 905;
  static constexpr int kStreamCaptureImplicit = 906;
  static constexpr int kCapturedEvent = 907;
  static constexpr int kStreamCaptureWrongThread = 908;

  explicit FakeCuda(const FakeCudaOptions& options = {});
  ~FakeCuda() override;

  // ---- For tests: kernels, faults, what happened. Threads: any.

  /// What a kernel launch or a collective does: `run` on the stream's thread, which may block there. `accesses` are for
  /// the recorder. Captured like any operation. A cudaError_t.
  int Enqueue(CudaStreamHandle stream, const std::string& name, std::vector<MemoryAccess> accesses,
              std::function<void()> run);
  /// -1: no such stream.
  int DeviceOf(CudaStreamHandle stream);

  /// The `nth` call of `name` ("Malloc") from now on, counted from 1, returns `error` and does nothing, but for calls
  /// that give something back: these do, and return it all the same.
  void FailCall(const std::string& name, int nth, int error);
  /// As when a kernel faults: what is enqueued on `device` no longer runs, every call that concerns it returns `error`,
  /// events count as reached.
  void FailDevice(int device, int error);

  /// Calls so far of `name`.
  int64_t calls(const std::string& name);
  /// Calls so far that block the host or may: Synchronize of all kinds, Memcpy, Malloc, Free, HostAlloc, FreeHost,
  /// HostRegister, HostUnregister, and asynchronous copies of pageable host memory.
  int64_t blocking_calls();
  /// "1 allocation of device 0 (1024 bytes), 2 streams, 1 event"; empty when nothing is left.
  std::string leaks();
  /// What was wrong in the use of the runtime, call by call: freed twice, unknown handles, ranges beyond an allocation.
  std::vector<std::string> misuses();
  /// How often RangePush was called, by name.
  std::map<std::string, int64_t> ranges();

  // ---- The happens-before check, with options.record.

  /// Names the StreamWaitEvents of the calling thread from here on: "`phase` wait 0", 1, ... What is called once per
  /// step under one phase gives the same names in every step, and on every rank.
  void BeginPhase(const std::string& phase);
  /// Memory that the host touches by itself, on the calling thread.
  void HostAccess(const std::string& name, std::vector<MemoryAccess> accesses);
  /// Host threads have met (a barrier, a join): see FakeRecorder.
  void HostsMeet();
  /// The names of all waits, for Problems.
  std::set<std::string> waits();
  /// Races, as if the waits of these names did not exist.
  std::vector<std::string> Problems(const std::set<std::string>& without = {});
  int access_count();

  // ---- CudaApi.

  std::string ErrorText(int error) override;
  int GetDeviceCount(int* count) override;
  int SetDevice(int device) override;
  int GetDeviceProperties(int device, CudaDeviceProperties* properties) override;
  int MemGetInfo(int64_t* free_bytes, int64_t* total_bytes) override;
  int DeviceSynchronize() override;
  int Malloc(void** pointer, int64_t size_bytes) override;
  int Free(void* pointer) override;
  int HostAlloc(void** pointer, int64_t size_bytes) override;
  int FreeHost(void* pointer) override;
  int HostRegister(void* pointer, int64_t size_bytes) override;
  int HostUnregister(void* pointer) override;
  int PointerGetAttributes(const void* pointer, CudaPointerInfo* info) override;
  int Memcpy(void* to, const void* from, int64_t size_bytes) override;
  int MemcpyAsync(void* to, const void* from, int64_t size_bytes, CudaStreamHandle stream) override;
  int MemsetAsync(void* to, int value, int64_t size_bytes, CudaStreamHandle stream) override;
  int StreamCreate(CudaStreamHandle* stream) override;
  int StreamDestroy(CudaStreamHandle stream) override;
  int StreamSynchronize(CudaStreamHandle stream) override;
  int StreamWaitEvent(CudaStreamHandle stream, CudaEventHandle event) override;
  int StreamWaitValue(CudaStreamHandle stream, const uint32_t* word, uint32_t value) override;
  void Signal(uint32_t* word, uint32_t value) override;
  int LaunchHostFunction(CudaStreamHandle stream, void (*function)(void*), void* data) override;
  int EventCreate(CudaEventHandle* event, bool timing) override;
  int EventDestroy(CudaEventHandle event) override;
  int EventRecord(CudaEventHandle event, CudaStreamHandle stream) override;
  int EventQuery(CudaEventHandle event) override;
  int EventSynchronize(CudaEventHandle event) override;
  int EventElapsedMs(float* milliseconds, CudaEventHandle begin, CudaEventHandle end) override;
  int StreamBeginCapture(CudaStreamHandle stream) override;
  int StreamEndCapture(CudaStreamHandle stream, CudaGraphHandle* graph) override;
  int StreamIsCapturing(CudaStreamHandle stream, bool* capturing) override;
  int GraphLaunch(CudaGraphHandle graph, CudaStreamHandle stream) override;
  int GraphDestroy(CudaGraphHandle graph) override;
  void RangePush(const char* name) override;
  void RangePop() override;

 private:
  /// What a call is, beside a call.
  struct Traits {
    bool blocks = false;  ///< the host, or may
    bool unsafe = false;  ///< not for a thread that captures; so is what blocks
  };
  struct Device {
    std::atomic<int> error{0};
    int64_t used_bytes = 0;
    Mutex host_functions_mutex;
    FakeQueue host_functions;
  };
  struct Stream {
    int id = 0;
    int device = 0;
    std::mt19937_64 delays;  ///< the worker's
    std::shared_ptr<FakeCapture> capture;
    std::vector<FakeEdge> captured;  ///< the nodes that the next operation starts after
    FakeQueue queue;                 ///< last: it goes first
  };
  struct Event {
    int device = 0;
    bool timing = false;
    std::shared_ptr<FakeMark> mark;  ///< none: never recorded, or in a capture
    int item = FakeRecorder::kNothing;
    std::shared_ptr<FakeCapture> capture;
    std::vector<FakeEdge> captured;
  };
  struct Graph {
    std::shared_ptr<const FakeCapture> operations;
  };
  struct Allocation {
    int64_t size_bytes = 0;
    int device = -1;          ///< -1: pinned
    bool registered = false;  ///< pinned, but somebody else's
  };
  struct Fault {
    std::string name;
    int64_t call = 0;
    int error = 0;
  };
  struct ThreadState;

  ThreadState& thread();
  /// What every call does first: counts, and returns the error that it has to return.
  int Begin(const char* name, Traits traits, ThreadState& state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Misuse(const std::string& text, int error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Stream* FindStream(CudaStreamHandle stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Event* FindEvent(CudaEventHandle event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void* NewHandle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// The allocation that `pointer` lies in, or the end.
  std::map<const std::byte*, Allocation>::iterator FindAllocation(const void* pointer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int Allocate(void** pointer, int64_t size_bytes, int device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int GiveBack(const char* call, void* pointer, bool pinned) ABSL_LOCKS_EXCLUDED(mutex_);
  int CheckRange(const void* pointer, int64_t size_bytes, const char* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// `stream`, fit to enqueue on, or nullptr and why.
  Stream* StreamToEnqueueOn(CudaStreamHandle stream, const char* call, ThreadState& state, int* error)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// Captures or pushes an operation.
  void Append(Stream& stream, ThreadState& state, const std::string& name, std::vector<MemoryAccess> accesses,
              std::function<void()> run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  /// Pushes `run` with a delay before it; not run once the device has failed.
  void Push(Stream& stream, std::function<void()> run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<FakeMark> PushMark(Stream& stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DelayRandomly(Stream& stream) const;
  void RunGraph(Stream& stream, const FakeCapture& operations);
  void RunHostFunction(Device& device, const std::function<void()>& function);
  /// Waits until all streams of `device` have done what was enqueued.
  void WaitForDevice(int device) ABSL_LOCKS_EXCLUDED(mutex_);
  void RecordHostWait(const char* name, const std::vector<int>& items) ABSL_LOCKS_EXCLUDED(mutex_);
  std::string WaitName(ThreadState& state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int WaitInCapture(Stream& stream, const Event& event, const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<Stream*> StreamsOf(const FakeCapture& capture) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const FakeCudaOptions options_;
  const uint64_t instance_;  ///< what threads know this object by
  std::atomic<bool> ending_{false};
  std::vector<std::unique_ptr<Device>> devices_;

  Mutex mutex_;
  uintptr_t handles_ ABSL_GUARDED_BY(mutex_) = 0;
  int threads_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t wait_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t blocking_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, int64_t> calls_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int64_t> ranges_ ABSL_GUARDED_BY(mutex_);
  std::vector<Fault> faults_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> misuses_ ABSL_GUARDED_BY(mutex_);
  std::map<const std::byte*, Allocation> allocations_ ABSL_GUARDED_BY(mutex_);
  /// Freed memory of a recording: an address means one thing only.
  std::vector<std::byte*> freed_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Stream>> all_streams_ ABSL_GUARDED_BY(mutex_);  ///< destroyed ones too
  std::map<void*, Event> events_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, Graph> graphs_ ABSL_GUARDED_BY(mutex_);
  /// Captures that a thread has begun, by thread.
  std::map<int, std::vector<std::shared_ptr<FakeCapture>>> captures_ ABSL_GUARDED_BY(mutex_);
  FakeRecorder recorder_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_FAKE_CUDA_H_
