// Usage: hosts_job STEPS ELEMENTS [sum_group=G] [rounded] [local] [private] [frozen] [late=RANK]
// A job under mpirun, on however many hosts, with one parameter of ELEMENTS (frozen, if so) beside small ones: rank 0
// prints what each host should send in a step, and the digests in the end. With `late`, that rank takes 2 s before its
// last gradient of the last step, and every other rank must have reduced its earlier buckets by then.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/comm/mpi/mpi_communicator.h"
#include "shardstep/comm/mpi/mpi_rendezvous.h"
#include "shardstep/runtime/host_contributions.h"
#include "training_job.h"

namespace shardstep {
namespace {

struct Arguments {
  TrainingJob job;
  int late_rank = -1;
};

Arguments Parse(int argc, char** argv, int world_size) {
  Arguments arguments;
  TrainingJob& job = arguments.job;
  job.world_size = world_size;
  job.micro_batches = 8;
  job.max_norm = 0.5;
  job.options.bucket_bytes = 256 << 10;
  int64_t elements = 0;
  if (argc < 3 || !absl::SimpleAtoi(argv[1], &job.steps) || !absl::SimpleAtoi(argv[2], &elements)) std::exit(64);
  job.parameters.push_back({.name = "large", .shape = {elements}});
  for (int i = 3; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "sum_group=")) {
      if (!absl::SimpleAtoi(argument, &job.options.sum_group)) std::exit(64);
    } else if (absl::ConsumePrefix(&argument, "late=")) {
      if (!absl::SimpleAtoi(argument, &arguments.late_rank)) std::exit(64);
    } else if (argument == "rounded") {
      job.options.host_sum = HostSum::kRounded;
    } else if (argument == "local") {
      job.options.accumulation = Accumulation::kLocal;
    } else if (argument == "frozen") {
      job.parameters.back().frozen = true;
    } else if (argument == "private") {
      job.options.weights = WeightCopies::kPrivate;
    } else {
      std::exit(64);
    }
  }
  return arguments;
}

int64_t NowMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// When this rank, before its last gradient of the last step, was late, or had all earlier buckets reduced: by itself
// and by whoever shares memory with it.
class LateRank {
 public:
  LateRank(Arguments* arguments, int rank) : job_(arguments->job), late_rank_(arguments->late_rank), rank_(rank) {
    if (late_rank_ < 0) return;
    arguments->job.before_step = [this](ShardedOptimizer& optimizer, int64_t step) {
      optimizer_ = &optimizer;
      step_ = step;
      written_ = 0;
    };
    arguments->job.before_gradient = [this](int) { BeforeGradient(); };
  }

  void UseLevels(Communicator* host) { host_ = host; }

  // Collective: whether all others were done before the late rank went on.
  bool OthersWereDone(Rendezvous& rendezvous) const {
    if (late_rank_ < 0) return true;
    const auto times = rendezvous.AllGatherBytes("times", std::to_string(done_ms_), absl::Minutes(1));
    if (!times.ok()) return false;
    const int64_t late_ms = std::atoll((*times)[late_rank_].c_str());
    int64_t last_ms = 0;
    for (int r = 0; r < rendezvous.world_size(); ++r) {
      if (r != late_rank_) last_ms = std::max<int64_t>(last_ms, std::atoll((*times)[r].c_str()));
    }
    if (rank_ == 0)
      std::printf("others done %lld ms before the late rank\n", static_cast<long long>(late_ms - last_ms));
    return last_ms > 0 && last_ms < late_ms;
  }

 private:
  void BeforeGradient() {
    const ShardLayout& layout = optimizer_->layout();
    if (step_ != job_.steps - 1 || ++written_ != layout.parameter_count() * job_.micro_steps()) return;
    if (rank_ == late_rank_) {
      std::this_thread::sleep_for(std::chrono::seconds(2));
    } else {
      // The last gradient is the first parameter's; what is before its buckets went out already.
      const int64_t exchange = (step_ + 1) * job_.micro_steps() - 1;
      ThreadStream stream;
      for (int b = 0; b < layout.buckets_of(0)[0]; ++b) {
        EXPECT_TRUE(host_->AwaitReleased(b, exchange, stream).ok());
      }
      EXPECT_TRUE(stream.Synchronize(stream.Record()).ok());
      EXPECT_GT(layout.buckets_of(0)[0], 0);
    }
    done_ms_ = NowMs();
  }

  const TrainingJob& job_;
  const int late_rank_;
  const int rank_;
  Communicator* host_ = nullptr;
  ShardedOptimizer* optimizer_ = nullptr;
  int64_t step_ = 0;
  int64_t written_ = 0;
  int64_t done_ms_ = 0;
};

int Run(int argc, char** argv) {
  auto rendezvous = MpiRendezvous::Create();
  if (!rendezvous.ok()) return 75;
  Arguments arguments = Parse(argc, argv, (*rendezvous)->world_size());
  TrainingJob& job = arguments.job;
  auto levels = CreateClusterCommunicators(
      **rendezvous,
      {.wait_deadline = job.options.wait_deadline, .private_weights = job.options.weights == WeightCopies::kPrivate});
  if (!levels.ok()) {
    std::fprintf(stderr, "%s\n", levels.status().ToString().c_str());
    return 75;
  }
  const int rank = (*rendezvous)->rank();
  const HostMap map = levels->map;
  LateRank late(&arguments, rank);
  late.UseLevels(levels->host.get());
  job.after_steps = [&](ShardedOptimizer& optimizer) {
    if (rank != 0) return;
    const std::string wire = optimizer.DescribeWire();
    if (!wire.empty()) std::printf("%s\n", wire.c_str());
    if (map.host_count() == 0) return;
    std::vector<bool> active;
    for (int b = 0; b < optimizer.layout().bucket_count(); ++b) active.push_back(optimizer.groups().active(b));
    const WireBytes bytes = WireBytesPerHost(map, optimizer.layout(), active, job.options, job.micro_steps());
    std::printf("plan %lld\n", static_cast<long long>(bytes.gradient_bytes + bytes.weight_bytes + bytes.small_bytes));
  };
  const TrainingResult result = RunRank(job, *std::move(levels), **rendezvous);
  EXPECT_TRUE(late.OthersWereDone(**rendezvous));
  if (rank == 0) {
    std::printf("digest weights=%s master=%s moments=%s,%s norm=%a\n", result.digests.weights.c_str(),
                result.digests.master.c_str(), result.digests.first_moment.c_str(),
                result.digests.second_moment.c_str(),
                result.records.empty() ? 0 : *result.records.back().gradient_norm);
  }
  return testing::UnitTest::GetInstance()->ad_hoc_test_result().Failed() ? 70 : 0;
}

}  // namespace
}  // namespace shardstep

int main(int argc, char** argv) {
  int no_arguments = 1;
  testing::InitGoogleTest(&no_arguments, argv);
  return shardstep::Run(argc, argv);
}
