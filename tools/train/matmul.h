#ifndef SHARDSTEP_TOOLS_TRAIN_MATMUL_H_
#define SHARDSTEP_TOOLS_TRAIN_MATMUL_H_

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "shardstep/comm/bf16.h"
#include "shardstep/comm/status.h"

namespace shardstep {

/// How the matrix products of a run are computed. Both accumulate in fp32; they do not give the same bits.
enum class MatmulRoute {
  kBf16,  ///< bf16 operands: CPUs with AVX-512 BF16 or AMX
  kFp32,  ///< fp32 operands: bf16 weights are widened before use
};

/// The route for this CPU, detected at run time.
MatmulRoute FastestMatmulRoute();
/// "bf16" or "fp32", as logs and records name it.
absl::string_view MatmulRouteName(MatmulRoute route);

/// Sets the number of threads that one matrix product uses when started from the calling thread. The bits of a run may
/// depend on it. Call it on the thread that will run the model, before creating one. `threads` >= 1.
absl::Status SetComputeThreads(int threads);

/// C[rows, columns] = A[rows, inner] B[inner, columns]. Strides are in elements; in A and in B one of the two is 1, so
/// a transposed operand is one with exchanged strides. Rows of C are contiguous.
struct MatmulShape {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t inner = 0;
  int64_t a_row_stride = 0;
  int64_t a_column_stride = 1;
  int64_t b_row_stride = 0;
  int64_t b_column_stride = 1;
  int64_t c_row_stride = 0;

  auto operator<=>(const MatmulShape&) const = default;
};

/// A matrix product of one shape. `Operand` is Bf16 or float (C is float; oneDNN), or double (C is double; plain loops,
/// the reference of tests). C is overwritten. For a given shape and thread count the bits are a function of A and B.
/// Not thread-safe.
template <typename Operand>
class Matmul {
 public:
  using Result = std::conditional_t<std::is_same_v<Operand, double>, double, float>;

  virtual ~Matmul() = default;
  /// Internal, with the library's message, when oneDNN fails.
  virtual absl::Status Run(const Operand* a, const Operand* b, Result* c) = 0;
};

/// Makes matrix products, one per shape, and owns them.
template <typename Operand>
class MatmulCache {
 public:
  MatmulCache();
  ~MatmulCache();
  MatmulCache(const MatmulCache&) = delete;
  MatmulCache& operator=(const MatmulCache&) = delete;

  /// The product lives as long as the cache. Internal, naming the shape, when oneDNN has no implementation for it.
  absl::StatusOr<Matmul<Operand>*> Get(const MatmulShape& shape);

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;
  std::map<MatmulShape, std::unique_ptr<Matmul<Operand>>> products_;
};

extern template class MatmulCache<Bf16>;
extern template class MatmulCache<float>;
extern template class MatmulCache<double>;

}  // namespace shardstep

#endif  // SHARDSTEP_TOOLS_TRAIN_MATMUL_H_
