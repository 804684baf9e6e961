#include "shardstep/tools/gpu_check/step_checks.h"

#include <condition_variable>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/comm/shm/shared_memory_communicator.h"
#include "shardstep/tools/gpu_check/counting_cuda_api.h"

namespace shardstep::gpu_check {
namespace {

// A rank that is alone, with a device.
struct LoneRank {
  std::unique_ptr<Rendezvous> rendezvous;
  std::unique_ptr<TrainingDevice> device;
  std::unique_ptr<GpuTrainer> trainer;
};

absl::StatusOr<LoneRank> MakeOnHost(const Training& training) {
  LoneRank rank;
  rank.rendezvous = ThreadRendezvousGroup(1).Join(0);
  rank.device = CreateHostTrainingDevice();
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> inner, CreateInprocCommunicator(*rank.rendezvous, {}));
  SHARDSTEP_ASSIGN_OR_RETURN(
      rank.trainer, GpuTrainer::Create(training, CommunicatorLevels(std::move(inner)), *rank.rendezvous, *rank.device));
  return rank;
}

absl::StatusOr<LoneRank> MakeOnCuda(const Training& training, const CudaBackend& backend, const CudaDeviceRef& device) {
  LoneRank rank;
  rank.rendezvous = ThreadRendezvousGroup(1).Join(0);
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<CudaTrainingDevice> its_device,
                             CudaTrainingDevice::Create(backend, device));
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> inner, CreateInprocCommunicator(*rank.rendezvous, {}));
  SHARDSTEP_ASSIGN_OR_RETURN(CommunicatorLevels levels,
                             MakeStagedLevels(*its_device, *rank.rendezvous, std::move(inner)));
  rank.device = std::move(its_device);
  SHARDSTEP_ASSIGN_OR_RETURN(rank.trainer,
                             GpuTrainer::Create(training, std::move(levels), *rank.rendezvous, *rank.device));
  return rank;
}

absl::StatusOr<std::string> Train(const Training& training, LoneRank rank) {
  SHARDSTEP_RETURN_IF_ERROR(rank.trainer->Run(0, training.steps));
  return rank.trainer->Digests();
}

CudaTrainingDevice& CudaOf(LoneRank& rank) { return static_cast<CudaTrainingDevice&>(*rank.device); }

// The graph of one step, captured now.
absl::StatusOr<CudaGraphHandle> Capture(LoneRank& rank) {
  CudaApi& api = *CudaOf(rank).device().api;
  CudaStreamHandle const stream = CudaOf(rank).stream();
  CudaGraphHandle graph = nullptr;
  SHARDSTEP_RETURN_IF_ERROR(rank.trainer->optimizer().BeginCapture());
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(CudaOf(rank).device()));
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api, api.StreamBeginCapture(stream), "cudaStreamBeginCapture"));
  absl::Status status = rank.trainer->Enqueue(/*step=*/0);
  if (status.ok()) status = rank.trainer->optimizer().EndCapture();
  status.Update(CudaStatus(api, api.StreamEndCapture(stream, &graph), "cudaStreamEndCapture"));
  SHARDSTEP_RETURN_IF_ERROR(status);
  return graph;
}

absl::Status Replay(const Training& training, CudaGraphHandle graph, LoneRank& rank) {
  CudaApi& api = *CudaOf(rank).device().api;
  for (int64_t step = 1; step < training.steps; ++step) {
    rank.trainer->FillGradients(step);
    SHARDSTEP_RETURN_IF_ERROR(rank.trainer->optimizer().Replay(rank.trainer->ArgumentsOf(step)));
    SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(CudaOf(rank).device()));
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api, api.GraphLaunch(graph, CudaOf(rank).stream()), "cudaGraphLaunch"));
    SHARDSTEP_RETURN_IF_ERROR(rank.trainer->Finish(step));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TrainByGraph(const Training& training, LoneRank rank) {
  SHARDSTEP_RETURN_IF_ERROR(rank.trainer->Run(0, 1));
  SHARDSTEP_ASSIGN_OR_RETURN(CudaGraphHandle const graph, Capture(rank));
  absl::Status status = Replay(training, graph, rank);
  CudaApi& api = *CudaOf(rank).device().api;
  status.Update(CudaStatus(api, api.GraphDestroy(graph), "cudaGraphExecDestroy"));
  SHARDSTEP_RETURN_IF_ERROR(status);
  return rank.trainer->Digests();
}

std::string Text(const std::map<std::string, int64_t>& calls) {
  std::vector<std::string> texts;
  for (const auto& [name, count] : calls) texts.push_back(absl::StrCat(count, " ", name));
  return absl::StrJoin(texts, ", ");
}

absl::Status Expect(bool holds, absl::string_view otherwise) {
  return holds ? absl::OkStatus() : absl::InternalError(otherwise);
}

// Holds up a stream until Open, or until its patience ends.
class Gate {
 public:
  static absl::StatusOr<std::unique_ptr<Gate>> Close(CudaTrainingDevice& device, absl::Duration patience) {
    std::unique_ptr<Gate> gate(new Gate(device));
    SHARDSTEP_ASSIGN_OR_RETURN(gate->word_, device.memory().AllocateForBoth(sizeof(uint32_t), "a gate"));
    SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(device.device()));
    CudaApi& api = *device.device().api;
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api, api.EventCreate(&gate->behind_, false), "cudaEventCreate"));
    SHARDSTEP_RETURN_IF_ERROR(
        CudaStatus(api, api.StreamWaitValue(device.stream(), gate->word_.as<uint32_t>(), 1), "cuStreamWaitValue32"));
    SHARDSTEP_RETURN_IF_ERROR(CudaStatus(api, api.EventRecord(gate->behind_, device.stream()), "cudaEventRecord"));
    gate->guard_ = std::thread([raw = gate.get(), patience] { raw->Guard(patience); });
    return gate;
  }
  ~Gate() {
    Open();
    if (guard_.joinable()) guard_.join();
    CudaApi& api = *device_.device().api;
    if (MakeCurrent(device_.device()).ok()) api.StreamSynchronize(device_.stream());
    if (behind_ != nullptr) api.EventDestroy(behind_);
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Whether the stream still waits here, and patience has not ended.
  bool IsClosed() {
    MutexLock lock(&mutex_);
    return !open_ && device_.device().api->EventQuery(behind_) == CudaApi::kNotReady;
  }
  void Open() {
    MutexLock lock(&mutex_);
    if (open_ || word_.view().data == nullptr) return;
    open_ = true;
    device_.device().api->Signal(word_.as<uint32_t>(), 1);
    opened_.notify_all();
  }

 private:
  explicit Gate(CudaTrainingDevice& device) : device_(device) {}

  void Guard(absl::Duration patience) {
    const auto end = absl::ToChronoTime(absl::Now() + patience);
    {
      MutexLock lock(&mutex_);
      while (!open_ && opened_.wait_until(lock.lock(), end) != std::cv_status::timeout) {
      }
    }
    Open();
  }

  CudaTrainingDevice& device_;
  Buffer word_;
  CudaEventHandle behind_ = nullptr;
  Mutex mutex_;
  std::condition_variable opened_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread guard_;
};

}  // namespace

absl::StatusOr<std::string> TrainOnHost(const Training& training) {
  SHARDSTEP_ASSIGN_OR_RETURN(LoneRank rank, MakeOnHost(training));
  return Train(training, std::move(rank));
}

absl::StatusOr<std::string> TrainOnCuda(const Training& training, const CudaBackend& backend,
                                        const CudaDeviceRef& device) {
  SHARDSTEP_ASSIGN_OR_RETURN(LoneRank rank, MakeOnCuda(training, backend, device));
  return Train(training, std::move(rank));
}

absl::StatusOr<std::string> CheckGraph(const Training& training, const CudaBackend& backend,
                                       const CudaDeviceRef& device) {
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string on_host, TrainOnHost(training));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string eager, TrainOnCuda(training, backend, device));
  SHARDSTEP_RETURN_IF_ERROR(
      Expect(eager == on_host, absl::StrCat("steps without a graph end in ", eager, ", the CPU's in ", on_host)));
  SHARDSTEP_ASSIGN_OR_RETURN(LoneRank rank, MakeOnCuda(training, backend, device));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string by_graph, TrainByGraph(training, std::move(rank)));
  SHARDSTEP_RETURN_IF_ERROR(
      Expect(by_graph == eager, absl::StrCat("steps by a graph end in ", by_graph, ", without it in ", eager)));
  return absl::StrCat(training.steps - 1, " replays of one graph, step ", training.skipped_step,
                      " skipped, have the bits of steps without it: ", by_graph);
}

absl::StatusOr<std::string> CheckAsync(const Training& training, const CudaBackend& backend,
                                       const CudaDeviceRef& device, absl::Duration patience) {
  CountingCudaApi api(*device.api);
  const CudaDeviceRef counted = {.api = &api, .device = device.device};
  SHARDSTEP_ASSIGN_OR_RETURN(LoneRank rank, MakeOnCuda(training, backend, counted));
  // What is done once in a process is not a step's.
  SHARDSTEP_RETURN_IF_ERROR(rank.trainer->Run(0, 1));
  rank.trainer->FillGradients(1);
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<Gate> gate, Gate::Close(CudaOf(rank), patience));
  api.Begin();
  SHARDSTEP_RETURN_IF_ERROR(rank.trainer->Enqueue(1));
  const std::map<std::string, int64_t> blocking = api.BlockingCalls();
  const bool returned = gate->IsClosed();
  gate->Open();
  SHARDSTEP_RETURN_IF_ERROR(Expect(
      returned,
      absl::StrCat("a step behind work that does not end had not returned after ", absl::FormatDuration(patience))));
  SHARDSTEP_RETURN_IF_ERROR(
      Expect(blocking.empty(), absl::StrCat("a step makes calls that may block the host: ", Text(blocking))));
  SHARDSTEP_RETURN_IF_ERROR(rank.trainer->Finish(1));
  SHARDSTEP_RETURN_IF_ERROR(rank.trainer->Run(2, training.steps));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string digests, rank.trainer->Digests());
  SHARDSTEP_ASSIGN_OR_RETURN(const std::string on_host, TrainOnHost(training));
  SHARDSTEP_RETURN_IF_ERROR(
      Expect(digests == on_host, absl::StrCat("it ends in ", digests, ", the CPU's in ", on_host)));
  return absl::StrCat("no call blocks the host, and a step returns while work before it goes on");
}

}  // namespace shardstep::gpu_check
