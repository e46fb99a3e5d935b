// A matrix engine of AMX's tiles.
#pragma once

#include "matrix_engine.h"

namespace fused_resnet {

// As in MatrixEngine, n = 64. The process needs the system's permission to use tiles.
void multiply_amx(const MatrixProduct& product, const BFloat16* a, int64_t lda);
void release_amx();

// The same code on tiles of plain arrays.
void multiply_emulated_tiles(const MatrixProduct& product, const BFloat16* a, int64_t lda);

} // namespace fused_resnet
