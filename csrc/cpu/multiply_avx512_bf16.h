// A matrix engine (matrix_engine.h) of vectors, for processors with AVX512-BF16 and without AMX.
#pragma once

#include "products.h"

namespace fused_resnet {

// As in MatrixEngine, n = 64.
void multiply_avx512_bf16(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldc, bool add, const BFloat16* a,
                          const BFloat16* b, float* c);
void multiply_rows_avx512_bf16(const BFloat16* const* rows, int64_t m, int64_t n, const Segment* segments,
                               int64_t segment_count, int64_t ldc, bool add, const BFloat16* b, float* c);

} // namespace fused_resnet
