#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_join.h"
#include "shardstep/comm/mutex.h"
#include "shardstep/optimizer/cpu_block_kernels.h"
#include "shardstep/optimizer/decision_formula.h"
#include "shardstep/optimizer/digest.h"
#include "shardstep/optimizer/float_environment.h"
#include "shardstep/optimizer/kernel_arguments.h"
#include "shardstep/optimizer/master_weights.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/sum_schedule.h"
#include "shardstep/optimizer/worker_pool.h"

namespace shardstep {
namespace {

constexpr int64_t kBlock = ShardLayout::kBlockElements;
// What a thread takes at a time: large enough for the prefetchers, small enough to end together.
constexpr int64_t kBlocksPerTake = 32;

int64_t BlocksOf(const Segment& segment) { return (segment.elements + kBlock - 1) / kBlock; }

int64_t BlocksOf(absl::Span<const Segment> segments) {
  int64_t blocks = 0;
  for (const Segment& segment : segments) blocks += BlocksOf(segment);
  return blocks;
}

// The blocks of all segments, numbered through; visited in ascending order.
class BlockCursor {
 public:
  explicit BlockCursor(absl::Span<const Segment> segments) : segments_(segments) {}

  // Calls visit(BlockRun) for blocks [begin, end), which are not below those of the call before.
  template <typename Visit>
  void ForEachRun(int64_t begin, int64_t end, const Visit& visit) {
    while (begin < end) {
      const Segment& segment = segments_[index_];
      const int64_t blocks = BlocksOf(segment);
      if (begin >= first_block_ + blocks) {
        first_block_ += blocks;
        ++index_;
        continue;
      }
      const int64_t first = (begin - first_block_) * kBlock;
      const int64_t last = std::min((end - first_block_) * kBlock, segment.elements);
      visit(BlockRun{.segment = &segment, .begin = first, .elements = last - first});
      begin = std::min(end, first_block_ + blocks);
    }
  }

 private:
  absl::Span<const Segment> segments_;
  size_t index_ = 0;
  int64_t first_block_ = 0;  // of segments_[index_]
};

// Of elements [begin, begin + elements) of the array.
Digest DigestOfRun(const DigestArgs& args, int64_t begin, int64_t elements) {
  const auto count = static_cast<size_t>(elements);
  const auto* const bf16 = static_cast<const Bf16*>(args.values) + begin;
  switch (args.form) {
    case DigestForm::kBf16:
      return DigestOf(args.parameter, args.begin_element + begin, absl::MakeConstSpan(bf16, count));
    case DigestForm::kFp32:
      return DigestOf(args.parameter, args.begin_element + begin,
                      absl::MakeConstSpan(static_cast<const float*>(args.values) + begin, count));
    case DigestForm::kWidened:
      break;
  }
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = args.remainder == nullptr ? ToFloat(bf16[i])
                                          : Join({.weight = bf16[i], .remainder = args.remainder[begin + i]});
  }
  return DigestOf(args.parameter, args.begin_element + begin, absl::MakeConstSpan(values));
}

class CpuShardKernels : public ShardKernels {
 public:
  CpuShardKernels(CpuBlockKernels block_kernels, std::unique_ptr<WorkerPool> pool)
      : block_kernels_(block_kernels), pool_(std::move(pool)) {}

  absl::Status Reduce(const ReduceArgs& args, Stream& stream) override {
    return Enqueue("reduce", args, stream, [this, args] {
      RunReduce(args);
      return absl::OkStatus();
    });
  }

  absl::Status Update(const UpdateArgs& args, Stream& stream) override {
    return Enqueue("update", args, stream, [this, args] { return RunUpdate(args); });
  }

  absl::Status Zero(const ZeroArgs& args, Stream& stream) override {
    return Enqueue("zero", args, stream, [this, view = args.gradient] {
      block_kernels_.zero(view.size_bytes, view.data);
      return absl::OkStatus();
    });
  }

  absl::Status Copy(const CopyArgs& args, Stream& stream) override {
    return Enqueue("copy", args, stream, [this, args] {
      block_kernels_.copy(args.from, args.size_bytes, args.to);
      return absl::OkStatus();
    });
  }

  absl::Status Digest(const DigestArgs& args, Stream& stream) override {
    return Enqueue("digest", args, stream, [this, args] {
      RunDigest(args);
      return absl::OkStatus();
    });
  }

  absl::Status Contribute(const ContributeWords& words, Stream& stream) override {
    return Enqueue("contribute", words, stream, [words] {
      ContributeScans(words);
      return absl::OkStatus();
    });
  }

  absl::Status Decide(const DecideWords& words, Stream& stream) override {
    return Enqueue("decide", words, stream, [words] {
      DecideStep(words);
      if (words.scalars->apply) {
        std::atomic_ref(words.report->applied_in_step).store(words.order->step, std::memory_order_release);
      }
      return absl::OkStatus();
    });
  }

  absl::Status SetSegments(absl::Span<const absl::Span<const Segment>>) override { return absl::OkStatus(); }

  absl::string_view target() const override { return block_kernels_.target; }

 private:
  template <typename Args>
  static absl::Status Enqueue(absl::string_view name, const Args& args, Stream& stream, HostStream::Work work) {
    SHARDSTEP_RETURN_IF_ERROR(CheckArguments(args));
    auto* host_stream = dynamic_cast<HostStream*>(&stream);
    if (host_stream == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": kernels of the CPU need a host stream"));
    }
    host_stream->Enqueue(name, std::move(work));
    return absl::OkStatus();
  }

  // Calls visit(run, thread_result) for every block of `segments`, shared among the threads; then merge(thread_result),
  // one thread at a time.
  template <typename Result, typename Visit, typename Merge>
  void ForEachRun(absl::Span<const Segment> segments, const Visit& visit, const Merge& merge) {
    const int64_t blocks = BlocksOf(segments);
    std::atomic<int64_t> next = 0;
    Mutex mutex;
    const std::function<void()> share = [&] {
      const FloatEnvironment ieee;
      BlockCursor cursor(segments);
      Result result;
      for (int64_t begin; (begin = next.fetch_add(kBlocksPerTake, std::memory_order_relaxed)) < blocks;) {
        cursor.ForEachRun(begin, std::min(begin + kBlocksPerTake, blocks),
                          [&](const BlockRun& run) { visit(run, &result); });
      }
      MutexLock lock(&mutex);
      merge(result);
    };
    if (blocks > kBlocksPerTake) {
      pool_->Run(share);
    } else {
      share();
    }
  }

  void RunReduce(const ReduceArgs& args) {
    const SumSchedule schedule = MakeSumSchedule(args.sum);
    ForEachRun<ScanResult>(
        args.segments,
        [&](const BlockRun& run, ScanResult* scan) {
          block_kernels_.reduce(args, schedule, run, args.scan == nullptr ? nullptr : scan);
        },
        [&](const ScanResult& scan) {
          if (args.scan != nullptr) args.scan->Merge(scan);
        });
  }

  absl::Status RunUpdate(const UpdateArgs& args) {
    if (!args.scalars->apply) return absl::OkStatus();
    for (const Segment& segment : args.segments) {
      if (static_cast<size_t>(segment.scalars) >= args.rules.size()) {
        return absl::InternalError(absl::StrCat("parameter ", segment.parameter, " has scalars number ",
                                                segment.scalars, ", but there are ", args.rules.size()));
      }
    }
    const SumSchedule schedule = MakeSumSchedule(args.sum);
    struct Nothing {};
    ForEachRun<Nothing>(
        args.segments, [&](const BlockRun& run, Nothing*) { block_kernels_.update(args, schedule, run); },
        [](const Nothing&) {});
    return absl::OkStatus();
  }

  void RunDigest(const DigestArgs& args) {
    const Segment whole = {.elements = args.elements};
    ForEachRun<shardstep::Digest>(
        absl::MakeConstSpan(&whole, 1),
        [&](const BlockRun& run, shardstep::Digest* sum) { *sum += DigestOfRun(args, run.begin, run.elements); },
        [&](const shardstep::Digest& sum) { Add(sum, args.sum); });
  }

  const CpuBlockKernels block_kernels_;
  const std::unique_ptr<WorkerPool> pool_;
};

absl::StatusOr<CpuBlockKernels> Choose(absl::string_view target) {
  std::vector<absl::string_view> known;
  for (const CpuBlockKernels& kernels : AllCpuBlockKernels()) {
    known.push_back(kernels.target);
    if (target.empty() ? kernels.supported : kernels.target == target) {
      if (kernels.supported) return kernels;
      return absl::InvalidArgumentError(absl::StrCat("target \"", target, "\": this CPU lacks it"));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("target \"", target, "\" is unknown; there are ", absl::StrJoin(known, ", ")));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShardKernels>> CreateCpuShardKernels(int threads, absl::string_view target) {
  if (threads < 1) return absl::InvalidArgumentError(absl::StrCat("threads = ", threads, " is not positive"));
  SHARDSTEP_ASSIGN_OR_RETURN(const CpuBlockKernels block_kernels, Choose(target));
  SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<WorkerPool> pool, WorkerPool::Create(threads - 1));
  return std::make_unique<CpuShardKernels>(block_kernels, std::move(pool));
}

std::vector<CpuTarget> CpuTargets() {
  std::vector<CpuTarget> targets;
  for (const CpuBlockKernels& kernels : AllCpuBlockKernels()) {
    targets.push_back({.name = kernels.target, .supported = kernels.supported});
  }
  return targets;
}

}  // namespace shardstep
