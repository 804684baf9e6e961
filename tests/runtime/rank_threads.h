#ifndef SHARDSTEP_TESTS_RUNTIME_RANK_THREADS_H_
#define SHARDSTEP_TESTS_RUNTIME_RANK_THREADS_H_

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "shardstep/comm/inproc/thread_rendezvous.h"
#include "shardstep/comm/rendezvous.h"

namespace shardstep {

/// Runs `rank` once per rank, each on a thread of its own, and joins them.
inline void RunRanks(int world_size, const std::function<void(Rendezvous& rendezvous)>& rank) {
  ThreadRendezvousGroup group(world_size);
  std::vector<std::thread> threads;
  for (int r = 0; r < world_size; ++r) {
    threads.emplace_back([&group, &rank, r] {
      const std::unique_ptr<Rendezvous> rendezvous = group.Join(r);
      rank(*rendezvous);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_RUNTIME_RANK_THREADS_H_
