// Processors' instructions for products of bf16: AMX, else AVX512-BF16.
#pragma once

#include <cstdint>
#include <string>

#include "products.h"

namespace fused_resnet {

// c [m][n] = (add: +=) a * b, its columns times `scale` where that is not null. A row of a consists of segments of even
// depths; b is in pairs of a row's elements, [Σ depth/2][n][2]; c's rows lie ldc >= n apart. What lies between the rows
// is neither read nor written.
struct MatrixProduct {
  int64_t m, n;
  const Segment* segments;
  int64_t segment_count;
  const BFloat16* b;
  float* c;
  int64_t ldc;
  bool add;
  const float* scale = nullptr; // for `multiply_rows` and `multiply_to`
};

// Columns of a product by the processor's instructions: AVX-512's panel.
constexpr int64_t engine_columns = 64;

// Raises where a product has another number of them.
void check_columns(const MatrixProduct& product);

// f(part, is it the last) for parts of a product, added up one after the other, of whole segments and about as deep as
// each other, no more than `longest` where segments allow it: with the weights of more, caches overflow.
template <class F>
void for_parts(const MatrixProduct& product, int64_t longest, const F& f) {
  int64_t depth = 0, of_part = 0;
  for (int64_t i = 0; i < product.segment_count; ++i) depth += product.segments[i].depth;
  const int64_t parts = (depth + longest - 1) / longest;
  MatrixProduct part = product;
  part.segment_count = 0;
  for (int64_t i = 0; i < product.segment_count; ++i) {
    ++part.segment_count;
    of_part += product.segments[i].depth;
    if (of_part * parts < depth && i + 1 < product.segment_count) continue;
    f(part, i + 1 == product.segment_count);
    part.segments += part.segment_count;
    part.segment_count = 0;
    part.b += of_part * product.n;
    part.add = true;
    of_part = 0;
  }
}

struct MatrixEngine {
  const char* name;

  // a's rows lie lda apart.
  void (*multiply)(const MatrixProduct& product, const BFloat16* a, int64_t lda);

  // a's rows lie anywhere; null where they have to be at one distance.
  void (*multiply_rows)(const MatrixProduct& product, const BFloat16* const* rows);

  // As `multiply_rows`, and what `store_forward` does with whole panels of the result, while it is in registers; c holds
  // what there is to add, and sums of parts. Null together with `multiply_rows`.
  void (*multiply_to)(const MatrixProduct& product, const BFloat16* const* rows, const Output<BFloat16>& to,
                      const ForwardEpilogue<BFloat16>& epilogue);

  // Gives back what this thread holds of the hardware since its last `multiply`.
  void (*release)();
};

// The best one that there is and that the environment allows (ATEN_CPU_CAPABILITY; AMX: ONEDNN_MAX_CPU_ISA, too): null
// where products of bf16 are better done in fp32.
const MatrixEngine* matrix_engine();

// For tests: "auto" (as above), "amx" or "avx512_bf16" (raises where it is missing); "emulated" or "emulated_rows" (the
// same in plain loops, without and with `multiply_rows`), "emulated_tiles" (AMX's own code on emulated tiles); "none";
// from now on and for the whole process.
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
