#include "shardstep/runtime/model_access.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "shardstep/optimizer/shard_kernels.h"

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

// What is converted at a time.
constexpr int64_t kPieceElements = 256 * ShardLayout::kBlockElements;

}  // namespace

ModelAccess::ModelAccess(const ShardLayout* layout, const ParameterGroups* groups, const StateAccess* state,
                         Communicator* host, Rendezvous* rendezvous, absl::Duration deadline)
    : layout_(layout), groups_(groups), state_(state), host_(host), rendezvous_(rendezvous), deadline_(deadline) {}

void ModelAccess::VisitOwned(absl::FunctionRef<void(int b, const Segment& piece)> visit) const {
  for (int b = 0; b < layout_->bucket_count(); ++b) {
    for (const Segment& segment : layout_->Segments(b, rendezvous_->rank())) {
      for (int64_t begin = 0; begin < segment.elements; begin += kPieceElements) {
        Segment piece = segment;
        piece.begin_element += begin;
        piece.global_begin_element += begin;
        piece.shard_begin_element += begin;
        piece.elements = std::min(kPieceElements, segment.elements - begin);
        visit(b, piece);
      }
    }
  }
}

void ModelAccess::Fill(const FillMaster& fill) const {
  std::vector<float> values;
  VisitOwned([&](int b, const Segment& piece) {
    values.assign(piece.elements, 0.0f);
    fill(piece.parameter, piece.begin_element, absl::MakeSpan(values));
    state_->Write(StateKind::kMaster, b, piece.shard_begin_element, values);
  });
}

void ModelAccess::ZeroMoments(int p) const {
  VisitOwned([&](int b, const Segment& piece) {
    if (piece.parameter != p) return;
    const std::vector<float> zeros(piece.elements);
    for (const StateKind kind : {StateKind::kFirstMoment, StateKind::kSecondMoment}) {
      if (state_->Has(kind, b)) state_->Write(kind, b, piece.shard_begin_element, zeros);
    }
  });
}

void ModelAccess::MasterFromWeights(int p) const {
  if (layout_->parameter(p).weight_dtype != DType::kBf16) return;
  const std::byte* const weights = host_->weights().data + layout_->weight_begin_byte(p);
  std::vector<float> values;
  VisitOwned([&](int b, const Segment& piece) {
    if (piece.parameter != p) return;
    values.resize(piece.elements);
    state_->ReadWeights(weights + piece.begin_element * SizeBytes(DType::kBf16), DType::kBf16, absl::MakeSpan(values));
    state_->Write(StateKind::kMaster, b, piece.shard_begin_element, values);
  });
}

void ModelAccess::SetState(int p, StateKind kind, absl::Span<const float> values) const {
  VisitOwned([&](int b, const Segment& piece) {
    if (piece.parameter != p) return;
    state_->Write(kind, b, piece.shard_begin_element, values.subspan(piece.begin_element, piece.elements));
  });
}

absl::StatusOr<std::vector<float>> ModelAccess::ReadState(int p, StateKind kind) const {
  const std::vector<OwnedRange> ranges = layout_->Owners(p, 0, layout_->elements(p));
  std::vector<float> mine;
  for (const OwnedRange& range : ranges) {
    if (range.rank != rendezvous_->rank()) continue;
    mine.resize(mine.size() + range.elements);
    state_->Read(kind, range.bucket, range.shard_begin_element, absl::MakeSpan(mine).last(range.elements));
  }
  // Whoever cannot read gives nothing, so that nobody waits for it.
  if (!state_->status().ok()) mine.clear();
  SHARDSTEP_ASSIGN_OR_RETURN(
      const std::vector<std::string> parts,
      rendezvous_->AllGatherBytes(
          absl::StrCat("ReadState: ", Name(kind), " of \"", layout_->parameter(p).name, "\""),
          absl::string_view(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(float)), deadline_));
  SHARDSTEP_RETURN_IF_ERROR(state_->status());
  std::vector<float> values(layout_->elements(p));
  std::vector<size_t> read(parts.size());
  for (const OwnedRange& range : ranges) {
    const size_t size_bytes = range.elements * sizeof(float);
    if (read[range.rank] + size_bytes > parts[range.rank].size()) {
      return absl::InternalError(absl::StrCat("rank ", range.rank, " sent too little"));
    }
    std::memcpy(values.data() + range.begin_element, parts[range.rank].data() + read[range.rank], size_bytes);
    read[range.rank] += size_bytes;
  }
  return values;
}

absl::Status ModelAccess::LaunchDigests(ShardKernels& kernels, Stream& stream, DigestSum* weights,
                                        DigestSum* shards) const {
  for (int p = 0; p < layout_->parameter_count(); ++p) {
    if (layout_->owner(p) != p) continue;
    const bool fp32 = layout_->parameter(p).weight_dtype == DType::kFp32;
    SHARDSTEP_RETURN_IF_ERROR(kernels.Digest({.form = fp32 ? DigestForm::kFp32 : DigestForm::kBf16,
                                              .values = host_->weights().data + layout_->weight_begin_byte(p),
                                              .parameter = p,
                                              .elements = layout_->elements(p),
                                              .sum = weights},
                                             stream));
  }
  for (int b = 0; b < layout_->bucket_count(); ++b) {
    for (const Segment& segment : layout_->Segments(b, rendezvous_->rank())) {
      for (const StateKind kind : kStateKinds) {
        if (!state_->Has(kind, b)) continue;
        // A frozen parameter has no moments, also where its bucket has.
        if (kind != StateKind::kMaster && groups_->frozen(segment.parameter)) continue;
        const StatePlace place = state_->Place(kind, b, segment.shard_begin_element);
        SHARDSTEP_RETURN_IF_ERROR(kernels.Digest({.form = place.form,
                                                  .values = place.values,
                                                  .remainder = place.remainder,
                                                  .parameter = segment.parameter,
                                                  .begin_element = segment.begin_element,
                                                  .elements = segment.elements,
                                                  .sum = &shards[static_cast<int>(kind)]},
                                                 stream));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<OptimizerDigests> ModelAccess::Digests(ShardKernels& kernels, Stream& stream, Memory& memory,
                                                      std::array<DigestSum, 4>& sums) const {
  std::array<DigestSum, 4> found;
  absl::Status hashed = memory.Write(&found, &sums, sizeof(sums));
  if (hashed.ok()) hashed = LaunchDigests(kernels, stream, &sums[0], &sums[1]);
  hashed.Update(stream.Synchronize(stream.Record()));
  if (hashed.ok()) hashed = memory.Read(&sums, &found, sizeof(sums));
  const Digest weights = ToDigest(found[0]);
  std::string mine;
  for (const DigestSum& sum : found) mine += ToBytes(ToDigest(sum));
  // Whoever cannot hash gives nothing, so that nobody waits for it.
  if (!hashed.ok()) mine.clear();
  SHARDSTEP_ASSIGN_OR_RETURN(const std::vector<std::string> parts,
                             rendezvous_->AllGatherBytes("digests", mine, deadline_));
  SHARDSTEP_RETURN_IF_ERROR(hashed);
  OptimizerDigests digests{.weights = weights, .master = {}, .first_moment = {}, .second_moment = {}};
  Digest* const summed[] = {&digests.master, &digests.first_moment, &digests.second_moment};
  for (size_t r = 0; r < parts.size(); ++r) {
    const absl::string_view part = parts[r];
    SHARDSTEP_ASSIGN_OR_RETURN(const Digest theirs, ToDigest(part.substr(0, sizeof(Digest)), static_cast<int>(r)));
    if (!(theirs == weights)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the weights of ranks ", rendezvous_->rank(), " and ", r, " differ"));
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

}  // namespace shardstep
