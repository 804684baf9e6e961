#ifndef SHARDSTEP_TESTS_COMM_RANK_THREADS_H_
#define SHARDSTEP_TESTS_COMM_RANK_THREADS_H_

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "shardstep/comm/inproc/thread_rendezvous.h"

namespace shardstep {

/// Runs `body` once per rank, each on a thread of its own, and returns when all have returned.
inline void RunRankThreads(int world_size, const std::function<void(Rendezvous&)>& body) {
  ThreadRendezvousGroup group(world_size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&body, rendezvous = std::shared_ptr<Rendezvous>(group.Join(rank))] { body(*rendezvous); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_RANK_THREADS_H_
