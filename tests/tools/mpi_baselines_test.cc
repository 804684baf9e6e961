// Each baseline, judged by a loop over the whole model.

#include "shardstep/tools/bench/mpi_baselines.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shardstep/optimizer/master_weights.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/tests/comm/mpi_main.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {
namespace {

constexpr int kSteps = 3;
constexpr int64_t kSmallPiece = 3 << 10;  // several of them, and several chunks of a shard

MpiRendezvous*& Job() {
  static MpiRendezvous* job = nullptr;
  return job;
}

// All shapes of a bench's model: matrices, vectors, a scalar, none of them whole blocks.
std::vector<ParameterSpec> SmallParameters() {
  return {{.name = "matrix", .shape = {37, 101}},
          {.name = "vector", .shape = {2500}},
          {.name = "scalar"},
          {.name = "last", .shape = {7, 11, 13}}};
}
std::vector<ParameterSpec> Flat() { return MakeBenchModel("flat:10000").value(); }

BenchOptions Options(std::vector<ParameterSpec> parameters, const GroupOptions& group, std::optional<double> max_norm) {
  BenchOptions options;
  options.parameters = std::move(parameters);
  options.optimizer.groups = {group};
  options.max_norm = max_norm;
  return options;
}

GroupOptions AdamW(Master master) { return {.rule = AdamWOptions(), .master = master}; }
// Whose steps are seen in bf16, and grow with the gradient: a clip factor shows.
GroupOptions Sgd() { return {.rule = SgdOptions{.momentum = 0.9, .learning_rate_factor = 1e4}}; }

// The whole model of one process without pieces, shards or messages.
class Judge {
 public:
  // `rounded_sums`: of two ranks, as mpi_bf16_op adds them.
  Judge(const BenchOptions& options, int ranks, bool rounded_sums) : options_(options), ranks_(ranks) {
    gradients_.resize(static_cast<size_t>(ranks));
    for (int p = 0; p < static_cast<int>(options.parameters.size()); ++p) {
      for (int64_t i = 0; i < ElementCount(options.parameters[p]).value(); ++i) Add(p, i);
    }
    if (rounded_sums) {
      for (size_t i = 0; i < weights_.size(); ++i) {
        gradients_[0][i] = ToBf16(ToFloat(gradients_[0][i]) + ToFloat(gradients_[1][i]));
        gradients_[1][i] = ToBf16(0);
      }
    }
    first_moment_.resize(weights_.size());
    second_moment_.resize(weights_.size());
  }

  void Step() {
    const UpdateKind kind = options_.optimizer.groups[0].kind();
    std::vector<Slice> slices;
    for (int r = 0; r < ranks_; ++r) slices.push_back({.data = gradients_[r].data(), .rank = r});
    const Segment segment = {.elements = static_cast<int64_t>(weights_.size())};
    const UpdateScalars scalars = {
        .apply = true, .scale = static_cast<float>(ClipFactor() / ranks_), .applied_step = ++step_};
    const RuleScalars rule = MakeRuleScalars(options_.optimizer.groups[0], kBenchLearningRate, step_);
    void* const destination = weights_.data();
    UpdateReference({.kind = kind,
                     .segments = absl::MakeConstSpan(&segment, 1),
                     .sum = {.slices = slices},
                     .master = kind.master == Master::kFp32 ? master_.data() : nullptr,
                     .remainder = kind.master == Master::kSplit ? remainder_.data() : nullptr,
                     .first_moment = first_moment_.data(),
                     .second_moment = kind.has_second_moment() ? second_moment_.data() : nullptr,
                     .destinations = absl::MakeConstSpan(&destination, 1),
                     .scalars = &scalars,
                     .rules = absl::MakeConstSpan(&rule, 1)});
  }

  double ClipFactor() const {
    if (!options_.max_norm) return 1;
    double squares = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      float sum = 0;
      for (const auto& gradients : gradients_) sum += ToFloat(gradients[i]);
      squares += static_cast<double>(sum) * sum;
    }
    return std::min(1.0, *options_.max_norm / (std::sqrt(squares) / ranks_ + 1e-6));
  }

  const std::vector<Bf16>& weights() const { return weights_; }

 private:
  void Add(int p, int64_t i) {
    const float master = BenchMaster(p, i);
    const bool split = options_.optimizer.groups[0].master == Master::kSplit;
    master_.push_back(master);
    remainder_.push_back(Split(master).remainder);
    weights_.push_back(split ? Split(master).weight : ToBf16(master));
    for (int r = 0; r < ranks_; ++r) gradients_[r].push_back(BenchGradient(r, p, i));
  }

  const BenchOptions options_;
  const int ranks_;
  int64_t step_ = 0;
  std::vector<std::vector<Bf16>> gradients_;  // by rank
  std::vector<Bf16> weights_;
  std::vector<float> master_, first_moment_, second_moment_;
  std::vector<uint16_t> remainder_;
};

struct Difference {
  int64_t unequal = 0;
  double largest = 0;
};

Difference Compare(absl::Span<const Bf16> weights, const std::vector<Bf16>& expected) {
  Difference difference;
  EXPECT_EQ(weights.size(), expected.size());
  for (size_t i = 0; i < std::min(weights.size(), expected.size()); ++i) {
    difference.unequal += weights[i] == expected[i] ? 0 : 1;
    difference.largest =
        std::max(difference.largest, std::fabs(static_cast<double>(ToFloat(weights[i])) - ToFloat(expected[i])));
  }
  return difference;
}

class MpiBaselinesTest : public testing::Test {
 protected:
  int ranks() const { return Job()->world_size(); }

  // Of kSteps steps, against the judge.
  Difference Run(Baseline baseline, const BenchOptions& options, int64_t largest_piece_elements,
                 bool rounded_sums = false) {
    auto created = MpiBaseline::Create(baseline, options, largest_piece_elements);
    EXPECT_TRUE(created.ok()) << created.status();
    if (!created.ok()) return {.unequal = -1};
    Judge judge(options, ranks(), rounded_sums);
    EXPECT_EQ(Compare((*created)->weights(), judge.weights()).unequal, 0) << "before any step";
    const std::vector<Bf16> first = judge.weights();
    for (int step = 0; step < kSteps; ++step) {
      const absl::Status status = (*created)->Step();
      EXPECT_TRUE(status.ok()) << status;
      judge.Step();
    }
    EXPECT_GT(Compare(first, judge.weights()).unequal, static_cast<int64_t>(first.size() / 2)) << "nothing moves";
    return Compare((*created)->weights(), judge.weights());
  }

  void ExpectSameBits(Baseline baseline, const BenchOptions& options, bool rounded_sums = false) {
    for (const int64_t piece : {MpiBaseline::kLargestPieceElements, kSmallPiece}) {
      SCOPED_TRACE(absl::StrCat("pieces of ", piece));
      EXPECT_EQ(Run(baseline, options, piece, rounded_sums).unequal, 0);
    }
  }

  // Where sums are formed in another order, or rounded.
  void ExpectSimilar(Baseline baseline, const BenchOptions& options, double unequal_share, double largest) {
    for (const int64_t piece : {MpiBaseline::kLargestPieceElements, kSmallPiece}) {
      SCOPED_TRACE(absl::StrCat("pieces of ", piece));
      const Difference difference = Run(baseline, options, piece);
      EXPECT_GE(difference.unequal, 0);
      EXPECT_LE(static_cast<double>(difference.unequal),
                unequal_share * static_cast<double>(ElementCount(options.parameters)));
      EXPECT_LE(difference.largest, largest);
    }
  }
};

// Slices are summed in the order of ranks: the library's own bits.
TEST_F(MpiBaselinesTest, SlicesGiveTheContractsBits) {
  for (const Baseline baseline : {Baseline::kAllToAll, Baseline::kPointToPoint}) {
    for (const auto& parameters : {Flat(), SmallParameters()}) {
      for (const Master master : {Master::kFp32, Master::kSplit}) {
        SCOPED_TRACE(
            absl::StrCat("baseline ", static_cast<int>(baseline), ", ", parameters[0].name, ", ", Name(master)));
        ExpectSameBits(baseline, Options(parameters, AdamW(master), std::nullopt));
      }
    }
  }
}

// Two addends commute; MPI chooses the order of three.
TEST_F(MpiBaselinesTest, Fp32GivesTheContractsBitsUpToTwoRanks) {
  for (const auto& parameters : {Flat(), SmallParameters()}) {
    for (const Master master : {Master::kFp32, Master::kSplit}) {
      SCOPED_TRACE(absl::StrCat(parameters[0].name, ", ", Name(master)));
      const BenchOptions options = Options(parameters, AdamW(master), std::nullopt);
      if (ranks() <= 2) {
        ExpectSameBits(Baseline::kFp32, options);
      } else {
        ExpectSimilar(Baseline::kFp32, options, 1e-3, 2 * kSteps * kBenchLearningRate);
      }
    }
  }
}

TEST_F(MpiBaselinesTest, Bf16OpRoundsEveryAddition) {
  const BenchOptions options = Options(Flat(), Sgd(), std::nullopt);
  if (ranks() <= 2) ExpectSameBits(Baseline::kBf16Op, options, /*rounded_sums=*/ranks() == 2);
  if (ranks() == 1) return;
  EXPECT_GT(Run(Baseline::kBf16Op, options, MpiBaseline::kLargestPieceElements).unequal, 0) << "sums are not rounded";
  ExpectSimilar(Baseline::kBf16Op, options, 0.5, 1e-3);
}

// Their norms are added up in another order.
TEST_F(MpiBaselinesTest, ClipsAsTheContractDoes) {
  for (const auto& parameters : {Flat(), SmallParameters()}) {
    for (const double max_norm : {0.01, 1e3}) {
      const BenchOptions options = Options(parameters, Sgd(), max_norm);
      const double factor = Judge(options, ranks(), false).ClipFactor();
      ASSERT_TRUE(max_norm > 1 ? factor == 1 : factor < 0.5) << factor;
      for (const Baseline baseline : kAllBaselines) {
        SCOPED_TRACE(absl::StrCat("baseline ", static_cast<int>(baseline), ", ", parameters[0].name, ", ", max_norm));
        const bool rounds = baseline == Baseline::kBf16Op;
        ExpectSimilar(baseline, options, rounds ? 0.5 : 1e-3, 1e-3);
      }
    }
  }
}

TEST_F(MpiBaselinesTest, RefusesWhatBaselinesDoNotHave) {
  const auto refusal = [](const BenchOptions& options) {
    return MpiBaseline::Create(Baseline::kAllToAll, options).status().ToString();
  };
  BenchOptions options = Options(Flat(), AdamW(Master::kFp32), std::nullopt);
  options.optimizer.micro_steps = 2;
  EXPECT_THAT(refusal(options), testing::HasSubstr("INVALID_ARGUMENT: micro_steps = 2"));
  options.optimizer.micro_steps = 1;
  options.optimizer.groups.resize(2);
  EXPECT_THAT(refusal(options), testing::HasSubstr("INVALID_ARGUMENT: 2 groups"));
  options.optimizer.groups.resize(1);
  options.parameters[0].gradient_dtype = DType::kFp32;
  EXPECT_THAT(refusal(options),
              testing::HasSubstr("INVALID_ARGUMENT: parameter \"" + options.parameters[0].name + "\""));
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  return shardstep::MpiTestMain(argc, argv, [](shardstep::MpiRendezvous& owner) { shardstep::Job() = &owner; });
}
