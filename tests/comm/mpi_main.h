#ifndef SHARDSTEP_TESTS_COMM_MPI_MAIN_H_
#define SHARDSTEP_TESTS_COMM_MPI_MAIN_H_

#include <cstdio>
#include <functional>
#include <memory>

#include "gtest/gtest.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"

namespace shardstep {

/// main of a test that mpirun starts: joins MPI, runs all tests on every rank, leaves MPI.
inline int MpiTestMain(int argc, char** argv, const std::function<void(MpiRendezvous&)>& before_tests) {
  absl::StatusOr<std::unique_ptr<MpiRendezvous>> rendezvous = MpiRendezvous::Create();
  if (!rendezvous.ok()) {
    std::fprintf(stderr, "%s\n", rendezvous.status().ToString().c_str());
    return 1;
  }
  before_tests(**rendezvous);  // which instantiates suites: before they are registered
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_COMM_MPI_MAIN_H_
