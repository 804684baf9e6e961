#include <utility>

#include "shardstep/tests/cuda/fake_cuda.h"
#include "shardstep/tests/cuda/fake_thread.h"

namespace shardstep {
namespace {

/// The nodes in an order that their edges allow: that of `random`, or without one that of their issue.
std::vector<size_t> Order(const FakeCapture& graph, std::mt19937_64* random) {
  std::vector<size_t> order;
  std::vector<bool> done(graph.nodes.size(), false);
  while (order.size() < graph.nodes.size()) {
    std::vector<size_t> ready;
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      bool is_ready = !done[i];
      for (const FakeEdge& edge : graph.nodes[i].after) is_ready = is_ready && done[static_cast<size_t>(edge.earlier)];
      if (is_ready) ready.push_back(i);
    }
    order.push_back(random == nullptr ? ready.front() : ready[(*random)() % ready.size()]);
    done[order.back()] = true;
  }
  return order;
}

}  // namespace

int FakeCuda::WaitInCapture(Stream& stream, const Event& event, const std::string& name) {
  if (event.capture == nullptr && event.mark == nullptr) return kSuccess;  // never recorded
  int error = kSuccess;
  if (event.capture == nullptr) {
    error = kStreamCaptureIsolation;
  } else if (!event.capture->active) {
    error = kCapturedEvent;
  } else if (stream.capture != nullptr && stream.capture != event.capture) {
    event.capture->invalidated = true;
    error = kStreamCaptureMerge;
  } else if (event.capture->invalidated) {
    error = kStreamCaptureInvalidated;
  }
  if (error != kSuccess) {
    if (stream.capture != nullptr) stream.capture->invalidated = true;
    return error;
  }
  stream.capture = event.capture;
  for (const FakeEdge& edge : event.captured) stream.captured.push_back({edge.earlier, name});
  return kSuccess;
}

std::vector<FakeCuda::Stream*> FakeCuda::StreamsOf(const FakeCapture& capture) {
  std::vector<Stream*> streams;
  for (const auto& stream : all_streams_) {
    if (stream->capture.get() == &capture) streams.push_back(stream.get());
  }
  return streams;
}

int FakeCuda::StreamBeginCapture(CudaStreamHandle handle) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("StreamBeginCapture", {}, state);
  if (error != kSuccess) return error;
  Stream* const stream = StreamToEnqueueOn(handle, "StreamBeginCapture", state, &error);
  if (stream == nullptr) return error;
  if (stream->capture != nullptr) return Misuse("StreamBeginCapture in a capture", kIllegalState);
  stream->capture = std::make_shared<FakeCapture>();
  stream->capture->origin_stream = stream->id;
  stream->capture->thread = state.number;
  captures_[state.number].push_back(stream->capture);
  return kSuccess;
}

int FakeCuda::StreamEndCapture(CudaStreamHandle handle, CudaGraphHandle* graph) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  if (const int error = Begin("StreamEndCapture", {}, state); error != kSuccess) return error;
  *graph = nullptr;
  Stream* const stream = FindStream(handle);
  if (stream == nullptr) return Misuse("StreamEndCapture of an unknown stream", kInvalidResourceHandle);
  const std::shared_ptr<FakeCapture> capture = stream->capture;
  if (capture == nullptr) return kIllegalState;
  if (capture->thread != state.number) return kStreamCaptureWrongThread;
  if (capture->origin_stream != stream->id) {
    capture->invalidated = true;
    return kStreamCaptureUnmatched;
  }
  const bool joined = capture->IsJoinedBy(stream->captured);
  capture->active = false;
  for (Stream* const member : StreamsOf(*capture)) {
    member->capture = nullptr;
    member->captured.clear();
  }
  std::erase(captures_[state.number], capture);
  if (capture->invalidated) return kStreamCaptureInvalidated;
  if (!joined) return kStreamCaptureUnjoined;
  *graph = NewHandle();
  graphs_[*graph] = {capture};
  return kSuccess;
}

int FakeCuda::StreamIsCapturing(CudaStreamHandle handle, bool* capturing) {
  MutexLock lock(&mutex_);
  if (const int error = Begin("StreamIsCapturing", {}, thread()); error != kSuccess) return error;
  const Stream* const stream = FindStream(handle);
  if (stream == nullptr) return Misuse("StreamIsCapturing of an unknown stream", kInvalidResourceHandle);
  if (stream->capture != nullptr && stream->capture->invalidated) return kStreamCaptureInvalidated;
  *capturing = stream->capture != nullptr;
  return kSuccess;
}

int FakeCuda::GraphLaunch(CudaGraphHandle handle, CudaStreamHandle stream_handle) {
  MutexLock lock(&mutex_);
  ThreadState& state = thread();
  int error = Begin("GraphLaunch", {}, state);
  if (error != kSuccess) return error;
  const auto graph = graphs_.find(handle);
  if (graph == graphs_.end()) return Misuse("GraphLaunch of an unknown graph", kInvalidResourceHandle);
  Stream* const stream = StreamToEnqueueOn(stream_handle, "GraphLaunch", state, &error);
  if (stream == nullptr) return error;
  if (stream->capture != nullptr) {
    stream->capture->invalidated = true;
    return kStreamCaptureUnsupported;
  }
  const std::shared_ptr<const FakeCapture> operations = graph->second.operations;
  if (options_.record) recorder_.LaunchGraph(stream->id, state.number, operations->nodes);
  Push(*stream, [this, stream, operations] { RunGraph(*stream, *operations); });
  return kSuccess;
}

void FakeCuda::RunGraph(Stream& stream, const FakeCapture& operations) {
  for (const size_t node : Order(operations, options_.delay_seed == 0 ? nullptr : &stream.delays)) {
    DelayRandomly(stream);
    if (devices_[stream.device]->error == kSuccess) operations.functions[node]();
  }
}

int FakeCuda::GraphDestroy(CudaGraphHandle handle) {
  MutexLock lock(&mutex_);
  const int error = Begin("GraphDestroy", {}, thread());
  if (error == kNotPermitted) return error;
  if (graphs_.erase(handle) == 0) return Misuse("GraphDestroy of an unknown graph", kInvalidResourceHandle);
  return error;
}

}  // namespace shardstep
