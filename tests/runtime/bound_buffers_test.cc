#include "shardstep/runtime/bound_buffers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <string>
#include <vector>

#include "shardstep/comm/bf16.h"
#include "shardstep/tests/comm/rank_threads.h"
#include "training_job.h"

namespace shardstep {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using What = BoundBuffers::What;

class BoundBuffersTest : public ::testing::Test {
 protected:
  BoundBuffersTest()
      : layout_(*ShardLayout::Create({{.name = "w", .shape = {1000}},
                                      {.name = "norm", .shape = {10}, .weight_dtype = DType::kFp32},
                                      {.name = "again", .shape = {1000}, .tied_to = "w"},
                                      {.name = "v", .shape = {1000}}},
                                     {})),
        arena_(4096),
        buffers_(&layout_, &HostMemory(), {{arena_.data(), 4096}}) {}

  BufferView Bytes(int64_t offset, int64_t size_bytes) { return {memory_.data() + offset, size_bytes}; }
  std::string Refusal(What what, int p, BufferView buffer) {
    const absl::Status status = buffers_.Bind(what, p, buffer);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }

  const ShardLayout layout_;
  std::vector<std::byte> arena_;
  std::vector<std::byte> memory_ = std::vector<std::byte>(8192);
  BoundBuffers buffers_;
};

// "again" is tied to "w": whoever of both is ready second would be overwritten by a copy.
TEST_F(BoundBuffersTest, L6RefusesTiedGradients) {
  EXPECT_THAT(Refusal(What::kGradient, 0, Bytes(0, 2000)), AllOf(HasSubstr("\"w\""), HasSubstr("\"again\" is tied")));
  EXPECT_TRUE(buffers_.Bind(What::kWeights, 0, Bytes(0, 2000)).ok());
}

TEST_F(BoundBuffersTest, KeepsWhatIsBound) {
  ASSERT_TRUE(buffers_.Bind(What::kGradient, 3, Bytes(0, 2000)).ok());
  ASSERT_TRUE(buffers_.Bind(What::kWeights, 1, Bytes(2000, 40)).ok());
  EXPECT_EQ(buffers_.bound(What::kGradient, 3).data, memory_.data());
  EXPECT_EQ(buffers_.bound(What::kWeights, 0).data, nullptr);
  EXPECT_THAT(buffers_.Copied(), ElementsAre("weights of \"norm\"", "gradient of \"v\""));
  ASSERT_TRUE(buffers_.Bind(What::kGradient, 3, {}).ok());
  EXPECT_THAT(buffers_.Copied(), ElementsAre("weights of \"norm\""));
}

TEST_F(BoundBuffersTest, L6RefusesByName) {
  EXPECT_THAT(Refusal(What::kGradient, 3, Bytes(0, 1998)),
              AllOf(HasSubstr("\"v\""), HasSubstr("1998 bytes, not 2000")));
  EXPECT_THAT(Refusal(What::kGradient, 3, Bytes(1, 2000)), AllOf(HasSubstr("\"v\""), HasSubstr("not aligned")));
  EXPECT_THAT(Refusal(What::kWeights, 1, Bytes(2, 40)), AllOf(HasSubstr("\"norm\""), HasSubstr("aligned to fp32")));
  EXPECT_THAT(Refusal(What::kGradient, 2, Bytes(0, 2000)), AllOf(HasSubstr("\"again\""), HasSubstr("tied to \"w\"")));
  EXPECT_THAT(Refusal(What::kGradient, 4, Bytes(0, 2000)), HasSubstr("parameter 4"));
  EXPECT_THAT(Refusal(What::kGradient, 3, {arena_.data() + 2200, 2000}), HasSubstr("memory of the optimizer"));
  ASSERT_TRUE(buffers_.Bind(What::kGradient, 3, Bytes(0, 2000)).ok());
  EXPECT_THAT(Refusal(What::kWeights, 1, Bytes(1996, 40)),
              AllOf(HasSubstr("\"norm\""), HasSubstr("gradient of \"v\"")));
  EXPECT_TRUE(buffers_.Bind(What::kGradient, 3, Bytes(1000, 2000)).ok()) << "a buffer may move over itself";
  EXPECT_THAT(buffers_.Copied(), ElementsAre("gradient of \"v\""));
}

TEST_F(BoundBuffersTest, L6RefusesMemoryThatIsGone) {
  void* const pages = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  // Whether pages are mapped, not whether they were touched.
  EXPECT_TRUE(buffers_.Bind(What::kGradient, 3, {static_cast<std::byte*>(pages) + 3000, 2000}).ok());
  ASSERT_EQ(munmap(pages, 8192), 0);
  EXPECT_THAT(Refusal(What::kWeights, 0, {static_cast<std::byte*>(pages) + 3000, 2000}),
              AllOf(HasSubstr("\"w\""), HasSubstr("overlaps")));
  ASSERT_TRUE(buffers_.Bind(What::kGradient, 3, {}).ok());
  EXPECT_THAT(Refusal(What::kWeights, 0, {static_cast<std::byte*>(pages) + 3000, 2000}),
              AllOf(HasSubstr("\"w\""), HasSubstr("not mapped")));
}

// The same bits from and to the caller's own memory, and every record says so.
TEST(BoundBuffersOfAnOptimizer, SameBitsThroughTheCallersMemory) {
  TrainingJob job;
  job.world_size = 2;
  job.options.bucket_bytes = 1;
  const TrainingResult own = RunTrainingJob(job);
  EXPECT_THAT(own.records[0].copied_buffers, IsEmpty());

  std::vector<std::vector<Bf16>> gradients(2), weights(2);
  job.before_step = [&](ShardedOptimizer& optimizer, int64_t step) {
    if (step != 0) return;
    const int rank = optimizer.rank();
    const int64_t elements = optimizer.layout().elements(4);
    gradients[rank].resize(elements);
    weights[rank].resize(elements);
    const int64_t size_bytes = elements * static_cast<int64_t>(sizeof(Bf16));
    ASSERT_TRUE(optimizer.BindGradient(4, {reinterpret_cast<std::byte*>(gradients[rank].data()), size_bytes}).ok());
    ASSERT_TRUE(optimizer.BindWeights(4, {reinterpret_cast<std::byte*>(weights[rank].data()), size_bytes}).ok());
    EXPECT_FALSE(optimizer.BindGradient(5, {reinterpret_cast<std::byte*>(gradients[rank].data()), 2048}).ok());
  };
  job.gradient_memory = [&](ShardedOptimizer& optimizer, int p) {
    return p == 4 ? absl::MakeSpan(gradients[optimizer.rank()]) : optimizer.gradient(p);
  };
  job.after_steps = [&](ShardedOptimizer& optimizer) {
    ASSERT_TRUE(optimizer.WeightsReady(4).ok());
    EXPECT_TRUE(
        std::equal(weights[optimizer.rank()].begin(), weights[optimizer.rank()].end(), optimizer.weights(4).begin()));
  };
  const TrainingResult bound = RunTrainingJob(job);
  EXPECT_EQ(bound.digests, own.digests);
  EXPECT_THAT(bound.records[0].copied_buffers, ElementsAre("weights of \"matrix\"", "gradient of \"matrix\""));
}

// With accumulate_gradients the caller's memory is zero when it is to be written, as the optimizer's own would be.
TEST(BoundBuffersOfAnOptimizer, IsZeroedWhereGradientsAccumulate) {
  RunRankThreads(1, [](Rendezvous& rendezvous) {
    TrainingJob job;
    job.options.accumulate_gradients = true;
    auto created =
        ShardedOptimizer::Create(job.options, {{.name = "w", .shape = {3}}}, MakeLevels(job, rendezvous), &rendezvous);
    ASSERT_TRUE(created.ok()) << created.status();
    ShardedOptimizer& optimizer = **created;
    ASSERT_TRUE(optimizer.Initialize([](int, int64_t, absl::Span<float>) {}).ok());
    std::vector<Bf16> gradient(3, ToBf16(7.0f));
    ASSERT_TRUE(optimizer.BindGradient(0, {reinterpret_cast<std::byte*>(gradient.data()), 6}).ok());
    for (int step = 0; step < 2; ++step) {
      ASSERT_TRUE(optimizer.GradientWritable(0).ok());
      for (Bf16& value : gradient) value = ToBf16(ToFloat(value) + 1.0f);
      ASSERT_TRUE(optimizer.GradientWritable(0).ok()) << "asked for again, it keeps what is there";
      ASSERT_TRUE(optimizer.GradientReady(0).ok());
      ASSERT_TRUE(optimizer.EndMicroStep().ok());
      ASSERT_TRUE(optimizer.Step({.learning_rate = 0}).ok());
      EXPECT_DOUBLE_EQ(*optimizer.FinishStep()->gradient_norm, std::sqrt(3.0));
    }
  });
}

}  // namespace
}  // namespace shardstep
