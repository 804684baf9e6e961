#include "shardstep/tools/bench/mpi_pipeline.h"

#include <mpi.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace shardstep {
namespace {

// Measured among 2 ranks of one host: 128 Ki to 1 Mi elements are within a tenth of the best, and so are 2 to 8 in
// flight; smaller chunks cost more messages, larger ones fall out of the caches before they are summed.
constexpr int64_t kChunkElements = int64_t{1} << 18;
constexpr int64_t kChunksInFlight = 4;
constexpr int kGradientTag = 1;
constexpr int kWeightTag = 2;

using Requests = std::vector<MPI_Request>;

void WaitAll(Requests* requests) {
  MPI_Waitall(static_cast<int>(requests->size()), requests->data(), MPI_STATUSES_IGNORE);
  requests->clear();
}

class Pipeline : public MpiBaseline {
 public:
  Pipeline(std::unique_ptr<FlatModel> model, std::optional<double> max_norm, int64_t largest_chunk_elements)
      : model_(std::move(model)),
        max_norm_(max_norm),
        ranks_(model_->ranks()),
        rank_(model_->rank()),
        shard_elements_(model_->state_elements()),
        chunk_elements_(std::min({kChunkElements, largest_chunk_elements, shard_elements_})),
        chunks_((shard_elements_ + chunk_elements_ - 1) / chunk_elements_),
        arriving_(kChunksInFlight),
        slices_(static_cast<size_t>(ranks_)) {}

  absl::Status Allocate() {
    const int64_t landing_elements = kChunksInFlight * (ranks_ - 1) * chunk_elements_;
    SHARDSTEP_ASSIGN_OR_RETURN(
        landing_, Buffer::Allocate(landing_elements * static_cast<int64_t>(sizeof(Bf16)), "mpi_p2p's landing"));
    if (!max_norm_) return absl::OkStatus();
    SHARDSTEP_ASSIGN_OR_RETURN(
        sums_, Buffer::Allocate(shard_elements_ * static_cast<int64_t>(sizeof(float)), "mpi_p2p's sums"));
    return absl::OkStatus();
  }

  absl::Status Step() override {
    model_->BeginStep();
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) ReceiveWeights(chunk);
    for (int64_t chunk = 0; chunk < std::min(kChunksInFlight, chunks_); ++chunk) ExchangeGradients(chunk);
    ScanResult scan;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      WaitAll(&arriving_[chunk % kChunksInFlight]);
      SHARDSTEP_RETURN_IF_ERROR(max_norm_ ? Sum(chunk, &scan) : UpdateAndSend(chunk, SumOfSlices(chunk)));
      if (chunk + kChunksInFlight < chunks_) ExchangeGradients(chunk + kChunksInFlight);
    }
    if (max_norm_) SHARDSTEP_RETURN_IF_ERROR(ClipAndUpdate(scan.squared_norm.Round()));
    WaitAll(&leaving_);
    return absl::OkStatus();
  }

  absl::Span<const Bf16> weights() const override { return model_->logical_weights(); }

 private:
  // Of chunk number `chunk` of each shard.
  int64_t Begin(int64_t chunk) const { return chunk * chunk_elements_; }
  int64_t Elements(int64_t chunk) const { return std::min(chunk_elements_, shard_elements_ - Begin(chunk)); }
  FlatRun Own(int64_t chunk) const {
    return {.begin_element = InFlat(rank_, chunk), .state_begin_element = Begin(chunk), .elements = Elements(chunk)};
  }
  int64_t InFlat(int owner, int64_t chunk) const { return owner * shard_elements_ + Begin(chunk); }

  // The other ranks, each rank beginning with the one after it.
  int Peer(int distance) const { return (rank_ + distance) % ranks_; }
  Bf16* Landing(int64_t chunk, int distance) {
    return landing_.as<Bf16>() + (chunk % kChunksInFlight * (ranks_ - 1) + distance - 1) * chunk_elements_;
  }

  void Receive(Bf16* to, int64_t chunk, int peer, int tag, Requests* requests) {
    MPI_Irecv(to, static_cast<int>(Elements(chunk)), MPI_UINT16_T, peer, tag, MPI_COMM_WORLD,
              &requests->emplace_back(MPI_REQUEST_NULL));
  }
  void Send(const Bf16* from, int64_t chunk, int peer, int tag) {
    MPI_Isend(from, static_cast<int>(Elements(chunk)), MPI_UINT16_T, peer, tag, MPI_COMM_WORLD,
              &leaving_.emplace_back(MPI_REQUEST_NULL));
  }

  void ReceiveWeights(int64_t chunk) {
    for (int d = 1; d < ranks_; ++d) {
      Receive(model_->weights() + InFlat(Peer(d), chunk), chunk, Peer(d), kWeightTag, &leaving_);
    }
  }
  void ExchangeGradients(int64_t chunk) {
    for (int d = 1; d < ranks_; ++d) {
      Receive(Landing(chunk, d), chunk, Peer(d), kGradientTag, &arriving_[chunk % kChunksInFlight]);
    }
    for (int d = 1; d < ranks_; ++d) {
      Send(model_->gradients() + InFlat(Peer(d), chunk), chunk, Peer(d), kGradientTag);
    }
  }

  SumArgs SumOfSlices(int64_t chunk) {
    slices_[rank_] = {.data = model_->gradients() + InFlat(rank_, chunk), .rank = rank_};
    for (int d = 1; d < ranks_; ++d) slices_[Peer(d)] = {.data = Landing(chunk, d), .rank = Peer(d)};
    return {.slices = slices_};
  }
  absl::Status Sum(int64_t chunk, ScanResult* scan) {
    return model_->Scan(Own(chunk), SumOfSlices(chunk), sums_.as<float>() + Begin(chunk), scan);
  }
  absl::Status UpdateAndSend(int64_t chunk, const SumArgs& sum) {
    SHARDSTEP_RETURN_IF_ERROR(model_->Update(Own(chunk), sum));
    for (int d = 1; d < ranks_; ++d) Send(model_->weights() + InFlat(rank_, chunk), chunk, Peer(d), kWeightTag);
    return absl::OkStatus();
  }
  absl::Status ClipAndUpdate(double squared_norm) {
    MPI_Allreduce(MPI_IN_PLACE, &squared_norm, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    model_->Clip(*max_norm_, squared_norm);
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      SHARDSTEP_RETURN_IF_ERROR(UpdateAndSend(chunk, {.accumulator = sums_.as<float>() + Begin(chunk)}));
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<FlatModel> model_;
  const std::optional<double> max_norm_;
  const int ranks_;
  const int rank_;
  const int64_t shard_elements_;
  const int64_t chunk_elements_;
  const int64_t chunks_;
  Buffer landing_, sums_;
  std::vector<Requests> arriving_;  // by slot of the landing
  Requests leaving_;                // and weights that arrive, which nobody waits for before the end
  std::vector<Slice> slices_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MpiBaseline>> CreateMpiPipeline(std::unique_ptr<FlatModel> model,
                                                               std::optional<double> max_norm,
                                                               int64_t largest_chunk_elements) {
  auto pipeline = std::make_unique<Pipeline>(std::move(model), max_norm, largest_chunk_elements);
  SHARDSTEP_RETURN_IF_ERROR(pipeline->Allocate());
  return pipeline;
}

int64_t EstimateMpiPipelineBytes(int64_t flat_elements, int ranks, bool clip) {
  const int64_t shard_elements = flat_elements / ranks;
  const int64_t landing_elements = kChunksInFlight * (ranks - 1) * std::min(kChunkElements, shard_elements);
  return landing_elements * static_cast<int64_t>(sizeof(Bf16)) +
         (clip ? shard_elements * static_cast<int64_t>(sizeof(float)) : 0);
}

}  // namespace shardstep
