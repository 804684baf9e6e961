#ifndef SHARDSTEP_TESTS_CUDA_HOST_MACHINE_H_
#define SHARDSTEP_TESTS_CUDA_HOST_MACHINE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "shardstep/optimizer/cuda_vectors-inl.h"

namespace shardstep {

/// A warp on the host: the Machine of cuda_vectors-inl.h. Lanes come one after the other, in an order of their own.
class HostMachine {
 public:
  explicit HostMachine(uint64_t order_seed) : random_(order_seed) {
    std::iota(lanes_.begin(), lanes_.end(), 0);
    std::shuffle(lanes_.begin(), lanes_.end(), random_);
  }

  template <typename T>
  using PerLane = std::array<T, cuda::kWarpLanes>;

  /// Aborts where a device would fault.
  cuda::Words4 Load(const void* from) const {
    CheckAligned(from);
    cuda::Words4 words;
    std::memcpy(&words, from, sizeof(words));
    return words;
  }
  void Store(const cuda::Words4& words, void* to) const {
    CheckAligned(to);
    std::memcpy(to, &words, sizeof(words));
  }

  template <typename Function>
  void ForEachLane(const Function& function) const {
    for (const int lane : lanes_) function(lane);
  }
  void SyncWarp() const {}
  template <typename T>
  PerLane<T> Down(const PerLane<T>& from, int distance) const {
    PerLane<T> result = from;
    std::copy(from.begin() + distance, from.end(), result.begin());
    return result;
  }
  bool Any(const PerLane<bool>& values) const {
    return std::any_of(values.begin(), values.end(), [](bool value) { return value; });
  }

  void AtomicAdd(uint64_t* word, uint64_t value) const {
    std::atomic_ref(*word).fetch_add(value, std::memory_order_relaxed);
  }
  void AtomicMax(uint32_t* word, uint32_t value) const {
    uint32_t seen = std::atomic_ref(*word).load(std::memory_order_relaxed);
    while (seen < value && !std::atomic_ref(*word).compare_exchange_weak(seen, value)) {
    }
  }
  void AtomicMin(uint64_t* word, uint64_t value) const {
    uint64_t seen = std::atomic_ref(*word).load(std::memory_order_relaxed);
    while (seen > value && !std::atomic_ref(*word).compare_exchange_weak(seen, value)) {
    }
  }
  void PublishToHost(int64_t value, int64_t* word) const {
    std::atomic_ref(*word).store(value, std::memory_order_release);
  }

  /// 0, 1, ..., count - 1 in some order.
  std::vector<int> Order(int count) {
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

 private:
  static void CheckAligned(const void* pointer) {
    if (!cuda::IsAligned(pointer)) std::abort();
  }

  std::mt19937_64 random_;
  std::array<int, cuda::kWarpLanes> lanes_;
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_HOST_MACHINE_H_
