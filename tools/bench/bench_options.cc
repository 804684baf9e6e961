#include "shardstep/tools/bench/bench_options.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "shardstep/tools/bench/bench_model.h"

namespace shardstep {
namespace {

constexpr int64_t kLargest = int64_t{1} << 40;
constexpr int64_t kLongestMs = 1000000;

// What is wrong with a value, to follow "--name=value: "; empty: nothing.
using Parse = std::string (*)(absl::string_view value, BenchOptions* options);

template <auto field>
std::string ParseCount(absl::string_view value, BenchOptions* options, int64_t smallest) {
  int64_t count = 0;
  if (!absl::SimpleAtoi(value, &count) || count < smallest || count > kLargest) {
    return absl::StrCat("must be an integer from ", smallest, " to ", kLargest);
  }
  field(*options) = count;
  return "";
}

// One of several words.
template <typename T>
std::string ParseWord(absl::string_view value, std::initializer_list<std::pair<absl::string_view, T>> words,
                      T* result) {
  std::vector<absl::string_view> known;
  for (const auto& [word, meaning] : words) {
    if (word == value) {
      *result = meaning;
      return "";
    }
    known.push_back(word);
  }
  return absl::StrCat("must be ", absl::StrJoin(known, " or "));
}

std::string ParsePositive(absl::string_view value, double* result) {
  const bool good = absl::SimpleAtod(value, result) && std::isfinite(*result) && *result > 0;
  return good ? "" : "must be finite and positive";
}

std::string ParseBaselines(absl::string_view value, BenchOptions* options) {
  options->baselines.clear();
  if (value == "all") {
    options->baselines.assign(std::begin(kAllBaselines), std::end(kAllBaselines));
    return "";
  }
  for (const absl::string_view name : absl::StrSplit(value, ',')) {
    const auto* found = std::find_if(std::begin(kAllBaselines), std::end(kAllBaselines),
                                     [&](Baseline baseline) { return ToString(baseline) == name; });
    if (found == std::end(kAllBaselines)) {
      return absl::StrCat("\"", name, "\" is none; there are mpi_fp32, mpi_bf16_op, mpi_alltoall, mpi_p2p, all");
    }
    options->baselines.push_back(*found);
  }
  return "";
}

std::string ParseRule(absl::string_view value, BenchOptions* options) {
  using RuleOptions = decltype(GroupOptions::rule);
  return ParseWord<RuleOptions>(
      value, {{"adamw", AdamWOptions()}, {"sgd", SgdOptions{.momentum = 0.9}}, {"lion", LionOptions()}},
      &options->optimizer.groups[0].rule);
}

std::string ParseClip(absl::string_view value, BenchOptions* options) {
  options->max_norm.reset();
  if (value == "off") return "";
  return ParsePositive(value, &options->max_norm.emplace());
}

std::string ParseOrdinal(absl::string_view value, BenchOptions* options) {
  const int most = 1023;
  if (absl::SimpleAtoi(value, &options->gpu.ordinal.emplace()) && *options->gpu.ordinal >= 0 &&
      *options->gpu.ordinal <= most) {
    return "";
  }
  return absl::StrCat("must be an integer from 0 to ", most);
}

/// Devices that a flag is for.
enum class For { kAll, kCpu, kCuda };

struct Flag {
  const char* name;
  const char* values;
  const char* help;
  Parse parse;
  For device = For::kAll;
};

constexpr Flag kFlags[] = {
    {"model", "gpt2-124m|gpt2-355m|flat:COUNT", "whose shapes the parameters have (default gpt2-124m)",
     [](absl::string_view value, BenchOptions* options) {
       options->model = std::string(value);
       return std::string();
     }},
    {"device", "cpu|cuda", "what it computes on: this host's CPUs, or a GPU per rank (default cpu)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseWord<bool>(value, {{"cpu", false}, {"cuda", true}}, &options->cuda);
     }},
    {"gpu", "ORDINAL", "of this rank (default: by its place on its host)", ParseOrdinal, For::kCuda},
    {"transport", "nccl|staged", "how GPUs reach each other: NCCL, or memory of their hosts (default nccl)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseWord<GpuTransport>(value, {{"nccl", GpuTransport::kNccl}, {"staged", GpuTransport::kStaged}},
                                      &options->gpu.transport);
     },
     For::kCuda},
    {"exchange", "exact|nccl_reduce_scatter",
     "what NCCL moves: the contract's bits, or sums that it rounds on the way (default exact)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseWord<NcclExchange>(
           value, {{"exact", NcclExchange::kExact}, {"nccl_reduce_scatter", NcclExchange::kReduceScatter}},
           &options->gpu.exchange);
     },
     For::kCuda},
    {"nccl", "FILE", "the library (default: libnccl.so.2, as the loader finds it)",
     [](absl::string_view value, BenchOptions* options) {
       options->gpu.nccl_library = std::string(value);
       return std::string(value.empty() ? "needs a path" : "");
     },
     For::kCuda},
    {"rule", "adamw|sgd|lion", "the update (default adamw; sgd with momentum 0.9)", ParseRule},
    {"master", "fp32|split", "what stands behind the bf16 weights (default fp32)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseWord<Master>(value, {{"fp32", Master::kFp32}, {"split", Master::kSplit}},
                                &options->optimizer.groups[0].master);
     }},
    {"wire", "exact|host_sum", "what hosts send: the contract's bits, or their sums in bf16 (default exact)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseWord<HostSum>(value, {{"exact", HostSum::kExact}, {"host_sum", HostSum::kRounded}},
                                 &options->optimizer.host_sum);
     },
     For::kCpu},
    {"sum_group", "G", "micro-batches that are summed first, and travel as one sum (default 1)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseCount < [](BenchOptions & o) -> auto& { return o.optimizer.sum_group; }
       > (value, options, 1);
     }},
    {"clip", "NORM|off", "largest global norm (default 1)", ParseClip},
    {"nonfinite", "skip|ignore", "what becomes of a step with inf or NaN (default skip)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseWord<NonFinitePolicy>(value,
                                         {{"skip", NonFinitePolicy::kSkip}, {"ignore", NonFinitePolicy::kIgnore}},
                                         &options->optimizer.non_finite);
     }},
    {"weights", "shared|private", "one copy of the weights per host, or one per rank (default shared)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseWord<WeightCopies>(value, {{"shared", WeightCopies::kShared}, {"private", WeightCopies::kPrivate}},
                                      &options->optimizer.weights);
     },
     For::kCpu},
    {"micro_steps", "K", "backward passes of a step (default 1)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseCount < [](BenchOptions & o) -> auto& { return o.optimizer.micro_steps; }
       > (value, options, 1);
     }},
    {"bucket_bytes", "N", "gradients that travel together (default 32 MiB)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseCount < [](BenchOptions & o) -> auto& { return o.optimizer.bucket_bytes; }
       > (value, options, 1);
     }},
    {"update_threads", "N", "threads of a rank's kernels (default 0: the cores that it has to itself)",
     [](absl::string_view value, BenchOptions* options) {
       int64_t threads = 0;
       const int64_t most = 1024;
       if (!absl::SimpleAtoi(value, &threads) || threads < 0 || threads > most) {
         return absl::StrCat("must be an integer from 0 to ", most);
       }
       options->optimizer.update_threads = static_cast<int>(threads);
       return std::string();
     },
     For::kCpu},
    {"backward_ms", "T", "emulates a backward pass, and before it a forward pass of half the time (default 0: none)",
     [](absl::string_view value, BenchOptions* options) {
       if (absl::SimpleAtod(value, &options->backward_ms) && options->backward_ms >= 0 &&
           options->backward_ms <= kLongestMs) {
         return std::string();
       }
       return absl::StrCat("must be from 0 to ", kLongestMs);
     },
     For::kCpu},
    {"steps", "N", "measured steps (default 7)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseCount < [](BenchOptions & o) -> auto& { return o.steps; }
       > (value, options, 1);
     }},
    {"warmup", "N", "steps before them (default 2)",
     [](absl::string_view value, BenchOptions* options) {
       return ParseCount < [](BenchOptions & o) -> auto& { return o.warmup; }
       > (value, options, 0);
     }},
    {"baselines", "NAME,...|all", "measured too, in turn: mpi_fp32, mpi_bf16_op, mpi_alltoall, mpi_p2p (default none)",
     ParseBaselines, For::kCpu},
    {"json", "FILE", "every line as a JSON object, appended to FILE",
     [](absl::string_view value, BenchOptions* options) {
       options->json_file = std::string(value);
       return std::string(value.empty() ? "needs a path" : "");
     }},
    {"trace", "FILE", "a timeline of every operation of every rank, to look at with Perfetto",
     [](absl::string_view value, BenchOptions* options) {
       options->trace_file = std::string(value);
       return std::string(value.empty() ? "needs a path" : "");
     },
     For::kCpu},
    {"max_floor_ratio", "X", "exits with 1 when floor_ratio is larger",
     [](absl::string_view value, BenchOptions* options) { return ParsePositive(value, &options->max_floor_ratio); }},
};

struct Switch {
  const char* name;
  const char* help;
  void (*set)(BenchOptions* options);
  For device = For::kAll;
};

constexpr Switch kSwitches[] = {
    {"check", "compares every weight with an unsharded scalar step; exits with 70 when one differs",
     [](BenchOptions* options) { options->check = true; }},
    {"graph", "every step is a launch of one CUDA graph", [](BenchOptions* options) { options->gpu.graph = true; },
     For::kCuda},
    {"kernels", "measures each kernel alone, on every target of this CPU, instead of a step",
     [](BenchOptions* options) { options->kernels = true; }, For::kCpu},
    {"help", "prints this", [](BenchOptions* options) { options->help = true; }},
};

// The first flag that was given and is for another device than the one that was chosen.
absl::Status CheckDevice(const BenchOptions& options, const std::set<absl::string_view>& given) {
  absl::Status status;
  const auto check = [&](const auto& flags) {
    for (const auto& flag : flags) {
      const bool other = flag.device == (options.cuda ? For::kCpu : For::kCuda);
      if (!other || given.count(flag.name) == 0) continue;
      status.Update(absl::InvalidArgumentError(
          absl::StrCat("--", flag.name, ": not with --device=", options.cuda ? "cuda" : "cpu")));
    }
  };
  check(kFlags);
  check(kSwitches);
  return status;
}

absl::Status CheckGpu(const BenchOptions& options) {
  const bool rounds = options.gpu.exchange == NcclExchange::kReduceScatter;
  if (options.gpu.transport == GpuTransport::kStaged && (rounds || !options.gpu.nccl_library.empty())) {
    return absl::InvalidArgumentError(
        absl::StrCat(rounds ? "--exchange=nccl_reduce_scatter" : "--nccl", ": not with --transport=staged"));
  }
  if (rounds && options.check) {
    return absl::InvalidArgumentError("--check: not with --exchange=nccl_reduce_scatter, whose bits are NCCL's own");
  }
  if (rounds && options.optimizer.sum_group > 1) {
    return absl::InvalidArgumentError("--sum_group: not with --exchange=nccl_reduce_scatter, which knows no groups");
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(const BenchOptions& options) {
  if (options.kernels && (options.check || !options.baselines.empty() || options.backward_ms > 0 ||
                          !options.trace_file.empty() || std::isfinite(options.max_floor_ratio))) {
    return absl::InvalidArgumentError(
        "--kernels: not with --check, --baselines, --backward_ms, --trace or --max_floor_ratio, which are about steps");
  }
  const bool ignores = options.optimizer.non_finite == NonFinitePolicy::kIgnore;
  if (ignores && options.max_norm.has_value()) {
    return absl::InvalidArgumentError("--nonfinite=ignore: not together with clipping; --clip=off turns that off");
  }
  if (!options.baselines.empty() && options.optimizer.micro_steps > 1) {
    return absl::InvalidArgumentError("--baselines: they have one micro-step");
  }
  if (!options.baselines.empty() && options.backward_ms > 0) {
    return absl::InvalidArgumentError("--baselines: they do not overlap with --backward_ms");
  }
  SHARDSTEP_RETURN_IF_ERROR(CheckGpu(options));
  return ValidateOptions(options.optimizer);
}

// With the model's parameters, once all flags are known.
absl::StatusOr<BenchOptions> Complete(BenchOptions options, const std::set<absl::string_view>& given) {
  if (options.help) return options;
  SHARDSTEP_RETURN_IF_ERROR(CheckDevice(options, given));
  absl::StatusOr<std::vector<ParameterSpec>> parameters = MakeBenchModel(options.model);
  if (!parameters.ok()) return Annotate(parameters.status(), "--model");
  options.parameters = *std::move(parameters);
  SHARDSTEP_RETURN_IF_ERROR(CheckTogether(options));
  return options;
}

}  // namespace

absl::string_view ToString(Baseline baseline) {
  switch (baseline) {
    case Baseline::kFp32:
      return "mpi_fp32";
    case Baseline::kBf16Op:
      return "mpi_bf16_op";
    case Baseline::kAllToAll:
      return "mpi_alltoall";
    case Baseline::kPointToPoint:
      return "mpi_p2p";
  }
  return "?";
}

absl::string_view ToString(GpuTransport transport) { return transport == GpuTransport::kNccl ? "nccl" : "staged"; }

absl::string_view ToString(NcclExchange exchange) {
  return exchange == NcclExchange::kExact ? "exact" : "nccl_reduce_scatter";
}

absl::StatusOr<BenchOptions> ParseBenchOptions(absl::Span<const char* const> arguments) {
  BenchOptions options;
  std::set<absl::string_view> given;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (!absl::ConsumePrefix(&argument, "--")) {
      return absl::InvalidArgumentError(absl::StrCat("\"", argument, "\": flags begin with --; --help lists all"));
    }
    const size_t equals = argument.find('=');
    const absl::string_view name = argument.substr(0, equals);
    if (!given.insert(name).second) return absl::InvalidArgumentError(absl::StrCat("--", name, " was given twice"));
    const auto is_named = [&](const auto& flag) { return flag.name == name; };
    const auto* const on = std::find_if(std::begin(kSwitches), std::end(kSwitches), is_named);
    if (on != std::end(kSwitches)) {
      if (equals != absl::string_view::npos) {
        return absl::InvalidArgumentError(absl::StrCat("--", argument, ": it takes no value"));
      }
      on->set(&options);
      continue;
    }
    const auto* const flag = std::find_if(std::begin(kFlags), std::end(kFlags), is_named);
    if (flag == std::end(kFlags)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag --", name, "; --help lists all"));
    }
    if (equals == absl::string_view::npos && i + 1 == arguments.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
    }
    const absl::string_view value =
        equals == absl::string_view::npos ? absl::string_view(arguments[++i]) : argument.substr(equals + 1);
    const std::string wrong = flag->parse(value, &options);
    if (!wrong.empty()) return absl::InvalidArgumentError(absl::StrCat("--", name, "=", value, ": ", wrong));
  }
  return Complete(std::move(options), given);
}

std::string BenchHelp() {
  std::string text =
      "shardstep_bench: how long a sharded step takes, and how far that is from what memory and network allow.\n\n"
      "  deploy/mpirun.sh RANKS shardstep_bench [--FLAG=VALUE ...]\n\n";
  for (const Flag& flag : kFlags) {
    absl::StrAppendFormat(&text, "  --%s\n      %s\n", absl::StrCat(flag.name, "=", flag.values), flag.help);
  }
  for (const Switch& on : kSwitches) absl::StrAppendFormat(&text, "  --%s\n      %s\n", on.name, on.help);
  return text;
}

}  // namespace shardstep
