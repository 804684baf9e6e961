#include "shardstep/tools/gpu_check/gpu_check_options.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace shardstep::gpu_check {
namespace {

struct CommandName {
  Command command;
  const char* name;
  const char* help;
};

constexpr CommandName kCommands[] = {
    {Command::kHost, "host",
     "what needs no GPU: the CPU's kernels, ranks as processes, what is there of CUDA and NCCL"},
    {Command::kKernels, "kernels", "the GPU's kernels have the bits of the CPU's"},
    {Command::kNccl, "nccl", "a communicator of one rank over the machine's NCCL"},
    {Command::kStaged, "staged", "ranks that share the GPU, as processes, have the bits of one rank and of the CPU"},
    {Command::kGraph, "graph", "steps by a CUDA graph have the bits of steps without"},
    {Command::kAsync, "async", "a step does not block the host"},
    {Command::kBench, "bench", "kernels and copies beside what the memory allows"},
    {Command::kRank, "rank", nullptr},
};

// What is wrong with a value; empty: nothing.
using Parse = std::string (*)(absl::string_view value, GpuCheckOptions* options);

template <typename T>
std::string ParseInteger(absl::string_view value, int64_t smallest, int64_t largest, T* result) {
  int64_t parsed = 0;
  if (!absl::SimpleAtoi(value, &parsed) || parsed < smallest || parsed > largest) {
    return absl::StrCat("must be an integer from ", smallest, " to ", largest);
  }
  *result = static_cast<T>(parsed);
  return "";
}

struct Flag {
  const char* name;
  const char* help;  ///< nullptr: only this program itself uses it
  Parse parse;
};

constexpr int64_t kLargest = int64_t{1} << 40;

constexpr Flag kFlags[] = {
    {"device", "which GPU, as CUDA counts (default 0)",
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 0, 1023, &o->device); }},
    {"elements", "that kernels are compared on (default 100000000)",
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 1, kLargest, &o->elements); }},
    {"decisions", "likewise (default 2000)",
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 0, kLargest, &o->decisions); }},
    {"parameters", "of the benchmark (default 500000000)",
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 1, kLargest, &o->parameters); }},
    {"seed", "of what kernels are compared on (default 1)",
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 0, kLargest, &o->seed); }},
    {"threads", "of the CPU's kernels (default 0: one per core)",
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 0, 4096, &o->threads); }},
    {"ranks", "at most, that train together: 1 to 4 (default 4)",
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 1, 4, &o->ranks); }},
    {"nccl", "path of libnccl.so.2 (default: as the loader finds it)",
     [](absl::string_view value, GpuCheckOptions* o) {
       o->nccl = std::string(value);
       o->nccl_required = true;
       return std::string();
     }},
    {"training_elements", "of the largest parameter of ranks that train (default 400000)",
     [](absl::string_view value, GpuCheckOptions* o) {
       return ParseInteger(value, 100, kLargest, &o->training.elements);
     }},
    {"rank", nullptr,
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 0, 1023, &o->rank.rank); }},
    {"world_size", nullptr,
     [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 1, 1024, &o->rank.world_size); }},
    {"address", nullptr,
     [](absl::string_view value, GpuCheckOptions* o) {
       o->rank.address = std::string(value);
       return std::string();
     }},
    {"cuda", nullptr, [](absl::string_view value, GpuCheckOptions* o) { return ParseInteger(value, 0, 1, &o->cuda); }},
};

absl::Status ParseFlag(absl::string_view argument, GpuCheckOptions* options) {
  const size_t equals = argument.find('=');
  if (!absl::StartsWith(argument, "--") || equals == absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat(argument, ": flags read --name=value"));
  }
  const absl::string_view name = argument.substr(2, equals - 2);
  const Flag* const flag =
      std::find_if(std::begin(kFlags), std::end(kFlags), [&](const Flag& known) { return known.name == name; });
  if (flag == std::end(kFlags)) return absl::InvalidArgumentError(absl::StrCat("--", name, ": there is no such flag"));
  const std::string wrong = flag->parse(argument.substr(equals + 1), options);
  if (wrong.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(argument, ": ", wrong));
}

}  // namespace

absl::StatusOr<GpuCheckOptions> ParseGpuCheckOptions(absl::Span<const char* const> arguments) {
  GpuCheckOptions options;
  if (arguments.empty()) return absl::InvalidArgumentError("a command is missing; see --help");
  const absl::string_view word = arguments[0];
  if (word == "--help" || word == "help") return options;
  const CommandName* const command = std::find_if(std::begin(kCommands), std::end(kCommands),
                                                  [&](const CommandName& known) { return known.name == word; });
  if (command == std::end(kCommands)) {
    return absl::InvalidArgumentError(absl::StrCat(word, ": there is no such command; see --help"));
  }
  options.command = command->command;
  for (const char* argument : arguments.subspan(1)) SHARDSTEP_RETURN_IF_ERROR(ParseFlag(argument, &options));
  return options;
}

std::vector<std::string> RankArguments(const GpuCheckOptions& options, const RankOptions& rank, bool cuda) {
  return {"rank",
          absl::StrCat("--device=", options.device),
          absl::StrCat("--training_elements=", options.training.elements),
          absl::StrCat("--rank=", rank.rank),
          absl::StrCat("--world_size=", rank.world_size),
          absl::StrCat("--address=", rank.address),
          absl::StrCat("--cuda=", cuda ? 1 : 0)};
}

std::string GpuCheckHelp() {
  std::string text =
      "shardstep_gpu_check COMMAND [--FLAG=VALUE ...]: one line, PASS or FAIL; exits with 0, with 1 after a FAIL, with "
      "64\n"
      "when the command line is wrong, with 78 without a GPU that can be used\n\n";
  for (const CommandName& command : kCommands) {
    if (command.help != nullptr) absl::StrAppendFormat(&text, "  %-20s %s\n", command.name, command.help);
  }
  text += "\n";
  for (const Flag& flag : kFlags) {
    if (flag.help != nullptr) absl::StrAppendFormat(&text, "  --%-18s %s\n", flag.name, flag.help);
  }
  return text;
}

std::string_view Name(Command command) {
  for (const CommandName& known : kCommands) {
    if (known.command == command) return known.name;
  }
  return "help";
}

}  // namespace shardstep::gpu_check
