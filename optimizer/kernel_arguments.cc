#include "shardstep/optimizer/kernel_arguments.h"

#include "shardstep/optimizer/sum_schedule.h"

namespace shardstep {
namespace {

template <typename... Parts>
absl::Status Refuse(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckPointer(absl::string_view launch, absl::string_view name, const void* pointer, bool needed) {
  if ((pointer != nullptr) == needed) return absl::OkStatus();
  return Refuse(launch, ": ", name, needed ? " is missing" : " is given, and not part of such an update");
}

absl::Status CheckSlices(absl::string_view launch, absl::Span<const Slice> slices) {
  int last_rank = -1;
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice& slice = slices[i];
    if (slice.data == nullptr) return Refuse(launch, ": sum.slices[", i, "].data is missing");
    if (slice.dtype == DType::kFp16) return Refuse(launch, ": sum.slices[", i, "] is fp16");
    if (slice.rank <= last_rank || slice.ranks < 1) {
      return Refuse(launch, ": sum.slices[", i, "] is of ", slice.ranks, " ranks from ", slice.rank, " after rank ",
                    last_rank);
    }
    last_rank = slice.rank;
  }
  return absl::OkStatus();
}

absl::Status CheckSum(absl::string_view launch, const SumArgs& sum) {
  if (sum.sum_group < 1) return Refuse(launch, ": sum.sum_group = ", sum.sum_group, " is not positive");
  if (sum.first_micro_batch < 0) return Refuse(launch, ": sum.first_micro_batch = ", sum.first_micro_batch);
  SHARDSTEP_RETURN_IF_ERROR(CheckSlices(launch, sum.slices));
  if (sum.group_accumulator != nullptr && sum.first_micro_batch % sum.sum_group == 0) {
    return Refuse(launch, ": sum.group_accumulator is given, and no group of ", sum.sum_group,
                  " goes on at micro-batch ", sum.first_micro_batch);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckArguments(const ReduceArgs& args) {
  SHARDSTEP_RETURN_IF_ERROR(CheckSum("Reduce", args.sum));
  if (args.take_norm && args.scan == nullptr) return Refuse("Reduce: scan is missing, which take_norm needs");
  const bool open = MakeSumSchedule(args.sum).open_at_end;
  if (open && args.group_accumulator_out == nullptr) {
    return Refuse("Reduce: group_accumulator_out is missing, and a group is open in the end");
  }
  if (!open && args.group_accumulator_out != nullptr) {
    return Refuse("Reduce: group_accumulator_out is given, and no group is open in the end");
  }
  return absl::OkStatus();
}

absl::Status CheckArguments(const UpdateArgs& args) {
  SHARDSTEP_RETURN_IF_ERROR(CheckSum("Update", args.sum));
  if (!args.sum.closes) return Refuse("Update: sum.closes is false, and Update has the last slices");
  if (args.weight_dtype == DType::kFp16) return Refuse("Update: weight_dtype is fp16");
  const bool bf16 = args.weight_dtype == DType::kBf16;
  const bool has_master = bf16 && args.kind.master == Master::kFp32;
  const struct {
    absl::string_view name;
    const void* pointer;
    bool needed;
  } pointers[] = {
      {"master", args.master, has_master},
      {"remainder", args.remainder, bf16 && args.kind.master == Master::kSplit},
      {"first_moment", args.first_moment, args.kind.has_first_moment()},
      {"second_moment", args.second_moment, args.kind.has_second_moment()},
      {"scalars", args.scalars, true},
  };
  for (const auto& [name, pointer, needed] : pointers) {
    SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Update", name, pointer, needed));
  }
  if (args.destinations.empty() && !has_master) return Refuse("Update: destinations[0] is missing, where weights are");
  for (size_t i = 0; i < args.destinations.size(); ++i) {
    if (args.destinations[i] == nullptr) return Refuse("Update: destinations[", i, "] is missing");
  }
  return absl::OkStatus();
}

absl::Status CheckArguments(const ZeroArgs& args) {
  const auto [data, size_bytes] = args.gradient;
  if (size_bytes < 0) return Refuse("Zero: gradient has ", size_bytes, " bytes");
  return CheckPointer("Zero", "gradient", size_bytes == 0 ? &args : static_cast<const void*>(data), true);
}

absl::Status CheckArguments(const CopyArgs& args) {
  if (args.size_bytes < 0) return Refuse("Copy: size_bytes = ", args.size_bytes);
  if (args.size_bytes == 0) return absl::OkStatus();
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Copy", "from", args.from, true));
  return CheckPointer("Copy", "to", args.to, true);
}

absl::Status CheckArguments(const DigestArgs& args) {
  if (args.elements < 0) return Refuse("Digest: elements = ", args.elements);
  if (args.begin_element < 0 || args.begin_element % ShardLayout::kBlockElements != 0) {
    return Refuse("Digest: begin_element = ", args.begin_element);
  }
  if (args.elements == 0) return absl::OkStatus();
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Digest", "values", args.values, true));
  if (args.form != DigestForm::kWidened && args.remainder != nullptr) {
    return Refuse("Digest: remainder is given, and only widened values are joined with one");
  }
  return CheckPointer("Digest", "sum", args.sum, true);
}

absl::Status CheckArguments(const ContributeWords& words) {
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Contribute", "order", words.order, true));
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Contribute", "scan", words.scan, true));
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Contribute", "exchange_scan", words.exchange_scan, true));
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Contribute", "reduction", words.reduction, true));
  if (words.parameter_count < 0) return Refuse("Contribute: parameter_count = ", words.parameter_count);
  const bool parameters = words.parameter_count > 0;
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Contribute", "parameter_scans", words.parameter_scans, parameters));
  return CheckPointer("Contribute", "parameter_norms", words.parameter_norms, parameters);
}

absl::Status CheckArguments(const DecideWords& words) {
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Decide", "order", words.order, true));
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Decide", "reduction", words.reduction, true));
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Decide", "scalars", words.scalars, true));
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Decide", "report", words.report, true));
  if (words.settings_count < 0) return Refuse("Decide: settings_count = ", words.settings_count);
  if (words.settings_count == 0) return absl::OkStatus();
  SHARDSTEP_RETURN_IF_ERROR(CheckPointer("Decide", "settings", words.settings, true));
  return CheckPointer("Decide", "rules", words.rules, true);
}

}  // namespace shardstep
