#ifndef SHARDSTEP_TESTS_CUDA_FAKE_THREAD_H_
#define SHARDSTEP_TESTS_CUDA_FAKE_THREAD_H_

#include <string>

#include "shardstep/tests/cuda/fake_cuda.h"

namespace shardstep {

/// What a thread is to a FakeCuda. Only for its own files.
struct FakeCuda::ThreadState {
  int number = -1;  ///< given at the first call
  int device = 0;   ///< current
  bool in_host_function = false;
  int open_ranges = 0;
  std::string phase;
  int64_t waits = 0;  ///< in this phase
};

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_CUDA_FAKE_THREAD_H_
