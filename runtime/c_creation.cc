// The C interface: jobs, creation, what an optimizer is, and its ends.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "shardstep/comm/tcp/job_id.h"
#include "shardstep/runtime/c_interface.h"
#include "shardstep/runtime/c_structs.h"
#include "shardstep/runtime/joint_decision.h"
#include "shardstep/runtime/options_text.h"

namespace shardstep {
namespace {

absl::StatusOr<OptimizerOptions> OptionsFromC(const char* options) {
  return OptionsFromText(options == nullptr ? "" : options);
}

absl::StatusOr<std::unique_ptr<shardstep_optimizer>> CreateFromC(const shardstep_job* job, const char* options,
                                                                 const shardstep_parameter* parameters, size_t count) {
  auto created = std::make_unique<shardstep_optimizer>();
  SHARDSTEP_ASSIGN_OR_RETURN(created->options, OptionsFromC(options));
  SHARDSTEP_ASSIGN_OR_RETURN(std::vector<ParameterSpec> specs, FromC(parameters, count));
  SHARDSTEP_ASSIGN_OR_RETURN(const JobOptions job_options, FromC(job));
  SHARDSTEP_ASSIGN_OR_RETURN(created->job, JoinJob(job_options, created->options));
  SHARDSTEP_ASSIGN_OR_RETURN(
      created->optimizer,
      ShardedOptimizer::Create(created->options, std::move(specs), std::move(created->job.communicators),
                               created->job.rendezvous.get(), created->job.device.get()));
  return created;
}

absl::StatusOr<std::vector<JointMember>> MembersFromC(shardstep_optimizer* const* optimizers, const char* const* names,
                                                      size_t count) {
  if (count == 0) return absl::InvalidArgumentError("count = 0: there must be an optimizer");
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> copied_names, NamesFromC("names", names, count));
  std::vector<JointMember> members;
  for (size_t i = 0; i < count; ++i) {
    SHARDSTEP_RETURN_IF_ERROR(
        Annotate(CheckUsable("shardstep_join_decisions", optimizers[i]), absl::StrCat("optimizers[", i, "]")));
    members.push_back({.optimizer = optimizers[i]->optimizer.get(), .name = copied_names[i]});
  }
  return members;
}

absl::Status JoinDecisionsFromC(const shardstep_job* job, shardstep_optimizer* const* optimizers,
                                const char* const* names, size_t count) {
  SHARDSTEP_ASSIGN_OR_RETURN(const JobOptions job_options, FromC(job));
  if (job_options.device != "cpu") {
    return absl::UnimplementedError(
        absl::StrCat("job.device = \"", job_options.device, "\": optimizers decide together on CPUs only"));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<JointMember> members, MembersFromC(optimizers, names, count));
  try {
    std::vector<const OptimizerOptions*> options;
    for (size_t i = 0; i < count; ++i) options.push_back(&optimizers[i]->options);
    SHARDSTEP_ASSIGN_OR_RETURN(Job joined, JoinJob(job_options, OptionsOfJointDecision(options)));
    const auto decision = std::make_shared<Job>(std::move(joined));
    SHARDSTEP_RETURN_IF_ERROR(
        JoinDecisions(std::move(decision->communicators.host), decision->rendezvous.get(), members));
    for (size_t i = 0; i < count; ++i) optimizers[i]->decision = decision;
    return absl::OkStatus();
  } catch (...) {
    for (size_t i = 0; i < count; ++i) Break(*optimizers[i]);
    throw;
  }
}

}  // namespace
}  // namespace shardstep

using namespace shardstep;  // NOLINT: the functions below are its own, with C linkage

shardstep_code shardstep_create_job_id(const char* host_address, char* id) {
  return Guard(__func__, {{"id", id}}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const std::string created, CreateJobId(host_address == nullptr ? "" : host_address));
    if (created.size() >= SHARDSTEP_JOB_ID_BYTES) return absl::InternalError("a job id that is too long");
    std::memcpy(id, created.c_str(), created.size() + 1);
    return absl::OkStatus();
  });
}

shardstep_code shardstep_estimate_memory(const char* options, const shardstep_parameter* parameters, size_t count,
                                         int32_t world_size, shardstep_memory* memory) {
  return Guard(__func__, {{"memory", memory}}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(const OptimizerOptions parsed, OptionsFromC(options));
    SHARDSTEP_ASSIGN_OR_RETURN(std::vector<ParameterSpec> specs, FromC(parameters, count));
    SHARDSTEP_ASSIGN_OR_RETURN(const MemoryEstimate estimate,
                               ShardedOptimizer::EstimateMemory(parsed, std::move(specs), world_size));
    return ToC(estimate, memory);
  });
}

shardstep_code shardstep_optimizer_create(const shardstep_job* job, const char* options,
                                          const shardstep_parameter* parameters, size_t count,
                                          shardstep_optimizer** optimizer) {
  if (optimizer != nullptr) *optimizer = nullptr;
  return Guard(__func__, {{"job", job}, {"optimizer", optimizer}}, [=]() -> absl::Status {
    SHARDSTEP_ASSIGN_OR_RETURN(std::unique_ptr<shardstep_optimizer> created,
                               CreateFromC(job, options, parameters, count));
    *optimizer = created.release();
    return absl::OkStatus();
  });
}

void shardstep_optimizer_destroy(shardstep_optimizer* optimizer) { delete optimizer; }

int32_t shardstep_rank(const shardstep_optimizer* optimizer) {
  return optimizer == nullptr ? -1 : optimizer->optimizer->rank();
}

int32_t shardstep_world_size(const shardstep_optimizer* optimizer) {
  return optimizer == nullptr ? -1 : optimizer->optimizer->world_size();
}

shardstep_code shardstep_memory_held(const shardstep_optimizer* optimizer, shardstep_memory* memory) {
  return Guard(__func__, optimizer, {{"memory", memory}}, [=] { return ToC(optimizer->optimizer->memory(), memory); });
}

shardstep_code shardstep_describe_wire(shardstep_optimizer* optimizer, const char** text) {
  return Guard(__func__, optimizer, {{"text", text}}, [=] {
    optimizer->wire = optimizer->optimizer->DescribeWire();
    *text = optimizer->wire.c_str();
    return absl::OkStatus();
  });
}

shardstep_code shardstep_join_decisions(const shardstep_job* job, shardstep_optimizer* const* optimizers,
                                        const char* const* names, size_t count) {
  return Guard(__func__, {{"job", job}, {"optimizers", optimizers}, {"names", names}},
               [=] { return JoinDecisionsFromC(job, optimizers, names, count); });
}

shardstep_code shardstep_set_away(shardstep_optimizer* optimizer, double seconds) {
  return Guard(__func__, optimizer, {}, [=] {
    if (!std::isfinite(seconds) || seconds < 0) {
      return absl::InvalidArgumentError(absl::StrCat("seconds = ", seconds, ": must be finite and at least 0"));
    }
    optimizer->optimizer->SetAway(absl::Seconds(seconds));
    return absl::OkStatus();
  });
}

shardstep_code shardstep_abort(shardstep_optimizer* optimizer, const char* reason) {
  return Guard(__func__, optimizer, {}, [=] {
    optimizer->optimizer->Abort(absl::CancelledError(reason == nullptr ? "no reason given" : reason));
    return absl::OkStatus();
  });
}
