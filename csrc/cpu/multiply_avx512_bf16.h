// A matrix engine of vectors, for processors with AVX512-BF16 and without AMX.
#pragma once

#include "matrix_engine.h"

namespace fused_resnet {

// As in MatrixEngine, n = 64.
void multiply_avx512_bf16(const MatrixProduct& product, const BFloat16* a, int64_t lda);
void multiply_rows_avx512_bf16(const MatrixProduct& product, const BFloat16* const* rows);
void multiply_to_avx512_bf16(const MatrixProduct& product, const BFloat16* const* rows, const Output<BFloat16>& to,
                             const ForwardEpilogue<BFloat16>& epilogue);

} // namespace fused_resnet
