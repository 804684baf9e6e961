#include "shardstep/tools/bench/kernel_bench.h"

#include <functional>
#include <memory>

#include "absl/strings/str_format.h"
#include "shardstep/comm/host_memory.h"
#include "shardstep/comm/host_stream.h"
#include "shardstep/optimizer/shard_kernels.h"
#include "shardstep/optimizer/worker_pool.h"
#include "shardstep/tools/bench/bench_model.h"
#include "shardstep/tools/bench/bench_report.h"
#include "shardstep/tools/bench/memory_streams.h"

namespace shardstep {
namespace {

// One rank's shard, and the slices of all ranks.
class Arrays {
 public:
  static absl::StatusOr<std::unique_ptr<Arrays>> Create(const BenchOptions& options, int ranks) {
    auto arrays = std::make_unique<Arrays>();
    const int64_t shard = (ElementCount(options.parameters) + ranks - 1) / ranks;
    arrays->elements =
        (shard + ShardLayout::kBlockElements - 1) / ShardLayout::kBlockElements * ShardLayout::kBlockElements;
    arrays->segment = {{.elements = arrays->elements}};
    arrays->kind = options.optimizer.groups[0].kind();
    for (int rank = 0; rank < ranks; ++rank) {
      SHARDSTEP_ASSIGN_OR_RETURN(uint16_t* const gradients, arrays->Make<uint16_t>("gradients"));
      auto* const values = reinterpret_cast<Bf16*>(gradients);
      for (int64_t i = 0; i < arrays->elements; ++i) values[i] = BenchGradient(rank, 0, i);
      arrays->slices.push_back({.data = gradients, .rank = rank});
    }
    SHARDSTEP_RETURN_IF_ERROR(arrays->MakeState());
    arrays->scalars.apply = true;
    arrays->scalars.scale = 1.0f / static_cast<float>(ranks);
    arrays->rules = {MakeRuleScalars(options.optimizer.groups[0], kBenchLearningRate, 1)};
    return arrays;
  }

  MemoryStreams Slices() const {
    MemoryStreams streams;
    for (const Slice& slice : slices) streams.read2.push_back(static_cast<const uint16_t*>(slice.data));
    return streams;
  }
  void AddState(MemoryStreams* streams) const {
    for (float* array : {master, first_moment, second_moment}) {
      if (array != nullptr) streams->keep4.push_back(array);
    }
    if (remainder != nullptr) streams->keep2.push_back(remainder);
    (master == nullptr ? streams->keep2 : streams->write2).push_back(weights);
  }

  int64_t elements = 0;
  UpdateKind kind;
  std::vector<Segment> segment;
  std::vector<Slice> slices;
  float* sum = nullptr;
  float* master = nullptr;
  uint16_t* remainder = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  uint16_t* weights = nullptr;
  std::vector<void*> destinations;
  UpdateScalars scalars;
  std::vector<RuleScalars> rules;
  ScanResult scan;

 private:
  template <typename T>
  absl::StatusOr<T*> Make(absl::string_view what) {
    SHARDSTEP_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(elements * static_cast<int64_t>(sizeof(T)), what));
    buffers_.push_back(std::move(buffer));
    return buffers_.back().as<T>();
  }

  absl::Status MakeState() {
    SHARDSTEP_ASSIGN_OR_RETURN(sum, Make<float>("sums"));
    SHARDSTEP_ASSIGN_OR_RETURN(weights, Make<uint16_t>("weights"));
    destinations = {weights};
    if (kind.master == Master::kSplit) {
      SHARDSTEP_ASSIGN_OR_RETURN(remainder, Make<uint16_t>("remainders"));
    } else {
      SHARDSTEP_ASSIGN_OR_RETURN(master, Make<float>("masters"));
    }
    if (kind.has_first_moment()) {
      SHARDSTEP_ASSIGN_OR_RETURN(first_moment, Make<float>("first moments"));
    }
    if (kind.has_second_moment()) {
      SHARDSTEP_ASSIGN_OR_RETURN(second_moment, Make<float>("second moments"));
    }
    return absl::OkStatus();
  }

  std::vector<Buffer> buffers_;
};

struct KernelCase {
  const char* name;
  MemoryStreams floor;
  std::function<absl::Status(ShardKernels&, Stream&)> run;
};

KernelCase ReduceCase(const char* name, Arrays& arrays, bool reads_sum, bool writes_sum) {
  MemoryStreams floor = arrays.Slices();
  if (writes_sum) (reads_sum ? floor.keep4 : floor.write4) = {arrays.sum};
  return {name, floor, [&arrays, reads_sum, writes_sum](ShardKernels& kernels, Stream& stream) {
            return kernels.Reduce({.segments = arrays.segment,
                                   .sum = {.slices = arrays.slices, .accumulator = reads_sum ? arrays.sum : nullptr},
                                   .accumulator_out = writes_sum ? arrays.sum : nullptr,
                                   .take_norm = true,
                                   .scan = &arrays.scan},
                                  stream);
          }};
}

KernelCase UpdateCase(const char* name, Arrays& arrays, bool from_sum) {
  MemoryStreams floor = from_sum ? MemoryStreams{.read4 = {arrays.sum}} : arrays.Slices();
  arrays.AddState(&floor);
  return {name, floor, [&arrays, from_sum](ShardKernels& kernels, Stream& stream) {
            return kernels.Update(
                {.kind = arrays.kind,
                 .segments = arrays.segment,
                 .sum = {.slices = from_sum ? absl::Span<const Slice>() : absl::MakeConstSpan(arrays.slices),
                         .accumulator = from_sum ? arrays.sum : nullptr},
                 .master = arrays.master,
                 .remainder = arrays.remainder,
                 .first_moment = arrays.first_moment,
                 .second_moment = arrays.second_moment,
                 .destinations = arrays.destinations,
                 .scalars = &arrays.scalars,
                 .rules = arrays.rules},
                stream);
          }};
}

std::vector<KernelCase> Cases(Arrays& arrays) {
  const int64_t bytes = arrays.elements * 2;
  auto* const gradients = static_cast<uint16_t*>(const_cast<void*>(arrays.slices[0].data));
  uint16_t* const weights = arrays.weights;
  return {ReduceCase("reduce", arrays, false, false),
          ReduceCase("reduce_into_sum", arrays, false, true),
          ReduceCase("reduce_onto_sum", arrays, true, true),
          UpdateCase("update", arrays, false),
          UpdateCase("update_from_sum", arrays, true),
          {"copy",
           {.read2 = {gradients}, .write2 = {weights}},
           [=](ShardKernels& kernels, Stream& stream) {
             return kernels.Copy({.from = gradients, .to = weights, .size_bytes = bytes}, stream);
           }},
          {"zero", {.write2 = {weights}}, [=](ShardKernels& kernels, Stream& stream) {
             return kernels.Zero({{reinterpret_cast<std::byte*>(weights), bytes}}, stream);
           }}};
}

class KernelBench {
 public:
  KernelBench(const BenchOptions& options, MpiWorld& world, int threads, WorkerPool& pool)
      : options_(options), world_(world), threads_(threads), pool_(pool) {}

  absl::StatusOr<std::vector<KernelRow>> Run() {
    SHARDSTEP_RETURN_IF_ERROR(CheckMemory());
    SHARDSTEP_ASSIGN_OR_RETURN(arrays_, Arrays::Create(options_, world_.world_size()));
    std::vector<KernelRow> rows;
    for (const CpuTarget& target : CpuTargets()) {
      if (!target.supported) continue;
      SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<ShardKernels> kernels,
                                 CreateCpuShardKernels(threads_, target.name));
      for (const KernelCase& kernel : Cases(*arrays_)) {
        SHARDSTEP_ASSIGN_OR_RETURN(KernelRow row, Measure(kernel.name, target.name, kernel.floor,
                                                          [&] { return kernel.run(*kernels, stream_); }));
        rows.push_back(std::move(row));
      }
    }
    if (options_.optimizer.groups[0].kind() != UpdateKind() || world_.world_size() != 2) return rows;
    // The other way round: here the floor has to show that it is one.
    const MemoryStreams update = Cases(*arrays_)[3].floor;
    const std::vector<ElementRange> all = {{0, arrays_->elements}};
    SHARDSTEP_ASSIGN_OR_RETURN(KernelRow row, Measure(
                                                  "floor", "plain_loop", update,
                                                  [&] {
                                                    Move(update, all, pool_);
                                                    return absl::OkStatus();
                                                  },
                                                  &MovePlainly));
    // What stores through the caches moves 32 bytes where the floor moves 30.
    for (double& plain_ms : row.floor_ms) plain_ms *= 30.0 / 32.0;
    rows.push_back(std::move(row));
    return rows;
  }

 private:
  using Mover = void (*)(const MemoryStreams& streams, absl::Span<const ElementRange> ranges, WorkerPool& pool);

  // Before anything is allocated, and with all ranks leaving together.
  absl::Status CheckMemory() {
    const UpdateKind kind = options_.optimizer.groups[0].kind();
    const int64_t element_bytes =
        2 * int64_t{world_.world_size()} + 4 + 2 + MasterBytes(kind, DType::kBf16) + MomentBytes(kind);
    const int64_t elements = ElementCount(options_.parameters) / world_.world_size();
    const absl::Status mine = CheckMemoryAvailable(world_.host_ranks() * element_bytes * elements,
                                                   absl::StrCat("the kernels of ", options_.model));
    if (world_.Max(mine.ok() ? 0 : 1) == 0) return absl::OkStatus();
    return mine.ok() ? absl::ResourceExhaustedError("another host has too little memory") : mine;
  }

  absl::StatusOr<KernelRow> Measure(std::string kernel, std::string target, const MemoryStreams& floor,
                                    const std::function<absl::Status()>& run, Mover mover = &Move) {
    const std::vector<ElementRange> all = {{0, arrays_->elements}};
    KernelRow row{.kernel = std::move(kernel),
                  .target = std::move(target),
                  .bytes_per_element = static_cast<double>(floor.bytes_per_element())};
    for (int64_t i = -options_.warmup; i < options_.steps; ++i) {
      SHARDSTEP_ASSIGN_OR_RETURN(const double floor_ms, world_.Time([&] {
        mover(floor, all, pool_);
        return absl::OkStatus();
      }));
      SHARDSTEP_ASSIGN_OR_RETURN(const double kernel_ms, world_.Time(run));
      if (i < 0) continue;
      row.floor_ms.push_back(floor_ms);
      row.kernel_ms.push_back(kernel_ms);
    }
    return row;
  }

  const BenchOptions& options_;
  MpiWorld& world_;
  const int threads_;
  WorkerPool& pool_;
  InlineStream stream_;
  std::unique_ptr<Arrays> arrays_;
};

double Ratio(const KernelRow& row) { return Median(row.kernel_ms) / Median(row.floor_ms); }

}  // namespace

absl::StatusOr<std::vector<KernelRow>> RunKernelBench(const BenchOptions& options, MpiWorld& world) {
  const int threads = KernelThreads(options.optimizer.update_threads, world.host_ranks());
  SHARDSTEP_ASSIGN_OR_RETURN(const std::unique_ptr<WorkerPool> pool, WorkerPool::Create(threads - 1));
  return KernelBench(options, world, threads, *pool).Run();
}

std::string KernelHeader() {
  return absl::StrFormat("%16s %10s %17s %10s %10s %11s", "kernel", "target", "bytes_per_element", "kernel_ms",
                         "floor_ms", "floor_ratio");
}

std::string KernelLine(const KernelRow& row) {
  return absl::StrFormat("%16s %10s %17g %10.3f %10.3f %11.3f", row.kernel, row.target, row.bytes_per_element,
                         Median(row.kernel_ms), Median(row.floor_ms), Ratio(row));
}

std::string KernelJson(const KernelRow& row) {
  return absl::StrFormat(
      R"({"kernel":"%s","target":"%s","bytes_per_element":%g,"kernel_ms":%.3f,"floor_ms":%.3f,"floor_ratio":%.3f})",
      row.kernel, row.target, row.bytes_per_element, Median(row.kernel_ms), Median(row.floor_ms), Ratio(row));
}

}  // namespace shardstep
