// Processors' instructions for products of bf16: AMX through torch's own small matrix products, else AVX512-BF16.
#pragma once

#include <cstdint>
#include <string>

#include "products.h"

namespace fused_resnet {

struct MatrixEngine {
  const char* name;

  // c [m][n] = (add: +=) a [m][k] * b; a's rows lie lda >= k apart and c's ldc >= n, of floats. b is in pairs of rows,
  // [k/2][n][2], and k is even. What lies between the rows is neither read nor written.
  void (*multiply)(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldc, bool add, const BFloat16* a,
                   const BFloat16* b, float* c);

  // The same of rows anywhere, of each of which k elements lie in segments: products [m][n] of the sums of all segments.
  // Null where rows have to be at one distance.
  void (*multiply_rows)(const BFloat16* const* rows, int64_t m, int64_t n, const Segment* segments, int64_t segment_count,
                        int64_t ldc, bool add, const BFloat16* b, float* c);

  // Gives back what this thread holds of the hardware since its last `multiply`.
  void (*release)();
};

// The best one that there is and that ATen's settings allow (ATEN_CPU_CAPABILITY; AMX: torch.backends.mkldnn.enabled,
// too): null where products of bf16 are better done in fp32.
const MatrixEngine* matrix_engine();

// For tests: "auto" (as above), "amx" or "avx512_bf16" (raises where it is missing), "emulated" or
// "emulated_rows" (the same contract in plain loops, without and with `multiply_rows`) or "none", from now on and for the
// whole process.
void use_matrix_engine(const std::string& name);

// The name of the one in use, or "none".
std::string matrix_engine_name();

// Holds the hardware for a task.
class MatrixTask {
 public:
  explicit MatrixTask(const MatrixEngine& engine) : engine_(engine) {}
  ~MatrixTask() { engine_.release(); }
  MatrixTask(const MatrixTask&) = delete;
  MatrixTask& operator=(const MatrixTask&) = delete;

 private:
  const MatrixEngine& engine_;
};

} // namespace fused_resnet
