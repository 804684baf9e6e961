#ifndef SHARDSTEP_COMM_SHM_FUTEX_H_
#define SHARDSTEP_COMM_SHM_FUTEX_H_

#include <atomic>
#include <cstdint>

namespace shardstep {

/// CLOCK_MONOTONIC in nanoseconds: one clock for all processes of a host.
int64_t MonotonicNs();

/// Sleeps while `word`, which may lie in memory shared by processes, holds `expected`: until FutexWakeAll, at most
/// `timeout_ns`, and sometimes for no reason. Callers look at their condition again. Only seq_cst operations on `word`
/// and on what it guards make the pair of check and sleep safe against a wake-up in between.
void FutexWait(const std::atomic<uint32_t>& word, uint32_t expected, int64_t timeout_ns);

/// Wakes everyone who sleeps on `word`, in every process. Change the word first.
void FutexWakeAll(std::atomic<uint32_t>& word);

}  // namespace shardstep

#endif  // SHARDSTEP_COMM_SHM_FUTEX_H_
