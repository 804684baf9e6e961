#include "shardstep/comm/staged/staged_arenas.h"

namespace shardstep {
namespace {

int64_t MadeWeights(const ArenaRequest& request, const ArenaSizes& sizes) {
  return request.weights.data == nullptr ? sizes.weight_bytes : 0;
}

// Ranks that are threads share inner's arenas: whoever comes first pins them. Copies need no pinned memory, it is
// faster.
absl::StatusOr<Buffer> Pin(const CudaDeviceRef& device, BufferView arena, absl::string_view what) {
  if (arena.size_bytes == 0) return Buffer();
  SHARDSTEP_RETURN_IF_ERROR(MakeCurrent(device));
  const int error = device.api->HostRegister(arena.data, arena.size_bytes);
  if (error == CudaApi::kHostMemoryAlreadyRegistered) return Buffer();
  SHARDSTEP_RETURN_IF_ERROR(CudaStatus(
      *device.api, error, absl::StrCat(what, ": ", arena.size_bytes, " bytes to be pinned: cudaHostRegister")));
  return Buffer(arena, [device](BufferView memory) {
    device.api->SetDevice(device.device);
    device.api->HostUnregister(memory.data);
  });
}

}  // namespace

absl::Status StagedArenas::Plan(const ArenaRequest& request, const ArenaSizes& sizes, int landing_buckets,
                                Memory& memory, StagedLayout* layout) {
  layout->buckets.assign(request.buckets.begin(), request.buckets.end());
  layout->contributions = request.contributions;
  if (layout->world_size > 1) {
    SHARDSTEP_ASSIGN_OR_RETURN(layout->landing_slot_bytes, layout->LandingSlotBytes());
    SHARDSTEP_ASSIGN_OR_RETURN(layout->staging_slot_bytes, layout->StagingSlotBytes());
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(layout->landing_slot_bytes, int64_t{landing_buckets}, &bytes) ||
      __builtin_add_overflow(sizes.gradient_bytes + MadeWeights(request, sizes), bytes, &bytes)) {
    return absl::ResourceExhaustedError("landing slots: more bytes than can be counted");
  }
  return memory.CheckAvailable(bytes, "arenas and landing slots");
}

absl::StatusOr<StagedArenas> StagedArenas::Make(const ArenaRequest& request, const ArenaSizes& sizes,
                                                int landing_buckets, const CudaDeviceRef& device, Memory& memory,
                                                Communicator& inner, StagedLayout* layout) {
  constexpr PageBacking kNow = PageBacking::kOnCreation;
  StagedArenas made;
  SHARDSTEP_ASSIGN_OR_RETURN(made.gradients, memory.Allocate(sizes.gradient_bytes, "gradient arena", kNow));
  SHARDSTEP_ASSIGN_OR_RETURN(made.own_weights, memory.Allocate(MadeWeights(request, sizes), "weight arena", kNow));
  SHARDSTEP_ASSIGN_OR_RETURN(made.landing,
                             memory.Allocate(layout->landing_slot_bytes * landing_buckets, "landing slots", kNow));
  made.weights = {request.weights.data != nullptr ? request.weights.data : made.own_weights.view().data,
                  sizes.weight_bytes};
  layout->gradients = made.gradients.view().data;
  layout->weights = made.weights.data;
  layout->landing = made.landing.view().data;
  if (layout->world_size > 1) SHARDSTEP_RETURN_IF_ERROR(made.MakeOnHost(device, memory, inner, layout));
  return made;
}

absl::Status StagedArenas::MakeOnHost(const CudaDeviceRef& device, Memory& memory, Communicator& inner,
                                      StagedLayout* layout) {
  SHARDSTEP_ASSIGN_OR_RETURN(staging,
                             memory.AllocateForBoth(layout->staging_slot_bytes * kStagingSlots, "staging slots"));
  SHARDSTEP_ASSIGN_OR_RETURN(pinned_gradients, Pin(device, inner.gradients(), "gradient arena of the host"));
  SHARDSTEP_ASSIGN_OR_RETURN(pinned_weights, Pin(device, inner.weights(), "weight arena of the host"));
  layout->staging = staging.view().data;
  layout->host_gradients = inner.gradients().data;
  layout->host_weights = inner.weights().data;
  return absl::OkStatus();
}

}  // namespace shardstep
