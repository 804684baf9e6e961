#include "shardstep/tools/bench/mpi_collectives.h"

#include <mpi.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace shardstep {
namespace {

constexpr int64_t kBf16Bytes = sizeof(Bf16);
constexpr int64_t kFp32Bytes = sizeof(float);

int Count(int64_t elements) { return static_cast<int>(elements); }

int64_t LargestPiece(const FlatModel& model) {
  int64_t elements = 0;
  for (const FlatPiece& piece : model.pieces()) elements = std::max(elements, piece.shard_elements * model.ranks());
  return elements;
}

// Gradients to their owners, update, weights to everybody: each for the whole model before the next begins.
class Collectives : public MpiBaseline {
 public:
  Collectives(std::unique_ptr<FlatModel> model, std::optional<double> max_norm)
      : model_(std::move(model)), max_norm_(max_norm) {}

  absl::Status Step() final {
    model_->BeginStep();
    for (const FlatPiece& piece : model_->pieces()) SHARDSTEP_RETURN_IF_ERROR(Exchange(piece));
    if (max_norm_) SHARDSTEP_RETURN_IF_ERROR(TakeNorm());
    for (const FlatPiece& piece : model_->pieces()) {
      SHARDSTEP_RETURN_IF_ERROR(model_->Update(model_->OwnShard(piece), Sum(piece)));
      const int elements = Count(piece.shard_elements);
      MPI_Allgather(MPI_IN_PLACE, elements, MPI_UINT16_T, model_->weights() + piece.begin_element, elements,
                    MPI_UINT16_T, MPI_COMM_WORLD);
    }
    return absl::OkStatus();
  }
  absl::Span<const Bf16> weights() const final { return model_->logical_weights(); }

 protected:
  /// Brings what Sum points to.
  virtual absl::Status Exchange(const FlatPiece& piece) = 0;
  /// Of this rank's shard.
  virtual SumArgs Sum(const FlatPiece& piece) = 0;

  FlatModel& model() { return *model_; }

 private:
  absl::Status TakeNorm() {
    ScanResult scan;
    for (const FlatPiece& piece : model_->pieces()) {
      SHARDSTEP_RETURN_IF_ERROR(model_->Scan(model_->OwnShard(piece), Sum(piece), nullptr, &scan));
    }
    double squared_norm = scan.squared_norm.Round();
    MPI_Allreduce(MPI_IN_PLACE, &squared_norm, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    model_->Clip(*max_norm_, squared_norm);
    return absl::OkStatus();
  }

  const std::unique_ptr<FlatModel> model_;
  const std::optional<double> max_norm_;
};

class Fp32 : public Collectives {
 public:
  using Collectives::Collectives;

  absl::Status Allocate() {
    SHARDSTEP_ASSIGN_OR_RETURN(wide_, Buffer::Allocate(LargestPiece(model()) * kFp32Bytes, "mpi_fp32's gradients"));
    SHARDSTEP_ASSIGN_OR_RETURN(sums_, Buffer::Allocate(model().state_elements() * kFp32Bytes, "mpi_fp32's sums"));
    return absl::OkStatus();
  }

 protected:
  absl::Status Exchange(const FlatPiece& piece) override {
    const int64_t elements = piece.shard_elements * model().ranks();
    SHARDSTEP_RETURN_IF_ERROR(model().Widen(model().gradients() + piece.begin_element, elements, wide_.as<float>()));
    MPI_Reduce_scatter_block(wide_.as<float>(), sums_.as<float>() + piece.state_begin_element,
                             Count(piece.shard_elements), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    return absl::OkStatus();
  }
  SumArgs Sum(const FlatPiece& piece) override {
    return {.accumulator = sums_.as<float>() + piece.state_begin_element};
  }

 private:
  Buffer wide_, sums_;
};

// sum[i] = bf16(addend[i] + sum[i]).
absl::Status AddRounded(const Bf16* addend, int64_t elements, Bf16* sum) {
  // Nothing can be handed to an operation, and kernels of one thread cost nothing to make.
  SHARDSTEP_ASSIGN_OR_RETURN(const auto kernels, CreateCpuShardKernels(1));
  const Segment segment = {.elements = elements};
  const Slice slices[] = {{.data = addend, .rank = 0}, {.data = sum, .rank = 1}};
  InlineStream stream;
  SHARDSTEP_RETURN_IF_ERROR(kernels->Reduce(
      {.segments = absl::MakeConstSpan(&segment, 1), .sum = {.slices = slices}, .rounded_out = sum}, stream));
  return stream.status();
}

void AddRoundedOfMpi(void* addend, void* sum, int* elements, MPI_Datatype* /*type*/) {
  const absl::Status status = AddRounded(static_cast<const Bf16*>(addend), *elements, static_cast<Bf16*>(sum));
  // An operation cannot return an error.
  if (!status.ok()) MPI_Abort(MPI_COMM_WORLD, 70);
}

class Bf16Op : public Collectives {
 public:
  Bf16Op(std::unique_ptr<FlatModel> model, std::optional<double> max_norm) : Collectives(std::move(model), max_norm) {
    MPI_Op_create(&AddRoundedOfMpi, /*commute=*/1, &operation_);
  }
  ~Bf16Op() override { MPI_Op_free(&operation_); }

  absl::Status Allocate() {
    SHARDSTEP_ASSIGN_OR_RETURN(sums_, Buffer::Allocate(model().state_elements() * kBf16Bytes, "mpi_bf16_op's sums"));
    return absl::OkStatus();
  }

 protected:
  absl::Status Exchange(const FlatPiece& piece) override {
    MPI_Reduce_scatter_block(model().gradients() + piece.begin_element, sums_.as<Bf16>() + piece.state_begin_element,
                             Count(piece.shard_elements), MPI_UINT16_T, operation_, MPI_COMM_WORLD);
    return absl::OkStatus();
  }
  SumArgs Sum(const FlatPiece& piece) override {
    slice_.data = sums_.as<Bf16>() + piece.state_begin_element;
    return {.slices = absl::MakeConstSpan(&slice_, 1)};
  }

 private:
  MPI_Op operation_ = MPI_OP_NULL;
  Buffer sums_;
  Slice slice_;
};

class AllToAll : public Collectives {
 public:
  AllToAll(std::unique_ptr<FlatModel> model, std::optional<double> max_norm)
      : Collectives(std::move(model), max_norm), slices_(static_cast<size_t>(this->model().ranks())) {}

  absl::Status Allocate() {
    SHARDSTEP_ASSIGN_OR_RETURN(landing_,
                               Buffer::Allocate(model().flat_elements() * kBf16Bytes, "mpi_alltoall's landing"));
    return absl::OkStatus();
  }

 protected:
  absl::Status Exchange(const FlatPiece& piece) override {
    const int elements = Count(piece.shard_elements);
    MPI_Alltoall(model().gradients() + piece.begin_element, elements, MPI_UINT16_T,
                 landing_.as<Bf16>() + piece.begin_element, elements, MPI_UINT16_T, MPI_COMM_WORLD);
    return absl::OkStatus();
  }
  SumArgs Sum(const FlatPiece& piece) override {
    const Bf16* data = landing_.as<Bf16>() + piece.begin_element;
    for (int r = 0; r < model().ranks(); ++r) slices_[r] = {.data = data + r * piece.shard_elements, .rank = r};
    return {.slices = slices_};
  }

 private:
  Buffer landing_;
  std::vector<Slice> slices_;
};

template <typename Kind>
absl::StatusOr<std::unique_ptr<MpiBaseline>> Make(std::unique_ptr<FlatModel> model, std::optional<double> max_norm) {
  auto made = std::make_unique<Kind>(std::move(model), max_norm);
  SHARDSTEP_RETURN_IF_ERROR(made->Allocate());
  return made;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiBaseline>> CreateMpiCollectives(Baseline baseline, std::unique_ptr<FlatModel> model,
                                                                  std::optional<double> max_norm) {
  switch (baseline) {
    case Baseline::kFp32:
      return Make<Fp32>(std::move(model), max_norm);
    case Baseline::kBf16Op:
      return Make<Bf16Op>(std::move(model), max_norm);
    case Baseline::kAllToAll:
      return Make<AllToAll>(std::move(model), max_norm);
    case Baseline::kPointToPoint:
      break;
  }
  return absl::InternalError("mpi_p2p is not made of collectives");
}

int64_t EstimateMpiCollectivesBytes(Baseline baseline, int64_t flat_elements, int ranks) {
  // What Open MPI 4 receives and adds up in: each as long as everything that is sent.
  constexpr int64_t kTemporaries = 2;
  const int64_t temporaries = ranks > 1 ? kTemporaries : 0;
  switch (baseline) {
    case Baseline::kFp32:
      return ((1 + temporaries) * flat_elements + flat_elements / ranks) * kFp32Bytes;
    case Baseline::kBf16Op:
      return (temporaries * flat_elements + flat_elements / ranks) * kBf16Bytes;
    default:
      return flat_elements * kBf16Bytes;
  }
}

}  // namespace shardstep
