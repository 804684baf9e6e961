#include "shardstep/runtime/bound_buffers.h"

#include "absl/strings/str_cat.h"

namespace shardstep {
namespace {

bool Overlap(BufferView a, BufferView b) { return a.data < b.data + b.size_bytes && b.data < a.data + a.size_bytes; }

absl::string_view Word(BoundBuffers::What what) {
  return what == BoundBuffers::What::kWeights ? "weights" : "gradient";
}

}  // namespace

BoundBuffers::BoundBuffers(const ShardLayout* layout, Memory* memory, std::vector<BufferView> arenas)
    : layout_(layout), memory_(memory), arenas_(std::move(arenas)) {
  for (std::vector<BufferView>& buffers : buffers_) buffers.resize(layout->parameter_count());
}

absl::Status BoundBuffers::Bind(What what, int p, BufferView buffer) {
  if (p < 0 || p >= layout_->parameter_count()) {
    return absl::InvalidArgumentError(
        absl::StrCat("parameter ", p, " is not in [0, ", layout_->parameter_count(), ")"));
  }
  if (buffer.data != nullptr) SHARDSTEP_RETURN_IF_ERROR(Check(what, p, buffer));
  buffers_[static_cast<int>(what)][p] = buffer.data == nullptr ? BufferView() : buffer;
  return absl::OkStatus();
}

absl::Status BoundBuffers::Check(What what, int p, BufferView buffer) const {
  const ParameterSpec& spec = layout_->parameter(p);
  const DType dtype = what == What::kWeights ? spec.weight_dtype : spec.gradient_dtype;
  const auto refuse = [&](const auto&... why) {
    return absl::InvalidArgumentError(
        absl::StrCat("the buffer for the ", Word(what), " of \"", spec.name, "\" ", why...));
  };
  if (layout_->owner(p) != p) return refuse("cannot be bound: it is tied to \"", spec.tied_to, "\"; bind that one's");
  for (int q = 0; what == What::kGradient && q < layout_->parameter_count(); ++q) {
    // Whoever is ready second adds to what the first has written, which a copy would lose.
    if (q != p && layout_->owner(q) == p)
      return refuse("cannot be bound: \"", layout_->parameter(q).name, "\" is tied to it");
  }
  const int64_t size_bytes = layout_->elements(p) * SizeBytes(dtype);
  if (buffer.size_bytes != size_bytes) return refuse("has ", buffer.size_bytes, " bytes, not ", size_bytes);
  if (reinterpret_cast<uintptr_t>(buffer.data) % static_cast<uintptr_t>(SizeBytes(dtype)) != 0) {
    return refuse("is not aligned to ", Name(dtype));
  }
  for (const BufferView& arena : arenas_) {
    if (Overlap(buffer, arena)) return refuse("overlaps memory of the optimizer");
  }
  for (const What other_what : {What::kWeights, What::kGradient}) {
    for (int q = 0; q < layout_->parameter_count(); ++q) {
      if ((other_what != what || q != p) && Overlap(buffer, bound(other_what, q))) {
        return refuse("overlaps the one for the ", Word(other_what), " of \"", layout_->parameter(q).name, "\"");
      }
    }
  }
  if (size_bytes > 0 && !memory_->Reaches(buffer)) return refuse("is not mapped memory");
  return absl::OkStatus();
}

std::vector<std::string> BoundBuffers::Copied() const {
  std::vector<std::string> names;
  for (const What what : {What::kWeights, What::kGradient}) {
    for (int p = 0; p < layout_->parameter_count(); ++p) {
      if (bound(what, p).data != nullptr) {
        names.push_back(absl::StrCat(Word(what), " of \"", layout_->parameter(p).name, "\""));
      }
    }
  }
  return names;
}

}  // namespace shardstep
