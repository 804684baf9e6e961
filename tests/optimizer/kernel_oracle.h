#ifndef SHARDSTEP_TESTS_OPTIMIZER_KERNEL_ORACLE_H_
#define SHARDSTEP_TESTS_OPTIMIZER_KERNEL_ORACLE_H_

#include "kernel_case.h"

namespace shardstep {

/// docs/numerics.md once more, by other means than the library's: what its reference is judged by. Calls nothing of the
/// library but ExactSum.
void OracleReduce(KernelCase* work);
void OracleUpdate(KernelCase* work);

/// One rounding each, by comparing distances; `random`: of 16 bits.
uint16_t OracleNearestEven(float value);
uint16_t OracleNearestAway(float value);
uint16_t OracleAtRandom(float value, uint32_t random);
uint32_t OracleRandom(uint64_t seed, uint64_t applied_step, uint64_t global_element);

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_OPTIMIZER_KERNEL_ORACLE_H_
