// Structs of callers that were compiled with an earlier or a later header than the library.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "c_trainer.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// A struct as another header's caller has it: `bytes` long, which its size says, as the T is where that has them, and
/// `beyond` behind. Nothing more may be touched, which AddressSanitizer watches.
template <typename T>
class OfAnotherHeader {
 public:
  OfAnotherHeader(T values, size_t bytes, unsigned char beyond = 0) : bytes_(bytes, beyond) {
    values.size = bytes;
    std::memcpy(bytes_.data(), &values, std::min(bytes, sizeof(T)));
  }
  T* get() { return reinterpret_cast<T*>(bytes_.data()); }
  const std::vector<unsigned char>& bytes() const { return bytes_; }

 private:
  std::vector<unsigned char> bytes_;
};

shardstep_code Estimate(const shardstep_parameter* parameters, size_t count) {
  shardstep_memory memory = SHARDSTEP_MEMORY_INIT;
  return shardstep_estimate_memory("", parameters, count, 1, &memory);
}

/// Every call that takes a struct, with one whose size is `size`.
std::vector<shardstep_code> CallsWithSize(shardstep_optimizer* optimizer, size_t size, std::vector<std::string>* said) {
  std::vector<shardstep_code> codes;
  const auto call = [&](shardstep_code code) {
    codes.push_back(code);
    said->push_back(shardstep_last_error());
  };
  shardstep_job job = SHARDSTEP_JOB_INIT;
  shardstep_parameter parameter = SHARDSTEP_PARAMETER_INIT;
  shardstep_memory memory = SHARDSTEP_MEMORY_INIT;
  shardstep_array array = SHARDSTEP_ARRAY_INIT;
  shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
  shardstep_counters counters = SHARDSTEP_COUNTERS_INIT;
  shardstep_digests digests = SHARDSTEP_DIGESTS_INIT;
  parameter.name = "parameter";
  job.size = parameter.size = memory.size = array.size = arguments.size = summary.size = counters.size = digests.size =
      size;
  shardstep_optimizer* created = nullptr;
  const char* const names[] = {"alone"};
  call(shardstep_optimizer_create(&job, "", nullptr, 0, &created));
  call(shardstep_join_decisions(&job, &optimizer, names, 1));
  call(Estimate(&parameter, 1));
  call(shardstep_memory_held(optimizer, &memory));
  call(shardstep_estimate_memory("", nullptr, 0, 1, &memory));
  call(shardstep_weights(optimizer, 0, &array));
  call(shardstep_gradient(optimizer, 0, &array));
  call(shardstep_step(optimizer, &arguments));
  call(shardstep_replay(optimizer, &arguments));
  call(shardstep_summarize_step(optimizer, &summary));
  call(shardstep_read_counters(optimizer, &counters));
  call(shardstep_set_counters(optimizer, &counters, nullptr, 0));
  call(shardstep_compute_digests(optimizer, &digests));
  return codes;
}

TEST(CStructsTest, ASizeThatIsNoneIsRefusedByName) {
  const shardstep_job alone = SHARDSTEP_JOB_INIT;
  const COptimizer optimizer = CreateInitialized(alone, "");
  ASSERT_NE(optimizer, nullptr);
  TrainC(optimizer.get(), 0, 1, /*micro_batches=*/1);
  const std::vector<std::string> names = {"job",      "job",      "parameter",      "memory",         "memory",
                                          "array",    "array",    "step_arguments", "step_arguments", "step_summary",
                                          "counters", "counters", "digests"};
  for (const size_t size : {size_t{0}, sizeof(size_t), size_t{17}, size_t{1} << 13, ~size_t{0}}) {
    std::vector<std::string> said;
    EXPECT_THAT(CallsWithSize(optimizer.get(), size, &said), Each(SHARDSTEP_INVALID_ARGUMENT));
    ASSERT_EQ(said.size(), names.size());
    for (size_t i = 0; i < said.size(); ++i) {
      EXPECT_THAT(said[i], HasSubstr("shardstep_" + names[i] + ".size = " + std::to_string(size)));
    }
  }
}

TEST(CStructsTest, WhatAnEarlierHeaderDidNotHaveIsTheDefault) {
  shardstep_job job = SHARDSTEP_JOB_INIT;
  job.meet = SHARDSTEP_MEET_ALONE;
  job.device = "nonsense";
  job.deadline_seconds = -1;
  OfAnotherHeader<shardstep_job> earlier(job, offsetof(shardstep_job, id));
  shardstep_optimizer* created = nullptr;
  EXPECT_C_OK(shardstep_optimizer_create(earlier.get(), "", nullptr, 0, &created));
  const COptimizer optimizer(created);
  ASSERT_NE(created, nullptr);
  EXPECT_C_OK(shardstep_initialize(created, FillTestModel, nullptr));

  shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  arguments.learning_rate = 0.125;
  arguments.max_norm = kNan;
  OfAnotherHeader<shardstep_step_arguments> rate(arguments, offsetof(shardstep_step_arguments, micro_batches));
  EXPECT_C_OK(shardstep_end_micro_step(created));
  EXPECT_C_OK(shardstep_step(created, rate.get()));
  EXPECT_C_OK(shardstep_finish_step(created, nullptr, nullptr));
}

TEST(CStructsTest, ParametersFollowEachOtherBySizeOfTheCallersHeader) {
  for (const size_t size : {offsetof(shardstep_parameter, norm_weight), sizeof(shardstep_parameter) + 24}) {
    std::vector<unsigned char> bytes(2 * size);
    for (size_t i = 0; i < 2; ++i) {
      shardstep_parameter parameter = TestParameters()[i];
      parameter.size = size;
      parameter.norm_weight = 0.5;
      std::memcpy(bytes.data() + i * size, &parameter, std::min(size, sizeof(parameter)));
    }
    auto* parameters = reinterpret_cast<shardstep_parameter*>(bytes.data());
    const shardstep_job alone = SHARDSTEP_JOB_INIT;
    shardstep_optimizer* created = nullptr;
    ASSERT_C_OK(shardstep_optimizer_create(&alone, "", parameters, 2, &created));
    const COptimizer optimizer(created);
    ASSERT_C_OK(shardstep_initialize(created, FillTestModel, nullptr));
    for (const int64_t elements : {4200, 1500}) {
      shardstep_array array = SHARDSTEP_ARRAY_INIT;
      ASSERT_C_OK(shardstep_weights(created, elements == 4200 ? 0 : 1, &array));
      EXPECT_EQ(array.elements, elements);
    }
    TrainC(created, 0, 1, /*micro_batches=*/1, /*parameters=*/2);
    shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
    ASSERT_C_OK(shardstep_summarize_step(created, &summary));
    double squares = 0;
    for (int32_t p = 0; p < 2; ++p) {
      for (int64_t i = 0; i < (p == 0 ? 4200 : 1500); ++i) {
        squares += static_cast<double>(GradientValue(0, 0, p, i)) * GradientValue(0, 0, p, i);
      }
    }
    const double norm_weight = size < sizeof(shardstep_parameter) ? 1 : 0.5;
    EXPECT_NEAR(summary.gradient_norm * summary.gradient_norm, norm_weight * squares, 1e-6 * squares);
  }
}

TEST(CStructsTest, ParametersOfDifferentSizesAreRefused) {
  std::vector<shardstep_parameter> parameters = TestParameters();
  parameters[2].size = sizeof(shardstep_parameter) - 8;
  EXPECT_C_ERROR(Estimate(parameters.data(), 3), SHARDSTEP_INVALID_ARGUMENT, HasSubstr("parameters[2].size"));
  parameters[1].size = 0;
  EXPECT_C_ERROR(Estimate(parameters.data(), 3), SHARDSTEP_INVALID_ARGUMENT,
                 AllOf(HasSubstr("parameters[1]"), HasSubstr("shardstep_parameter.size = 0")));
}

TEST(CStructsTest, FieldsOfALaterHeaderAreRefusedUnlessTheyAreZero) {
  OfAnotherHeader<shardstep_job> job(SHARDSTEP_JOB_INIT, sizeof(shardstep_job) + 16);
  shardstep_optimizer* created = nullptr;
  EXPECT_C_OK(shardstep_optimizer_create(job.get(), "", nullptr, 0, &created));
  const COptimizer optimizer(created);
  ASSERT_NE(created, nullptr);
  OfAnotherHeader<shardstep_job> used(SHARDSTEP_JOB_INIT, sizeof(shardstep_job) + 16, 1);
  shardstep_optimizer* refused = nullptr;
  EXPECT_C_ERROR(shardstep_optimizer_create(used.get(), "", nullptr, 0, &refused), SHARDSTEP_INVALID_ARGUMENT,
                 AllOf(HasSubstr("shardstep_job.size = 80"), HasSubstr("later header")));

  OfAnotherHeader<shardstep_step_arguments> arguments(SHARDSTEP_STEP_ARGUMENTS_INIT,
                                                      sizeof(shardstep_step_arguments) + 8, 1);
  EXPECT_C_OK(shardstep_end_micro_step(created));
  EXPECT_C_ERROR(shardstep_step(created, arguments.get()), SHARDSTEP_INVALID_ARGUMENT,
                 HasSubstr("shardstep_step_arguments.size = 48"));
  OfAnotherHeader<shardstep_counters> counters(SHARDSTEP_COUNTERS_INIT, sizeof(shardstep_counters) + 8, 1);
  EXPECT_C_ERROR(shardstep_set_counters(created, counters.get(), nullptr, 0), SHARDSTEP_INVALID_ARGUMENT,
                 HasSubstr("shardstep_counters.size = 48"));
  shardstep_parameter last = SHARDSTEP_PARAMETER_INIT;
  last.name = "last";
  OfAnotherHeader<shardstep_parameter> parameter(last, sizeof(last) + 8, 1);
  EXPECT_C_ERROR(Estimate(parameter.get(), 1), SHARDSTEP_INVALID_ARGUMENT,
                 AllOf(HasSubstr("parameters[0]"), HasSubstr("later header")));
}

TEST(CStructsTest, FilledStructsKeepToTheirSize) {
  const shardstep_job alone = SHARDSTEP_JOB_INIT;
  const COptimizer optimizer = CreateInitialized(alone, "");
  ASSERT_NE(optimizer, nullptr);
  TrainC(optimizer.get(), 0, 1, /*micro_batches=*/1);
  OfAnotherHeader<shardstep_counters> shorter({}, offsetof(shardstep_counters, applied_steps));
  ASSERT_C_OK(shardstep_read_counters(optimizer.get(), shorter.get()));
  int64_t step = 0;
  std::memcpy(&step, shorter.bytes().data() + offsetof(shardstep_counters, step), sizeof(step));
  EXPECT_EQ(step, 1);

  OfAnotherHeader<shardstep_counters> longer({}, sizeof(shardstep_counters) + 8, 0xee);
  ASSERT_C_OK(shardstep_read_counters(optimizer.get(), longer.get()));
  EXPECT_EQ(longer.get()->size, sizeof(shardstep_counters) + 8);
  EXPECT_EQ(longer.get()->applied_steps, 1);
  const auto& bytes = longer.bytes();
  EXPECT_THAT(std::vector<int>(bytes.end() - 8, bytes.end()), Each(0));
}

TEST(CStructsTest, FieldsAreRefusedByName) {
  const auto refused_job = [](const shardstep_job& job) {
    shardstep_optimizer* created = nullptr;
    EXPECT_EQ(shardstep_optimizer_create(&job, "", nullptr, 0, &created), SHARDSTEP_INVALID_ARGUMENT);
    EXPECT_EQ(created, nullptr);
    return std::string(shardstep_last_error());
  };
  shardstep_job job = SHARDSTEP_JOB_INIT;
  job.meet = 3;
  EXPECT_THAT(refused_job(job), HasSubstr("job.meet = 3"));
  job = SHARDSTEP_JOB_INIT;
  job.gpu_transport = -1;
  EXPECT_THAT(refused_job(job), HasSubstr("job.gpu_transport = -1"));
  job = SHARDSTEP_JOB_INIT;
  job.device = "tpu";
  EXPECT_THAT(refused_job(job), HasSubstr("device = \"tpu\""));
  job = SHARDSTEP_JOB_INIT;
  for (const double seconds : {-1.0, kNan, std::numeric_limits<double>::infinity()}) {
    job.deadline_seconds = seconds;
    EXPECT_THAT(refused_job(job), HasSubstr("job.deadline_seconds = "));
  }
  job = SHARDSTEP_JOB_INIT;
  job.meet = SHARDSTEP_MEET_TCP;
  EXPECT_THAT(refused_job(job), HasSubstr("world_size = 0"));
  job.world_size = 2;
  EXPECT_THAT(refused_job(job), HasSubstr("id"));

  const auto refused_parameter = [](const shardstep_parameter& wrong) {
    std::vector<shardstep_parameter> parameters = TestParameters();
    parameters[1] = wrong;
    EXPECT_EQ(Estimate(parameters.data(), parameters.size()), SHARDSTEP_INVALID_ARGUMENT);
    return std::string(shardstep_last_error());
  };
  const shardstep_parameter right = TestParameters()[1];
  shardstep_parameter wrong = right;
  wrong.name = nullptr;
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("parameters[1].name = NULL"));
  wrong = right;
  wrong.shape = nullptr;
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("parameters[1].shape = NULL"));
  wrong = right;
  wrong.weight_dtype = 2;
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("parameters[1].weight_dtype = 2"));
  wrong = right;
  wrong.gradient_dtype = -1;
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("parameters[1].gradient_dtype = -1"));
  wrong = right;
  wrong.frozen = 2;
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("parameters[1].frozen = 2"));
  wrong = right;
  wrong.group = 1;
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("\"vector\""));
  wrong = right;
  wrong.norm_weight = kNan;
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("\"vector\""));
  wrong = right;
  wrong.tied_to = "precise";
  EXPECT_THAT(refused_parameter(wrong), HasSubstr("\"precise\""));
}

TEST(CStructsTest, AScalarHasNoShape) {
  shardstep_parameter scalar = SHARDSTEP_PARAMETER_INIT;
  scalar.name = "scalar";
  const shardstep_job alone = SHARDSTEP_JOB_INIT;
  const COptimizer optimizer = CreateC(alone, "", {scalar});
  ASSERT_NE(optimizer, nullptr);
  shardstep_array array = SHARDSTEP_ARRAY_INIT;
  ASSERT_C_OK(shardstep_gradient(optimizer.get(), 0, &array));
  EXPECT_EQ(array.elements, 1);
}

}  // namespace
}  // namespace shardstep
