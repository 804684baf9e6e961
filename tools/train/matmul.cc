#include "shardstep/tools/train/matmul.h"

#include <omp.h>

#include <algorithm>
#include <dnnl.hpp>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_format.h"

namespace shardstep {
namespace {

template <typename Operand>
constexpr dnnl::memory::data_type kDataType =
    std::is_same_v<Operand, Bf16> ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;

absl::Status OneDnnError(const MatmulShape& shape, const dnnl::error& error) {
  return absl::InternalError(absl::StrFormat("oneDNN matmul [%d, %d] x [%d, %d]: %s", shape.rows, shape.inner,
                                             shape.inner, shape.columns, error.message));
}

template <typename Operand>
class OneDnnMatmul final : public Matmul<Operand> {
 public:
  /// Throws dnnl::error.
  OneDnnMatmul(const MatmulShape& shape, const dnnl::engine& engine, dnnl::stream stream)
      : shape_(shape), stream_(std::move(stream)) {
    const dnnl::memory::desc a({shape.rows, shape.inner}, kDataType<Operand>,
                               {shape.a_row_stride, shape.a_column_stride});
    const dnnl::memory::desc b({shape.inner, shape.columns}, kDataType<Operand>,
                               {shape.b_row_stride, shape.b_column_stride});
    const dnnl::memory::desc c({shape.rows, shape.columns}, dnnl::memory::data_type::f32, {shape.c_row_stride, 1});
    primitive_ = dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), engine));
    a_ = dnnl::memory(a, engine, DNNL_MEMORY_NONE);
    b_ = dnnl::memory(b, engine, DNNL_MEMORY_NONE);
    c_ = dnnl::memory(c, engine, DNNL_MEMORY_NONE);
    arguments_ = {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}};
  }

  absl::Status Run(const Operand* a, const Operand* b, float* c) override {
    try {
      a_.set_data_handle(const_cast<Operand*>(a));
      b_.set_data_handle(const_cast<Operand*>(b));
      c_.set_data_handle(c);
      primitive_.execute(stream_, arguments_);
    } catch (const dnnl::error& error) {
      return OneDnnError(shape_, error);
    }
    return absl::OkStatus();
  }

 private:
  MatmulShape shape_;
  dnnl::stream stream_;
  dnnl::matmul primitive_;
  dnnl::memory a_, b_, c_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

class PlainMatmul final : public Matmul<double> {
 public:
  explicit PlainMatmul(const MatmulShape& shape) : shape_(shape) {}

  absl::Status Run(const double* a, const double* b, double* c) override {
    for (int64_t i = 0; i < shape_.rows; ++i) {
      double* row = c + i * shape_.c_row_stride;
      std::fill(row, row + shape_.columns, 0.0);
      for (int64_t k = 0; k < shape_.inner; ++k) {
        const double factor = a[i * shape_.a_row_stride + k * shape_.a_column_stride];
        const double* b_row = b + k * shape_.b_row_stride;
        for (int64_t j = 0; j < shape_.columns; ++j) row[j] += factor * b_row[j * shape_.b_column_stride];
      }
    }
    return absl::OkStatus();
  }

 private:
  MatmulShape shape_;
};

}  // namespace

MatmulRoute FastestMatmulRoute() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::avx512_core_bf16:
    case dnnl::cpu_isa::avx512_core_amx:
      return MatmulRoute::kBf16;
    default:
      return MatmulRoute::kFp32;
  }
}

absl::string_view MatmulRouteName(MatmulRoute route) { return route == MatmulRoute::kBf16 ? "bf16" : "fp32"; }

absl::Status SetComputeThreads(int threads) {
  if (threads < 1) return absl::InvalidArgumentError(absl::StrFormat("compute_threads: %d is not positive", threads));
  omp_set_dynamic(0);
  omp_set_num_threads(threads);
  return absl::OkStatus();
}

template <typename Operand>
struct MatmulCache<Operand>::Engine {
  dnnl::engine engine;
  dnnl::stream stream;
};

template <typename Operand>
MatmulCache<Operand>::MatmulCache() = default;
template <typename Operand>
MatmulCache<Operand>::~MatmulCache() = default;

template <typename Operand>
absl::StatusOr<Matmul<Operand>*> MatmulCache<Operand>::Get(const MatmulShape& shape) {
  std::unique_ptr<Matmul<Operand>>& product = products_[shape];
  if (product != nullptr) return product.get();
  if constexpr (std::is_same_v<Operand, double>) {
    product = std::make_unique<PlainMatmul>(shape);
  } else {
    try {
      if (engine_ == nullptr) {
        const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
        engine_ = std::make_unique<Engine>(Engine{engine, dnnl::stream(engine)});
      }
      product = std::make_unique<OneDnnMatmul<Operand>>(shape, engine_->engine, engine_->stream);
    } catch (const dnnl::error& error) {
      return OneDnnError(shape, error);
    }
  }
  return product.get();
}

template class MatmulCache<Bf16>;
template class MatmulCache<float>;
template class MatmulCache<double>;

}  // namespace shardstep
