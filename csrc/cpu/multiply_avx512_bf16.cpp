// Matrix products by AVX512-BF16: a register tile holds the sums of some rows and a panel of columns.
#include "multiply_avx512_bf16.h"

#include "tables.h"

#ifdef FUSED_RESNET_X86
#include <immintrin.h>

#define FUSED_RESNET_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace fused_resnet {

namespace {

constexpr int64_t columns = engine_columns, vector = 16, vectors = columns / vector;
constexpr int64_t longest_part = 2048; // elements of a row
constexpr int64_t most_rows = 6; // whose sums, with the pairs of a panel, fill 28 of 32 registers

template <int count>
FUSED_RESNET_AVX512_BF16 void multiply_tile(const MatrixProduct& product, const BFloat16* const* rows, float* c) {
  const int64_t ldc = product.ldc;
  const BFloat16* b = product.b;
  __m512 sums[count][vectors];
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < vectors; ++j) sums[i][j] = product.add ? _mm512_loadu_ps(c + i * ldc + j * vector) : _mm512_setzero_ps();
  const Segment* const end = product.segments + product.segment_count;
  for (const Segment* segment = product.segments; segment != end; ++segment) {
    const BFloat16* a[count];
    for (int i = 0; i < count; ++i) a[i] = rows[i] + segment->offset;
    for (int64_t d = 0; d < segment->depth; d += 2, b += 2 * columns) {
      __m512i pairs[vectors];
      for (int j = 0; j < vectors; ++j) pairs[j] = _mm512_loadu_si512(b + 2 * j * vector);
      for (int i = 0; i < count; ++i) {
        int pair;
        __builtin_memcpy(&pair, a[i] + d, sizeof pair);
        const __m512i broadcast = _mm512_set1_epi32(pair);
        for (int j = 0; j < vectors; ++j)
          sums[i][j] = _mm512_dpbf16_ps(sums[i][j], (__m512bh)broadcast, (__m512bh)pairs[j]);
      }
    }
  }
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < vectors; ++j) _mm512_storeu_ps(c + i * ldc + j * vector, sums[i][j]);
}

constexpr decltype(&multiply_tile<1>) multiply_tiles[]{multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                                       multiply_tile<4>, multiply_tile<5>, multiply_tile<6>};

// f(first row, rows) of tiles about as high as each other: a low one would wait for its sums.
template <class F>
void for_tiles(int64_t m, const F& f) {
  const int64_t count = (m + most_rows - 1) / most_rows;
  for (int64_t tile = 0; tile < count; ++tile) f(m * tile / count, m * (tile + 1) / count - m * tile / count);
}

} // namespace

void multiply_avx512_bf16(const MatrixProduct& product, const BFloat16* a, int64_t lda) {
  check_columns(product);
  for_tiles(product.m, [&](int64_t first, int64_t count) {
    const BFloat16* rows[most_rows];
    for (int64_t i = 0; i < count; ++i) rows[i] = a + (first + i) * lda;
    multiply_tiles[count - 1](product, rows, product.c + first * product.ldc);
  });
}

void multiply_rows_avx512_bf16(const MatrixProduct& product, const BFloat16* const* rows) {
  check_columns(product);
  for_parts(product, longest_part, [&](const MatrixProduct& part) {
    for_tiles(part.m, [&](int64_t first, int64_t count) {
      multiply_tiles[count - 1](part, rows + first, part.c + first * part.ldc);
    });
  });
}

} // namespace fused_resnet
#endif
