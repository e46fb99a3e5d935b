// Matrix products by AVX512-BF16: a register tile holds the sums of some rows and a panel of columns.
#include "multiply_avx512_bf16.h"

#include <algorithm>

#include "tables.h"

#ifdef FUSED_RESNET_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // GCC 12 warns of the header's own undefined vectors (PR 105593)
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#define FUSED_RESNET_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace fused_resnet {

namespace {

constexpr int64_t columns = engine_columns, vector = 16, vectors = columns / vector;
constexpr int64_t longest_part = 2048;          // elements of a row
constexpr int64_t line = 64 / sizeof(BFloat16); // of a cache
constexpr int64_t most_rows = 6;                // whose sums, with the pairs of a panel, fill 28 of 32 registers

// What becomes of a product, where its sums are not what is wanted.
struct Finish {
  const Output<BFloat16>& to;
  const ForwardEpilogue<BFloat16>& epilogue;
};

template <int count>
using Sums = __m512[count][vectors];

// next: the rows of the tile that follows, which are fetched meanwhile: what a tile meets first may lie in memory.
template <int count>
FUSED_RESNET_AVX512_BF16 inline void add_products(const MatrixProduct& product, const BFloat16* const* rows,
                                                  const BFloat16* const* next, Sums<count>& sums) {
  const BFloat16* b = product.b;
  const Segment* const end = product.segments + product.segment_count;
  for (const Segment* segment = product.segments; segment != end; ++segment) {
    const BFloat16* a[count];
    for (int i = 0; i < count; ++i) a[i] = rows[i] + segment->offset;
    for (int64_t d = 0; d < segment->depth; d += 2, b += 2 * columns) {
      if (d % line == 0)
        for (int i = 0; i < count; ++i) _mm_prefetch(next[i] + segment->offset + d, _MM_HINT_T0);
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
}

FUSED_RESNET_AVX512_BF16 inline __m512 widened(const BFloat16* p) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

// act(scale*s + shift + residual) of a vector of channels from `channel` on, of the pixel at `offset`.
template <bool has_affine, bool has_residual>
FUSED_RESNET_AVX512_BF16 inline __m512 finished(__m512 sum, const ForwardEpilogue<BFloat16>& epilogue, int64_t channel,
                                                int64_t offset, __m512 floor) {
  __m512 z = sum;
  if constexpr (has_affine)
    z = _mm512_fmadd_ps(z, _mm512_loadu_ps(epilogue.scale + channel), _mm512_loadu_ps(epilogue.shift + channel));
  if constexpr (has_residual) z = _mm512_add_ps(z, widened(epilogue.residual + offset + channel));
  return _mm512_max_ps(floor, z); // the second operand where either is NaN
}

// The processor rounds as `narrow` does, but for numbers below 1e-38, which it takes for 0 in products, too.
template <int count, bool has_affine, bool has_residual>
FUSED_RESNET_AVX512_BF16 inline void store_tile_as(const Sums<count>& sums, const Finish& finish, int64_t first) {
  const ForwardEpilogue<BFloat16>& epilogue = finish.epilogue;
  const __m512 floor = _mm512_set1_ps(epilogue.floor);
  for (int i = 0; i < count; ++i) {
    const int64_t offset = finish.to.offsets[first + i];
    BFloat16* const out = finish.to.out + offset;
    for (int j = 0; j < vectors; j += 2) {
      const int64_t channel = j * vector;
      const __m512 low = finished<has_affine, has_residual>(sums[i][j], epilogue, channel, offset, floor);
      const __m512 high = finished<has_affine, has_residual>(sums[i][j + 1], epilogue, channel + vector, offset, floor);
      _mm512_storeu_si512(out + channel, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  }
}

template <int count>
FUSED_RESNET_AVX512_BF16 inline void store_tile(const Sums<count>& sums, const Finish& finish, int64_t first) {
  if (finish.epilogue.scale && finish.epilogue.residual) return store_tile_as<count, true, true>(sums, finish, first);
  if (finish.epilogue.scale) return store_tile_as<count, true, false>(sums, finish, first);
  if (finish.epilogue.residual) return store_tile_as<count, false, true>(sums, finish, first);
  store_tile_as<count, false, false>(sums, finish, first);
}

// The tile whose first row is `first` of the product's. next: as in add_products; finish: null where the sums go to c.
template <int count>
FUSED_RESNET_AVX512_BF16 void multiply_tile(const MatrixProduct& product, const BFloat16* const* rows,
                                            const BFloat16* const* next, int64_t first, const Finish* finish) {
  const int64_t ldc = product.ldc;
  float* const c = product.c + first * ldc;
  const bool adds_first = product.add && !product.scale;
  Sums<count> sums;
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < vectors; ++j)
      sums[i][j] = adds_first ? _mm512_loadu_ps(c + i * ldc + j * vector) : _mm512_setzero_ps();
  add_products<count>(product, rows, next, sums);
  if (product.scale)
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < vectors; ++j) {
        const __m512 before = product.add ? _mm512_loadu_ps(c + i * ldc + j * vector) : _mm512_setzero_ps();
        sums[i][j] = _mm512_fmadd_ps(sums[i][j], _mm512_loadu_ps(product.scale + j * vector), before);
      }
  if (finish) return store_tile<count>(sums, *finish, first);
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

void multiply_rows(const MatrixProduct& part, const BFloat16* const* rows, const Finish* finish) {
  for_tiles(part.m, [&](int64_t first, int64_t count) {
    const BFloat16* const* const next = rows + std::min(first + count, part.m - count);
    multiply_tiles[count - 1](part, rows + first, next, first, finish);
  });
}

} // namespace

void multiply_avx512_bf16(const MatrixProduct& product, const BFloat16* a, int64_t lda) {
  check_columns(product);
  for_tiles(product.m, [&](int64_t first, int64_t count) {
    const BFloat16* rows[most_rows];
    for (int64_t i = 0; i < count; ++i) rows[i] = a + (first + i) * lda;
    multiply_tiles[count - 1](product, rows, rows, first, nullptr);
  });
}

void multiply_rows_avx512_bf16(const MatrixProduct& product, const BFloat16* const* rows) {
  check_columns(product);
  for_parts(product, longest_part, [&](const MatrixProduct& part, bool) { multiply_rows(part, rows, nullptr); });
}

void multiply_to_avx512_bf16(const MatrixProduct& product, const BFloat16* const* rows, const Output<BFloat16>& to,
                             const ForwardEpilogue<BFloat16>& epilogue) {
  check_columns(product);
  const Finish finish{to, epilogue};
  for_parts(product, longest_part,
            [&](const MatrixProduct& part, bool last) { multiply_rows(part, rows, last ? &finish : nullptr); });
}

} // namespace fused_resnet
#endif
