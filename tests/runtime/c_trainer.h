#ifndef SHARDSTEP_TESTS_RUNTIME_C_TRAINER_H_
#define SHARDSTEP_TESTS_RUNTIME_C_TRAINER_H_

/// A trainer that knows the C interface only, for its tests: a matrix and a vector in bf16 and an fp32 vector, whose
/// gradients depend on step and micro-batch, so that ranks and steps cannot be mixed up unnoticed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shardstep/runtime/shardstep.h"

namespace shardstep {

struct Destroy {
  void operator()(shardstep_optimizer* optimizer) const { shardstep_optimizer_destroy(optimizer); }
};
using COptimizer = std::unique_ptr<shardstep_optimizer, Destroy>;

inline constexpr int64_t kMatrixShape[] = {70, 60};
inline constexpr int64_t kVectorShape[] = {1500};

inline std::vector<shardstep_parameter> TestParameters() {
  std::vector<shardstep_parameter> parameters(3, shardstep_parameter SHARDSTEP_PARAMETER_INIT);
  parameters[0].name = "matrix";
  parameters[0].shape = kMatrixShape;
  parameters[0].dimensions = 2;
  parameters[1].name = "vector";
  parameters[1].shape = kVectorShape;
  parameters[1].dimensions = 1;
  parameters[2].name = "precise";
  parameters[2].shape = kVectorShape;
  parameters[2].dimensions = 1;
  parameters[2].weight_dtype = SHARDSTEP_FP32;
  parameters[2].gradient_dtype = SHARDSTEP_FP32;
  return parameters;
}

#define EXPECT_C_OK(expression) EXPECT_EQ(expression, SHARDSTEP_OK) << shardstep_last_error()
#define ASSERT_C_OK(expression) ASSERT_EQ(expression, SHARDSTEP_OK) << shardstep_last_error()
#define EXPECT_C_ERROR(expression, code, message) \
  EXPECT_EQ(expression, code);                    \
  EXPECT_THAT(shardstep_last_error(), message)

inline float InitialValue(int32_t p, int64_t element) { return static_cast<float>((element * 7 + p) % 23) * 0.125f; }

inline void FillTestModel(void* /*context*/, int32_t p, int64_t begin, float* values, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) values[i] = InitialValue(p, begin + i);
}

inline COptimizer CreateC(const shardstep_job& job, const char* options,
                          const std::vector<shardstep_parameter>& parameters = TestParameters()) {
  shardstep_optimizer* optimizer = nullptr;
  EXPECT_C_OK(shardstep_optimizer_create(&job, options, parameters.data(), parameters.size(), &optimizer));
  return COptimizer(optimizer);
}

inline COptimizer CreateInitialized(const shardstep_job& job, const char* options) {
  COptimizer optimizer = CreateC(job, options);
  if (optimizer != nullptr) {
    EXPECT_C_OK(shardstep_initialize(optimizer.get(), FillTestModel, nullptr));
  }
  return optimizer;
}

/// Small integers, which bf16 holds.
inline float GradientValue(int64_t step, int64_t micro_batch, int32_t p, int64_t element) {
  return static_cast<float>((step * 5 + micro_batch * 3 + p + element) % 17 - 8);
}

/// `with_nan`: instead of element 3.
inline void WriteGradient(shardstep_optimizer* optimizer, int32_t p, int64_t step, int64_t micro_batch,
                          bool with_nan = false) {
  ASSERT_C_OK(shardstep_gradient_writable(optimizer, p));
  shardstep_array gradient = SHARDSTEP_ARRAY_INIT;
  ASSERT_C_OK(shardstep_gradient(optimizer, p, &gradient));
  for (int64_t i = 0; i < gradient.elements; ++i) {
    const float value = with_nan && i == 3 ? std::nanf("") : GradientValue(step, micro_batch, p, i);
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    if (gradient.dtype == SHARDSTEP_FP32) {
      static_cast<float*>(gradient.data)[i] = value;
    } else {
      static_cast<uint16_t*>(gradient.data)[i] = static_cast<uint16_t>(bits >> 16);
    }
  }
  ASSERT_C_OK(shardstep_gradient_ready(optimizer, p));
}

/// Steps [begin, end) of `micro_batches` each, which the ranks divide.
inline void TrainC(shardstep_optimizer* optimizer, int64_t begin, int64_t end, int64_t micro_batches = 2,
                   int32_t parameters = 3) {
  const int64_t ranks = shardstep_world_size(optimizer);
  for (int64_t step = begin; step < end; ++step) {
    for (int64_t k = 0; k < micro_batches / ranks; ++k) {
      for (int32_t p = parameters; p-- > 0;) {
        ASSERT_C_OK(shardstep_weights_ready(optimizer, p));
        WriteGradient(optimizer, p, step, k * ranks + shardstep_rank(optimizer));
      }
      ASSERT_C_OK(shardstep_end_micro_step(optimizer));
    }
    shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
    arguments.learning_rate = 0.01;
    arguments.max_norm = 1;
    ASSERT_C_OK(shardstep_step(optimizer, &arguments));
    ASSERT_C_OK(shardstep_finish_step(optimizer, nullptr, nullptr));
  }
}

/// All four, as one string.
inline std::string DigestsOf(shardstep_optimizer* optimizer) {
  shardstep_digests digests = SHARDSTEP_DIGESTS_INIT;
  EXPECT_C_OK(shardstep_compute_digests(optimizer, &digests));
  return std::string(digests.weights) + " " + digests.master + " " + digests.first_moment + " " + digests.second_moment;
}

/// Ranks that are threads and meet by an id, as processes do. `body` gets its rank's job.
inline void RunCRanks(int32_t world_size, const std::function<void(const shardstep_job&)>& body) {
  char id[SHARDSTEP_JOB_ID_BYTES];
  ASSERT_C_OK(shardstep_create_job_id("localhost", id));
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      shardstep_job job = SHARDSTEP_JOB_INIT;
      job.meet = SHARDSTEP_MEET_TCP;
      job.id = id;
      job.rank = rank;
      job.world_size = world_size;
      job.deadline_seconds = 60;
      body(job);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace shardstep

#endif  // SHARDSTEP_TESTS_RUNTIME_C_TRAINER_H_
