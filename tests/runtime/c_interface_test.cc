// The C interface of one rank: what every call does, and that none trusts its arguments.
#include "shardstep/runtime/shardstep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "c_trainer.h"
#include "shardstep/proto/record.pb.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StrEq;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr shardstep_job kAlone = SHARDSTEP_JOB_INIT;

class CInterfaceTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(optimizer_, nullptr); }
  shardstep_optimizer* optimizer() { return optimizer_.get(); }

  std::vector<float> Read(const char* parameter, int32_t state) {
    std::vector<float> values(5000, kNan);
    int64_t elements = -1;
    EXPECT_C_OK(shardstep_read_state(optimizer(), parameter, state, values.data(), 5000, &elements));
    values.resize(static_cast<size_t>(elements));
    return values;
  }

 private:
  const COptimizer optimizer_ = CreateInitialized(kAlone, "micro_steps: 2");
};

// ---- Errors --------------------------------------------------------------------------------------------------------

TEST(CErrorsTest, BeforeAnyErrorThereIsNone) {
  std::thread([] {
    EXPECT_STREQ(shardstep_last_error(), "");
    EXPECT_EQ(shardstep_last_error_cause(), SHARDSTEP_OK);
  }).join();
}

TEST(CErrorsTest, EachThreadHasItsOwnWhichSuccessLeavesAlone) {
  shardstep_memory memory = SHARDSTEP_MEMORY_INIT;
  EXPECT_EQ(shardstep_estimate_memory("bucket_bytes: 0", nullptr, 0, 1, &memory), SHARDSTEP_INVALID_ARGUMENT);
  const std::string mine = shardstep_last_error();
  EXPECT_THAT(mine, HasSubstr("bucket_bytes = 0"));
  std::thread([&] {
    EXPECT_EQ(shardstep_estimate_memory("", nullptr, 0, 0, &memory), SHARDSTEP_INVALID_ARGUMENT);
  }).join();
  EXPECT_C_OK(shardstep_estimate_memory("", nullptr, 0, 1, &memory));
  EXPECT_EQ(shardstep_last_error(), mine);
  EXPECT_EQ(shardstep_last_error_cause(), SHARDSTEP_INVALID_ARGUMENT);
}

TEST(CErrorsTest, OptionsAreNamedByLineAndField) {
  shardstep_memory memory = SHARDSTEP_MEMORY_INIT;
  const auto estimate = [&](const char* options) { return shardstep_estimate_memory(options, nullptr, 0, 1, &memory); };
  EXPECT_C_ERROR(estimate("micro_steps: 1\nno_such: 2"), SHARDSTEP_INVALID_ARGUMENT,
                 AllOf(HasSubstr("options:2:"), HasSubstr("no_such")));
  EXPECT_C_ERROR(estimate("group { adamw { beta1: 0.9 } } group { adamw { beta2: 2 } }"), SHARDSTEP_INVALID_ARGUMENT,
                 HasSubstr("group[1].adamw.beta2 = 2"));
}

TEST(CErrorsTest, NullIsNamed) {
  const auto expect = [](shardstep_code code, const char* argument) {
    EXPECT_C_ERROR(code, SHARDSTEP_INVALID_ARGUMENT, HasSubstr(std::string(argument) + " = NULL"));
  };
  shardstep_optimizer* created = nullptr;
  shardstep_array array = SHARDSTEP_ARRAY_INIT;
  shardstep_memory memory = SHARDSTEP_MEMORY_INIT;
  shardstep_digests digests = SHARDSTEP_DIGESTS_INIT;
  shardstep_counters counters = SHARDSTEP_COUNTERS_INIT;
  shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
  const shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  const char* text = nullptr;
  int64_t number = 0;
  int32_t group = 0;
  float value = 0;
  const char* const names[] = {"a"};

  expect(shardstep_create_job_id(nullptr, nullptr), "id");
  expect(shardstep_estimate_memory("", nullptr, 0, 1, nullptr), "memory");
  expect(shardstep_estimate_memory("", nullptr, 1, 1, &memory), "parameters");
  expect(shardstep_optimizer_create(nullptr, "", nullptr, 0, &created), "job");
  expect(shardstep_optimizer_create(&kAlone, "", nullptr, 0, nullptr), "optimizer");
  expect(shardstep_memory_held(nullptr, &memory), "optimizer");
  expect(shardstep_describe_wire(nullptr, &text), "optimizer");
  expect(shardstep_weights(nullptr, 0, &array), "optimizer");
  expect(shardstep_gradient(nullptr, 0, &array), "optimizer");
  expect(shardstep_bind_gradient(nullptr, 0, &value, 4), "optimizer");
  expect(shardstep_bind_weights(nullptr, 0, &value, 4), "optimizer");
  expect(shardstep_initialize(nullptr, FillTestModel, nullptr), "optimizer");
  expect(shardstep_weights_ready(nullptr, 0), "optimizer");
  expect(shardstep_gradient_writable(nullptr, 0), "optimizer");
  expect(shardstep_gradient_ready(nullptr, 0), "optimizer");
  expect(shardstep_end_micro_step(nullptr), "optimizer");
  expect(shardstep_set_micro_steps(nullptr, 1), "optimizer");
  expect(shardstep_step(nullptr, &arguments), "optimizer");
  expect(shardstep_finish_step(nullptr, nullptr, nullptr), "optimizer");
  expect(shardstep_summarize_step(nullptr, &summary), "optimizer");
  expect(shardstep_begin_capture(nullptr), "optimizer");
  expect(shardstep_end_capture(nullptr), "optimizer");
  expect(shardstep_replay(nullptr, &arguments), "optimizer");
  expect(shardstep_set_group(nullptr, 0, ""), "optimizer");
  expect(shardstep_add_group(nullptr, "", names, 1, &group), "optimizer");
  expect(shardstep_set_frozen(nullptr, names, 1, 1), "optimizer");
  expect(shardstep_set_weights(nullptr, "a", &value, 1), "optimizer");
  expect(shardstep_read_state(nullptr, "a", SHARDSTEP_MASTER, &value, 1, &number), "optimizer");
  expect(shardstep_set_state(nullptr, "a", SHARDSTEP_MASTER, &value, 1), "optimizer");
  expect(shardstep_read_counters(nullptr, &counters), "optimizer");
  expect(shardstep_read_begin_applied_step(nullptr, 0, &number), "optimizer");
  expect(shardstep_set_counters(nullptr, &counters, nullptr, 0), "optimizer");
  expect(shardstep_compute_digests(nullptr, &digests), "optimizer");
  expect(shardstep_agree(nullptr, "reading", nullptr), "optimizer");
  expect(shardstep_save(nullptr, "directory", nullptr, 0), "optimizer");
  expect(shardstep_load(nullptr, "directory", nullptr, nullptr, nullptr), "optimizer");
  expect(shardstep_join_decisions(nullptr, &created, names, 1), "job");
  expect(shardstep_join_decisions(&kAlone, nullptr, names, 1), "optimizers");
  expect(shardstep_join_decisions(&kAlone, &created, nullptr, 1), "names");
  expect(shardstep_join_decisions(&kAlone, &created, names, 1), "optimizer");
  expect(shardstep_set_away(nullptr, 1), "optimizer");
  expect(shardstep_abort(nullptr, nullptr), "optimizer");
  EXPECT_EQ(shardstep_rank(nullptr), -1);
  EXPECT_EQ(shardstep_world_size(nullptr), -1);
  shardstep_optimizer_destroy(nullptr);
}

TEST_F(CInterfaceTest, NullBehindAnOptimizerIsNamed) {
  const auto expect = [](shardstep_code code, const char* argument) {
    EXPECT_C_ERROR(code, SHARDSTEP_INVALID_ARGUMENT, HasSubstr(std::string(argument) + " = NULL"));
  };
  shardstep_counters counters = SHARDSTEP_COUNTERS_INIT;
  int64_t number = 0;
  int32_t group = 0;
  float value = 0;
  const char* const names[] = {"matrix", nullptr};
  expect(shardstep_memory_held(optimizer(), nullptr), "memory");
  expect(shardstep_describe_wire(optimizer(), nullptr), "text");
  expect(shardstep_weights(optimizer(), 0, nullptr), "array");
  expect(shardstep_gradient(optimizer(), 0, nullptr), "array");
  expect(shardstep_bind_gradient(optimizer(), 0, nullptr, 8400), "data");
  expect(shardstep_bind_weights(optimizer(), 0, nullptr, 8400), "data");
  expect(shardstep_initialize(optimizer(), nullptr, nullptr), "fill");
  expect(shardstep_step(optimizer(), nullptr), "arguments");
  expect(shardstep_summarize_step(optimizer(), nullptr), "summary");
  expect(shardstep_replay(optimizer(), nullptr), "arguments");
  expect(shardstep_add_group(optimizer(), "", names, 1, nullptr), "group");
  expect(shardstep_add_group(optimizer(), "", nullptr, 1, &group), "parameters");
  expect(shardstep_add_group(optimizer(), "", names, 2, &group), "parameters[1]");
  expect(shardstep_set_frozen(optimizer(), nullptr, 1, 0), "parameters");
  expect(shardstep_set_frozen(optimizer(), names, 2, 0), "parameters[1]");
  expect(shardstep_set_weights(optimizer(), nullptr, &value, 1), "parameter");
  expect(shardstep_set_weights(optimizer(), "matrix", nullptr, 4200), "values");
  expect(shardstep_read_state(optimizer(), nullptr, SHARDSTEP_MASTER, &value, 1, &number), "parameter");
  expect(shardstep_read_state(optimizer(), "matrix", SHARDSTEP_MASTER, nullptr, 4200, &number), "values");
  expect(shardstep_read_state(optimizer(), "matrix", SHARDSTEP_MASTER, &value, 1, nullptr), "elements");
  expect(shardstep_set_state(optimizer(), nullptr, SHARDSTEP_MASTER, &value, 1), "parameter");
  expect(shardstep_set_state(optimizer(), "matrix", SHARDSTEP_MASTER, nullptr, 4200), "values");
  expect(shardstep_read_counters(optimizer(), nullptr), "counters");
  expect(shardstep_read_begin_applied_step(optimizer(), 0, nullptr), "begin_applied_step");
  expect(shardstep_set_counters(optimizer(), nullptr, nullptr, 0), "counters");
  expect(shardstep_set_counters(optimizer(), &counters, nullptr, 3), "begin_applied_steps");
  expect(shardstep_compute_digests(optimizer(), nullptr), "digests");
  expect(shardstep_agree(optimizer(), nullptr, nullptr), "what");
  expect(shardstep_save(optimizer(), nullptr, nullptr, 0), "directory");
  expect(shardstep_save(optimizer(), "directory", nullptr, 1), "caller_state");
  expect(shardstep_load(optimizer(), nullptr, nullptr, nullptr, nullptr), "directory");
}

TEST_F(CInterfaceTest, NumbersOutOfRangeAreNamed) {
  const auto expect = [](shardstep_code code, const std::string& message) {
    EXPECT_C_ERROR(code, SHARDSTEP_INVALID_ARGUMENT, HasSubstr(message));
  };
  shardstep_array array = SHARDSTEP_ARRAY_INIT;
  int64_t number = 0;
  float value = 0;
  const char* const names[] = {"matrix"};
  for (const int32_t p : {-1, 3, std::numeric_limits<int32_t>::max()}) {
    const std::string text = std::to_string(p);
    expect(shardstep_weights(optimizer(), p, &array), "p = " + text);
    expect(shardstep_gradient(optimizer(), p, &array), "p = " + text);
    expect(shardstep_read_begin_applied_step(optimizer(), p, &number), "p = " + text);
    expect(shardstep_bind_gradient(optimizer(), p, &value, 4), text);
    expect(shardstep_bind_weights(optimizer(), p, &value, 4), text);
    expect(shardstep_weights_ready(optimizer(), p), text);
    expect(shardstep_gradient_writable(optimizer(), p), text);
    expect(shardstep_gradient_ready(optimizer(), p), text);
    expect(shardstep_set_group(optimizer(), p == 3 ? 1 : p, ""), "group");
  }
  expect(shardstep_read_state(optimizer(), "matrix", 3, &value, 1, &number), "state = 3");
  expect(shardstep_set_state(optimizer(), "matrix", -1, &value, 1), "state = -1");
  expect(shardstep_read_state(optimizer(), "matrix", SHARDSTEP_MASTER, &value, 1, &number), "room = 1");
  expect(shardstep_read_state(optimizer(), "matrix", SHARDSTEP_MASTER, &value, -1, &number), "room = -1");
  expect(shardstep_set_state(optimizer(), "matrix", SHARDSTEP_MASTER, &value, -1), "elements = -1");
  expect(shardstep_set_weights(optimizer(), "matrix", &value, -1), "elements = -1");
  expect(shardstep_set_frozen(optimizer(), names, 1, 2), "frozen = 2");
  expect(shardstep_set_micro_steps(optimizer(), 0), "micro_steps");
  for (const double seconds : {-1.0, static_cast<double>(kNan), std::numeric_limits<double>::infinity()}) {
    expect(shardstep_set_away(optimizer(), seconds), "seconds = ");
  }
  expect(shardstep_set_weights(optimizer(), "matrix", &value, 1), "4200");
  const auto unknown = [](shardstep_code code) {
    EXPECT_NE(code, SHARDSTEP_OK);
    EXPECT_THAT(shardstep_last_error(), HasSubstr("nothing"));
  };
  unknown(shardstep_set_weights(optimizer(), "nothing", &value, 1));
  unknown(shardstep_read_state(optimizer(), "nothing", SHARDSTEP_MASTER, &value, 1, &number));
  unknown(shardstep_set_state(optimizer(), "nothing", SHARDSTEP_MASTER, &value, 1));
}

TEST_F(CInterfaceTest, AnExceptionOfTheCallersFunctionIsAnErrorAndTheEnd) {
  const auto fill = [](void*, int32_t, int64_t, float*, int64_t) { throw std::runtime_error("the file ends early"); };
  EXPECT_C_ERROR(shardstep_initialize(optimizer(), fill, nullptr), SHARDSTEP_INTERNAL,
                 AllOf(HasSubstr("shardstep_initialize"), HasSubstr("the file ends early")));
  EXPECT_C_ERROR(shardstep_initialize(optimizer(), FillTestModel, nullptr), SHARDSTEP_FAILED_PRECONDITION,
                 HasSubstr("only be destroyed"));
  shardstep_optimizer* const optimizers[] = {optimizer()};
  const char* const names[] = {"broken"};
  EXPECT_C_ERROR(shardstep_join_decisions(&kAlone, optimizers, names, 1), SHARDSTEP_FAILED_PRECONDITION,
                 HasSubstr("optimizers[0]"));
}

TEST(CErrorsTest, ExceptionsAreTranslated) {
  const auto initialize = [](shardstep_fill fill) {
    return shardstep_initialize(CreateC(kAlone, "").get(), fill, nullptr);
  };
  EXPECT_C_ERROR(initialize([](void*, int32_t, int64_t, float*, int64_t) { throw 7; }), SHARDSTEP_INTERNAL,
                 HasSubstr("unknown"));
  EXPECT_C_ERROR(initialize([](void*, int32_t, int64_t, float*, int64_t) { throw std::bad_alloc(); }),
                 SHARDSTEP_RESOURCE_EXHAUSTED, StrEq("out of memory"));
  EXPECT_C_ERROR(initialize([](void*, int32_t, int64_t, float*, int64_t) { throw std::length_error("vector"); }),
                 SHARDSTEP_RESOURCE_EXHAUSTED, StrEq("out of memory"));
}

// ---- Creation ------------------------------------------------------------------------------------------------------

TEST(CCreationTest, AnErrorLeavesNoOptimizer) {
  int nothing = 0;
  auto* optimizer = reinterpret_cast<shardstep_optimizer*>(&nothing);
  auto parameters = TestParameters();
  parameters[1].name = "matrix";
  EXPECT_C_ERROR(shardstep_optimizer_create(&kAlone, nullptr, parameters.data(), 3, &optimizer),
                 SHARDSTEP_INVALID_ARGUMENT, HasSubstr("\"matrix\""));
  EXPECT_EQ(optimizer, nullptr);
}

TEST(CCreationTest, WhatIsHeldIsWhatWasEstimated) {
  const auto parameters = TestParameters();
  shardstep_memory estimate = SHARDSTEP_MEMORY_INIT;
  ASSERT_C_OK(shardstep_estimate_memory(nullptr, parameters.data(), parameters.size(), 1, &estimate));
  EXPECT_GE(estimate.weights_shared_bytes, 2 * (70 * 60 + 1500) + 4 * 1500);
  EXPECT_GE(estimate.gradient_bytes, 2 * (70 * 60 + 1500) + 4 * 1500);
  EXPECT_GE(estimate.state_bytes, 8 * (70 * 60 + 1500 + 1500));
  EXPECT_GE(estimate.master_bytes, 4 * (70 * 60 + 1500));
  const COptimizer optimizer = CreateC(kAlone, nullptr);
  ASSERT_NE(optimizer, nullptr);
  shardstep_memory held = SHARDSTEP_MEMORY_INIT;
  ASSERT_C_OK(shardstep_memory_held(optimizer.get(), &held));
  EXPECT_EQ(held.weights_shared_bytes, estimate.weights_shared_bytes);
  EXPECT_EQ(held.weights_private_bytes, estimate.weights_private_bytes);
  EXPECT_EQ(held.gradient_bytes, estimate.gradient_bytes);
  EXPECT_EQ(held.local_sum_bytes, estimate.local_sum_bytes);
  EXPECT_EQ(held.master_bytes, estimate.master_bytes);
  EXPECT_EQ(held.state_bytes, estimate.state_bytes);
  EXPECT_EQ(held.transit_bytes, estimate.transit_bytes);
  EXPECT_EQ(shardstep_rank(optimizer.get()), 0);
  EXPECT_EQ(shardstep_world_size(optimizer.get()), 1);
  const char* wire = nullptr;
  EXPECT_C_OK(shardstep_describe_wire(optimizer.get(), &wire));
  EXPECT_STREQ(wire, "");
}

TEST(CCreationTest, JobIdsAreStringsAndDiffer) {
  char first[SHARDSTEP_JOB_ID_BYTES], second[SHARDSTEP_JOB_ID_BYTES];
  ASSERT_C_OK(shardstep_create_job_id("localhost", first));
  ASSERT_C_OK(shardstep_create_job_id(nullptr, second));
  EXPECT_STRNE(first, second);
  EXPECT_C_ERROR(shardstep_create_job_id("no host, surely", first), SHARDSTEP_INVALID_ARGUMENT, HasSubstr("no host"));
}

// ---- Weights and gradients -----------------------------------------------------------------------------------------

TEST_F(CInterfaceTest, ArraysHaveTheParametersDtypesAndElements) {
  shardstep_array array = SHARDSTEP_ARRAY_INIT;
  ASSERT_C_OK(shardstep_weights_ready(optimizer(), 2));
  ASSERT_C_OK(shardstep_weights(optimizer(), 2, &array));
  EXPECT_EQ(array.size, sizeof(shardstep_array));
  EXPECT_EQ(array.dtype, SHARDSTEP_FP32);
  ASSERT_EQ(array.elements, 1500);
  EXPECT_EQ(static_cast<const float*>(array.data)[1499], InitialValue(2, 1499));
  ASSERT_C_OK(shardstep_weights_ready(optimizer(), 0));
  ASSERT_C_OK(shardstep_weights(optimizer(), 0, &array));
  EXPECT_EQ(array.dtype, SHARDSTEP_BF16);
  ASSERT_EQ(array.elements, 4200);
  EXPECT_EQ(static_cast<const uint16_t*>(array.data)[8] << 16, 0x3fa00000);  // 1.25
}

TEST_F(CInterfaceTest, TheCallersOwnBuffersStandInForTheOptimizers) {
  std::vector<float> gradient(1500, 1), weights(1500, kNan);
  EXPECT_C_ERROR(shardstep_bind_gradient(optimizer(), 2, gradient.data(), 5999), SHARDSTEP_INVALID_ARGUMENT,
                 AllOf(HasSubstr("precise"), HasSubstr("5999")));
  ASSERT_C_OK(shardstep_bind_gradient(optimizer(), 2, gradient.data(), 6000));
  ASSERT_C_OK(shardstep_bind_weights(optimizer(), 2, weights.data(), 6000));
  ASSERT_C_OK(shardstep_weights_ready(optimizer(), 2));
  EXPECT_EQ(weights[7], InitialValue(2, 7));

  for (int k = 0; k < 2; ++k) {
    ASSERT_C_OK(shardstep_gradient_writable(optimizer(), 2));
    ASSERT_C_OK(shardstep_gradient_ready(optimizer(), 2));
    ASSERT_C_OK(shardstep_end_micro_step(optimizer()));
  }
  shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  arguments.learning_rate = 0.5;
  ASSERT_C_OK(shardstep_step(optimizer(), &arguments));
  const void* record = nullptr;
  size_t bytes = 0;
  ASSERT_C_OK(shardstep_finish_step(optimizer(), &record, &bytes));
  proto::StepRecord message;
  ASSERT_TRUE(message.ParseFromArray(record, static_cast<int>(bytes)));
  EXPECT_THAT(message.copied_buffer(), SizeIs(2));
  ASSERT_C_OK(shardstep_weights_ready(optimizer(), 2));
  EXPECT_LT(weights[7], InitialValue(2, 7) - 0.4f);  // AdamW's first step goes the whole rate

  ASSERT_C_OK(shardstep_bind_gradient(optimizer(), 2, nullptr, 0));
  ASSERT_C_OK(shardstep_bind_weights(optimizer(), 2, nullptr, 0));
  weights.assign(1500, kNan);
  ASSERT_C_OK(shardstep_weights_ready(optimizer(), 2));
  EXPECT_NE(weights[7], weights[7]);
}

// ---- The step ------------------------------------------------------------------------------------------------------

TEST_F(CInterfaceTest, AStepIsSummarizedAsItsRecordSays) {
  shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
  EXPECT_C_ERROR(shardstep_summarize_step(optimizer(), &summary), SHARDSTEP_FAILED_PRECONDITION, HasSubstr("no step"));
  TrainC(optimizer(), 0, 1);
  for (int64_t k = 0; k < 2; ++k) {
    WriteGradient(optimizer(), 0, 1, k);
    ASSERT_C_OK(shardstep_end_micro_step(optimizer()));
  }
  shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  arguments.learning_rate = 0.01;
  arguments.divisor = 4;
  arguments.max_norm = 0.25;
  ASSERT_C_OK(shardstep_step(optimizer(), &arguments));
  const void* record = nullptr;
  size_t bytes = 0;
  ASSERT_C_OK(shardstep_finish_step(optimizer(), &record, &bytes));
  proto::StepRecord message;
  ASSERT_TRUE(message.ParseFromArray(record, static_cast<int>(bytes)));
  ASSERT_C_OK(shardstep_summarize_step(optimizer(), &summary));
  EXPECT_EQ(summary.size, sizeof(summary));
  EXPECT_EQ(summary.step, 2);
  EXPECT_EQ(message.step(), 2);
  EXPECT_EQ(summary.applied_steps, 2);
  EXPECT_EQ(summary.applied, 1);
  EXPECT_EQ(message.micro_batches(), 2);
  EXPECT_EQ(summary.has_gradient_norm, 1);
  EXPECT_GT(summary.gradient_norm, 1);
  EXPECT_EQ(summary.gradient_norm, message.gradient_norm());
  EXPECT_NEAR(summary.clip_factor, 0.25 / summary.gradient_norm, 1e-6);
  EXPECT_EQ(summary.clip_factor, message.clip_factor());
  EXPECT_GT(summary.step_ns, 0);
  EXPECT_EQ(summary.step_ns, message.step_ns());
  EXPECT_EQ(summary.exposed_ns, message.exposed_ns());
  EXPECT_EQ(summary.why_skipped, nullptr);
}

TEST_F(CInterfaceTest, ASkippedStepSaysWhy) {
  for (int k = 0; k < 2; ++k) {
    ASSERT_C_OK(shardstep_gradient_writable(optimizer(), 2));
    shardstep_array gradient = SHARDSTEP_ARRAY_INIT;
    ASSERT_C_OK(shardstep_gradient(optimizer(), 2, &gradient));
    for (int64_t i = 0; i < gradient.elements; ++i) static_cast<float*>(gradient.data)[i] = i == 12 ? kNan : 1;
    ASSERT_C_OK(shardstep_gradient_ready(optimizer(), 2));
    ASSERT_C_OK(shardstep_end_micro_step(optimizer()));
  }
  const shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  ASSERT_C_OK(shardstep_step(optimizer(), &arguments));
  ASSERT_C_OK(shardstep_finish_step(optimizer(), nullptr, nullptr));
  shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
  ASSERT_C_OK(shardstep_summarize_step(optimizer(), &summary));
  EXPECT_EQ(summary.applied, 0);
  EXPECT_EQ(summary.applied_steps, 0);
  EXPECT_EQ(summary.has_gradient_norm, 0);
  ASSERT_NE(summary.why_skipped, nullptr);
  EXPECT_THAT(summary.why_skipped, AllOf(HasSubstr("\"precise\""), HasSubstr("element 12")));
}

TEST_F(CInterfaceTest, ArgumentsOfAStepAreRefusedByNameAndInOrder) {
  shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  EXPECT_C_ERROR(shardstep_step(optimizer(), &arguments), SHARDSTEP_FAILED_PRECONDITION, HasSubstr("Step"));
  for (int k = 0; k < 2; ++k) ASSERT_C_OK(shardstep_end_micro_step(optimizer()));
  arguments.learning_rate = -1;
  EXPECT_C_ERROR(shardstep_step(optimizer(), &arguments), SHARDSTEP_INVALID_ARGUMENT, HasSubstr("learning_rate"));
  arguments.learning_rate = 0;
  arguments.max_norm = -1;
  EXPECT_C_ERROR(shardstep_step(optimizer(), &arguments), SHARDSTEP_INVALID_ARGUMENT, HasSubstr("max_norm"));
  arguments.max_norm = 0;
  arguments.micro_batches = -1;
  EXPECT_C_ERROR(shardstep_step(optimizer(), &arguments), SHARDSTEP_INVALID_ARGUMENT, HasSubstr("micro_batches"));
  arguments.micro_batches = 1;
  ASSERT_C_OK(shardstep_step(optimizer(), &arguments));
  ASSERT_C_OK(shardstep_finish_step(optimizer(), nullptr, nullptr));
}

TEST_F(CInterfaceTest, GraphsNeedADeviceThatCaptures) {
  const shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  EXPECT_C_ERROR(shardstep_begin_capture(optimizer()), SHARDSTEP_UNIMPLEMENTED, HasSubstr("BeginCapture"));
  EXPECT_C_ERROR(shardstep_end_capture(optimizer()), SHARDSTEP_FAILED_PRECONDITION, HasSubstr("EndCapture"));
  EXPECT_C_ERROR(shardstep_replay(optimizer(), &arguments), SHARDSTEP_FAILED_PRECONDITION, HasSubstr("Replay"));
}

TEST_F(CInterfaceTest, MicroStepsAndAbsencesAreToldAhead) {
  ASSERT_C_OK(shardstep_set_micro_steps(optimizer(), 3));
  ASSERT_C_OK(shardstep_set_away(optimizer(), 0.5));
  ASSERT_C_OK(shardstep_set_away(optimizer(), 0));
  TrainC(optimizer(), 0, 1, /*micro_batches=*/3);
}

// ---- Groups --------------------------------------------------------------------------------------------------------

TEST_F(CInterfaceTest, GroupsChangeBetweenSteps) {
  const char* const matrix[] = {"matrix"};
  const char* const others[] = {"vector", "precise"};
  EXPECT_C_ERROR(shardstep_set_group(optimizer(), 0, "adamw {\n beta3: 1 }"), SHARDSTEP_INVALID_ARGUMENT,
                 HasSubstr("group:2:"));
  EXPECT_C_ERROR(shardstep_set_group(optimizer(), 0, "lion { }"), SHARDSTEP_FAILED_PRECONDITION, HasSubstr("rule"));
  ASSERT_C_OK(shardstep_set_group(optimizer(), 0, "adamw { learning_rate_factor: 0 weight_decay: 0 }"));
  int32_t group = -1;
  ASSERT_C_OK(shardstep_add_group(optimizer(), "adamw { weight_decay: 0 }", matrix, 1, &group));
  EXPECT_EQ(group, 1);
  ASSERT_C_OK(shardstep_set_frozen(optimizer(), others, 2, 1));
  const std::vector<float> vector = Read("vector", SHARDSTEP_MASTER);
  const std::vector<float> before = Read("matrix", SHARDSTEP_MASTER);
  for (int64_t k = 0; k < 2; ++k) {
    WriteGradient(optimizer(), 0, 1, k);
    ASSERT_C_OK(shardstep_end_micro_step(optimizer()));
  }
  EXPECT_C_ERROR(shardstep_gradient_writable(optimizer(), 1), SHARDSTEP_FAILED_PRECONDITION, HasSubstr("vector"));
  shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  arguments.learning_rate = 0.01;
  ASSERT_C_OK(shardstep_step(optimizer(), &arguments));
  ASSERT_C_OK(shardstep_finish_step(optimizer(), nullptr, nullptr));
  EXPECT_NE(Read("matrix", SHARDSTEP_MASTER), before);
  EXPECT_EQ(Read("vector", SHARDSTEP_MASTER), vector);
  EXPECT_THAT(Read("vector", SHARDSTEP_FIRST_MOMENT), IsEmpty());

  ASSERT_C_OK(shardstep_set_frozen(optimizer(), others, 2, 0));
  int64_t begin = -1;
  ASSERT_C_OK(shardstep_read_begin_applied_step(optimizer(), 1, &begin));
  EXPECT_EQ(begin, 1);
  ASSERT_C_OK(shardstep_read_begin_applied_step(optimizer(), 0, &begin));
  EXPECT_EQ(begin, 0);
}

// ---- The model as a whole ------------------------------------------------------------------------------------------

TEST_F(CInterfaceTest, WeightsAreSetByTheirDtype) {
  const std::vector<uint16_t> halves(4200, 0x3fc0);
  const std::vector<float> values(1500, 0.1f);
  ASSERT_C_OK(shardstep_set_weights(optimizer(), "matrix", halves.data(), 4200));
  ASSERT_C_OK(shardstep_set_weights(optimizer(), "precise", values.data(), 1500));
  EXPECT_THAT(Read("matrix", SHARDSTEP_MASTER), AllOf(SizeIs(4200), Each(1.5f)));
  EXPECT_THAT(Read("precise", SHARDSTEP_MASTER), AllOf(SizeIs(1500), Each(0.1f)));
}

TEST_F(CInterfaceTest, AModelCarriedByItsTrainerGoesOnBitByBit) {
  TrainC(optimizer(), 0, 2);
  const COptimizer other = CreateInitialized(kAlone, "micro_steps: 2");
  ASSERT_NE(other, nullptr);
  for (const char* parameter : {"matrix", "vector", "precise"}) {
    for (const int32_t state : {SHARDSTEP_MASTER, SHARDSTEP_FIRST_MOMENT, SHARDSTEP_SECOND_MOMENT}) {
      const std::vector<float> values = Read(parameter, state);
      ASSERT_THAT(values, testing::Not(IsEmpty()));
      ASSERT_C_OK(
          shardstep_set_state(other.get(), parameter, state, values.data(), static_cast<int64_t>(values.size())));
    }
  }
  shardstep_counters counters = SHARDSTEP_COUNTERS_INIT;
  ASSERT_C_OK(shardstep_read_counters(optimizer(), &counters));
  EXPECT_EQ(counters.step, 2);
  EXPECT_EQ(counters.applied_steps, 2);
  EXPECT_EQ(counters.skipped_steps, 0);
  EXPECT_EQ(counters.consecutive_skips, 0);
  const int64_t begins[] = {0, 0, 0};
  EXPECT_C_ERROR(shardstep_set_counters(other.get(), &counters, begins, 2), SHARDSTEP_INVALID_ARGUMENT,
                 HasSubstr("begin_applied_steps"));
  ASSERT_C_OK(shardstep_set_counters(other.get(), &counters, begins, 3));
  EXPECT_EQ(DigestsOf(other.get()), DigestsOf(optimizer()));
  TrainC(optimizer(), 2, 3);
  TrainC(other.get(), 2, 3);
  EXPECT_EQ(DigestsOf(other.get()), DigestsOf(optimizer()));
}

TEST_F(CInterfaceTest, WhereThereIsNoStateNothingIsRead) {
  const COptimizer lion = CreateInitialized(kAlone, "group { lion { } }");
  float value = 0.5f;
  std::vector<float> values(4200, kNan);
  int64_t elements = -1;
  ASSERT_C_OK(shardstep_read_state(lion.get(), "matrix", SHARDSTEP_SECOND_MOMENT, values.data(), 4200, &elements));
  EXPECT_EQ(elements, 0);
  EXPECT_NE(values[0], values[0]);
  EXPECT_C_OK(shardstep_set_state(lion.get(), "matrix", SHARDSTEP_SECOND_MOMENT, nullptr, 0));
  EXPECT_C_ERROR(shardstep_set_state(lion.get(), "matrix", SHARDSTEP_SECOND_MOMENT, &value, 1),
                 SHARDSTEP_INVALID_ARGUMENT, HasSubstr("matrix"));
}

TEST_F(CInterfaceTest, DigestsAreHexadecimal) {
  const std::string digests = DigestsOf(optimizer());
  EXPECT_THAT(digests, testing::MatchesRegex("([0-9a-f]{32} ){3}[0-9a-f]{32}"));
}

}  // namespace
}  // namespace shardstep
