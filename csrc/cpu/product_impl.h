// Register tiles of matrix products; see number_impl.h for how this file is included. The accumulators of a tile stay
// in registers: 6 rows by panel_vectors fill 12 of AVX2's 16 and 24 of AVX-512's 32.

// `vectors` of the panel's: those behind them hold no column that exists.
template <int rows, int vectors>
void multiply_tile(const float* const* pixels, const Segment* segments, int64_t segment_count, const float* weights,
                   float* out, bool accumulate) {
  Vec sums[rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      sums[i][v] = accumulate ? load(out + i * panel_width + v * vec_width) : Vec{};
  for (const Segment* segment = segments; segment != segments + segment_count; ++segment) {
    const float* row[rows];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) row[i] = pixels[i] + segment->offset;
    for (int64_t k = 0; k < segment->depth; ++k, weights += panel_width) {
      Vec weight[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) weight[v] = load(weights + v * vec_width);
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) {
        const Vec x = broadcast(row[i] + k);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[i][v] = multiply_add(x, weight[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(out + i * panel_width + v * vec_width, sums[i][v]);
}

// What is left of `count` pixels behind the whole tiles, fewer than a tile's rows.
template <int rows, int vectors>
void multiply_rest(const float* const* pixels, int64_t count, const Segment* segments, int64_t segment_count,
                   const float* weights, float* out, bool accumulate) {
  if constexpr (rows > 0) {
    if (count == rows)
      return multiply_tile<rows, vectors>(pixels, segments, segment_count, weights, out, accumulate);
    multiply_rest<rows - 1, vectors>(pixels, count, segments, segment_count, weights, out, accumulate);
  }
}

template <int vectors>
void multiply_vectors(const float* const* pixels, int64_t count, const Segment* segments, int64_t segment_count,
                      const float* weights, float* out, bool accumulate) {
  // Few vectors leave registers free, and want more independent sums to hide the latency of a multiplication.
  constexpr int rows = 2 * vectors <= panel_vectors ? 8 : 6;
  static_assert(panel_vectors % 2 == 0 && tile_pixels == 6);
  for (; count >= rows; count -= rows, pixels += rows, out += rows * panel_width)
    multiply_tile<rows, vectors>(pixels, segments, segment_count, weights, out, accumulate);
  multiply_rest<rows - 1, vectors>(pixels, count, segments, segment_count, weights, out, accumulate);
}

template <int vectors = panel_vectors>
void multiply(const float* const* pixels, int64_t count, const Segment* segments, int64_t segment_count,
              const float* weights, int64_t columns, float* out, bool accumulate) {
  if constexpr (vectors > 1) {
    if (columns <= (vectors - 1) * vec_width)
      return multiply<vectors - 1>(pixels, count, segments, segment_count, weights, columns, out, accumulate);
  }
  multiply_vectors<vectors>(pixels, count, segments, segment_count, weights, out, accumulate);
}

template <int filters, int vectors>
void correlate_tile(const Correlation& op, float* out, int64_t step, bool accumulate) {
  Vec sums[filters][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < filters; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[i][v] = Vec{};
  for (int64_t line = 0; line < op.lines; ++line) {
    const float *g = op.g + line * op.g_line, *z = op.z + line * op.z_line;
    for (int64_t pixel = 0; pixel < op.pixels; ++pixel, g += op.g_step, z += op.z_step) {
      Vec column[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) column[v] = load(z + v * vec_width);
#pragma GCC unroll 8
      for (int i = 0; i < filters; ++i) {
        const Vec x = broadcast(g + i);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[i][v] = multiply_add(x, column[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < filters; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* to = out + i * step + v * vec_width;
      store(to, accumulate ? load(to) + sums[i][v] : sums[i][v]); // a strip's sum by itself first: one long sum would lose what is small
    }
}

template <int vectors>
void correlate_vectors(const Correlation& op, int64_t filters, float* out, int64_t step, bool accumulate) {
  static_assert(tile_filters == 6);
  switch (filters) {
    case 6: return correlate_tile<6, vectors>(op, out, step, accumulate);
    case 5: return correlate_tile<5, vectors>(op, out, step, accumulate);
    case 4: return correlate_tile<4, vectors>(op, out, step, accumulate);
    case 3: return correlate_tile<3, vectors>(op, out, step, accumulate);
    case 2: return correlate_tile<2, vectors>(op, out, step, accumulate);
    default: return correlate_tile<1, vectors>(op, out, step, accumulate);
  }
}

template <int vectors = panel_vectors>
void correlate(const Correlation& op, int64_t filters, int64_t columns, float* out, int64_t step, bool accumulate) {
  if constexpr (vectors > 1) {
    if (columns <= (vectors - 1) * vec_width)
      return correlate<vectors - 1>(op, filters, columns, out, step, accumulate);
  }
  correlate_vectors<vectors>(op, filters, out, step, accumulate);
}

inline void column_sums(const float* strip, int64_t pixels, int64_t step, int64_t channels, double* sums) {
  constexpr int64_t columns_at_once = 64;
  for (int64_t first = 0; first < channels; first += columns_at_once) {
    const int64_t lanes = smaller(columns_at_once, channels - first);
    float sum[columns_at_once] = {};
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const float* __restrict row = strip + pixel * step + first;
      for (int64_t l = 0; l < lanes; ++l) sum[l] += row[l];
    }
    for (int64_t l = 0; l < lanes; ++l) sums[first + l] += static_cast<double>(sum[l]);
  }
}
