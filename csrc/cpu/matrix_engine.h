// Processors' matrix hardware for bf16 (AMX, AVX512-BF16), through torch's own small matrix products.
#pragma once

#include <cstdint>
#include <string>

#include "kernels.h"

namespace fused_resnet {

struct MatrixEngine {
  const char* name;

  // c [m][n] = (add: +=) a [m][k] * b; a's rows lie lda >= k apart and c's ldc >= n, of floats. b is in pairs of rows,
  // [k/2][n][2], and k is even. What lies between the rows is neither read nor written.
  void (*multiply)(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldc, bool add, const BFloat16* a,
                   const BFloat16* b, float* c);

  // Gives back what this thread holds of the hardware since its last `multiply`.
  void (*release)();
};

// The hardware's, where there is one and ATen may use it (torch.backends.mkldnn.enabled, ATEN_CPU_CAPABILITY): null
// where products of bf16 are better done in fp32.
const MatrixEngine* matrix_engine();

// For tests: "auto" (as above), "hardware" (raises where there is none), "emulated" (the same contract in plain loops)
// or "none", from now on and for the whole process.
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
