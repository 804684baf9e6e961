#include "shardstep/runtime/model_access.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "shardstep/runtime/agreement.h"

namespace shardstep {
namespace {

std::string ToBytes(const Digest& digest) {
  return std::string(reinterpret_cast<const char*>(&digest), sizeof(digest));
}

absl::StatusOr<Digest> ToDigest(absl::string_view bytes, int rank) {
  Digest digest;
  if (bytes.size() != sizeof(digest)) {
    return absl::InternalError(absl::StrCat("rank ", rank, " sent a digest of ", bytes.size(), " bytes"));
  }
  std::memcpy(&digest, bytes.data(), sizeof(digest));
  return digest;
}

}  // namespace

ModelAccess::ModelAccess(const ShardLayout* layout, const ShardState* state, Communicator* communicator,
                         Rendezvous* rendezvous, absl::Duration deadline)
    : layout_(layout), state_(state), communicator_(communicator), rendezvous_(rendezvous), deadline_(deadline) {}

void ModelAccess::VisitOwned(const std::function<void(const Segment&, int, int64_t)>& visit) const {
  for (int b = 0; b < layout_->bucket_count(); ++b) {
    for (const Segment& segment : layout_->Segments(b, communicator_->rank())) {
      visit(segment, b, layout_->state_begin_element(b) + segment.shard_begin_element);
    }
  }
}

void ModelAccess::Fill(const FillMaster& fill) const {
  VisitOwned([&](const Segment& segment, int, int64_t begin) {
    fill(segment.parameter, segment.begin_element, absl::MakeSpan(state_->master() + begin, segment.elements));
  });
}

void ModelAccess::ZeroMoments() const {
  VisitOwned([&](const Segment& segment, int, int64_t begin) {
    std::fill_n(state_->first_moment() + begin, segment.elements, 0.0f);
    std::fill_n(state_->second_moment() + begin, segment.elements, 0.0f);
  });
}

absl::Status ModelAccess::WriteWeights() const {
  // Nobody may still be reading the old weights, and nobody may read before all have written.
  SHARDSTEP_RETURN_IF_ERROR(Barrier("before the weights are written"));
  VisitOwned([&](const Segment& segment, int bucket, int64_t begin) {
    for (Bf16* destination : communicator_->Destinations(bucket)) {
      std::transform(state_->master() + begin, state_->master() + begin + segment.elements,
                     destination + segment.shard_begin_element, ToBf16);
    }
  });
  return Barrier("after the weights are written");
}

absl::Status ModelAccess::SetParameter(int p, absl::Span<const Bf16> values) const {
  SHARDSTEP_RETURN_IF_ERROR(AgreeOnValue(
      *rendezvous_, "SetWeights",
      absl::StrCat(layout_->parameter(p).name, " with the digest ", DigestOf(p, 0, values).ToHex()), deadline_));
  VisitOwned([&](const Segment& segment, int bucket, int64_t begin) {
    if (segment.parameter != p) return;
    const absl::Span<const Bf16> part = values.subspan(segment.begin_element, segment.elements);
    std::transform(part.begin(), part.end(), state_->master() + begin, ToFloat);
    for (Bf16* destination : communicator_->Destinations(bucket)) {
      std::copy(part.begin(), part.end(), destination + segment.shard_begin_element);
    }
  });
  return Barrier("after SetWeights");
}

absl::StatusOr<std::vector<float>> ModelAccess::ReadMaster(int p) const {
  const std::vector<OwnedRange> ranges = layout_->Owners(p, 0, layout_->elements(p));
  std::string mine;
  for (const OwnedRange& range : ranges) {
    if (range.rank != communicator_->rank()) continue;
    mine.append(reinterpret_cast<const char*>(state_->master() + range.state_begin_element),
                range.elements * sizeof(float));
  }
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> parts,
      rendezvous_->AllGatherBytes(absl::StrCat("ReadMaster of \"", layout_->parameter(p).name, "\""), mine, deadline_));
  std::vector<float> values(layout_->elements(p));
  std::vector<size_t> read(parts.size());
  for (const OwnedRange& range : ranges) {
    const size_t size_bytes = range.elements * sizeof(float);
    if (read[range.rank] + size_bytes > parts[range.rank].size()) {
      return absl::InternalError(absl::StrCat("rank ", range.rank, " sent too little of its master weights"));
    }
    std::memcpy(values.data() + range.begin_element, parts[range.rank].data() + read[range.rank], size_bytes);
    read[range.rank] += size_bytes;
  }
  return values;
}

Digest ModelAccess::DigestOfShard(const float* array) const {
  Digest digest;
  VisitOwned([&](const Segment& segment, int, int64_t begin) {
    digest += DigestOf(segment.parameter, segment.begin_element, absl::MakeConstSpan(array + begin, segment.elements));
  });
  return digest;
}

absl::StatusOr<OptimizerDigests> ModelAccess::Digests() const {
  Digest weights;
  const Bf16* arena = communicator_->weights().as<Bf16>();
  for (int p = 0; p < layout_->parameter_count(); ++p) {
    weights += DigestOf(p, 0, absl::MakeConstSpan(arena + layout_->arena_begin_element(p), layout_->elements(p)));
  }
  const std::string mine = ToBytes(weights) + ToBytes(DigestOfShard(state_->master())) +
                           ToBytes(DigestOfShard(state_->first_moment())) +
                           ToBytes(DigestOfShard(state_->second_moment()));
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> parts,
                             rendezvous_->AllGatherBytes("digests", mine, deadline_));
  OptimizerDigests digests{.weights = weights, .master = {}, .first_moment = {}, .second_moment = {}};
  Digest* const summed[] = {&digests.master, &digests.first_moment, &digests.second_moment};
  for (size_t r = 0; r < parts.size(); ++r) {
    const absl::string_view part = parts[r];
    SHARDSTEP_ASSIGN_OR_RETURN(const Digest theirs, ToDigest(part.substr(0, sizeof(Digest)), static_cast<int>(r)));
    if (!(theirs == weights)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the weights of ranks ", communicator_->rank(), " and ", r, " differ"));
    }
    for (size_t i = 0; i < std::size(summed); ++i) {
      SHARDSTEP_ASSIGN_OR_RETURN(
          const Digest shard,
          ToDigest(part.substr(std::min(part.size(), (i + 1) * sizeof(Digest)), sizeof(Digest)), static_cast<int>(r)));
      *summed[i] += shard;
    }
  }
  return digests;
}

absl::Status ModelAccess::Barrier(absl::string_view what) const {
  return rendezvous_->AllGatherBytes(what, "", deadline_).status();
}

}  // namespace shardstep
