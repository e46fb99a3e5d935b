// Register tiles of matrix products; see number_impl.h for how this file is included. The accumulators of a tile stay
// in registers: 6 rows by panel_vectors fill 12 of AVX2's 16 and 24 of AVX-512's 32.

template <int rows>
void multiply_tile(const float* const* pixels, const Segment* segments, int64_t segment_count, const float* weights,
                   float* out, bool accumulate) {
  Vec sums[rows][panel_vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < panel_vectors; ++v)
      sums[i][v] = accumulate ? load(out + i * panel_width + v * vec_width) : Vec{};
  for (const Segment* segment = segments; segment != segments + segment_count; ++segment) {
    const float* row[rows];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) row[i] = pixels[i] + segment->offset;
    for (int64_t k = 0; k < segment->depth; ++k, weights += panel_width) {
      Vec weight[panel_vectors];
#pragma GCC unroll 4
      for (int v = 0; v < panel_vectors; ++v) weight[v] = load(weights + v * vec_width);
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) {
        const Vec x = broadcast(row[i] + k);
#pragma GCC unroll 4
        for (int v = 0; v < panel_vectors; ++v) sums[i][v] = multiply_add(x, weight[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < panel_vectors; ++v) store(out + i * panel_width + v * vec_width, sums[i][v]);
}

inline void multiply(const float* const* pixels, int64_t count, const Segment* segments, int64_t segment_count,
                     const float* weights, float* out, bool accumulate) {
  static_assert(tile_pixels == 6);
  for (; count >= 6; count -= 6, pixels += 6, out += 6 * panel_width)
    multiply_tile<6>(pixels, segments, segment_count, weights, out, accumulate);
  switch (count) {
    case 5: return multiply_tile<5>(pixels, segments, segment_count, weights, out, accumulate);
    case 4: return multiply_tile<4>(pixels, segments, segment_count, weights, out, accumulate);
    case 3: return multiply_tile<3>(pixels, segments, segment_count, weights, out, accumulate);
    case 2: return multiply_tile<2>(pixels, segments, segment_count, weights, out, accumulate);
    case 1: return multiply_tile<1>(pixels, segments, segment_count, weights, out, accumulate);
    default: return;
  }
}

template <int filters>
void correlate_tile(const Correlation& op, float* out, int64_t step, bool accumulate) {
  Vec sums[filters][panel_vectors];
#pragma GCC unroll 8
  for (int i = 0; i < filters; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < panel_vectors; ++v) sums[i][v] = Vec{};
  for (int64_t line = 0; line < op.lines; ++line) {
    const float *g = op.g + line * op.g_line, *z = op.z + line * op.z_line;
    for (int64_t pixel = 0; pixel < op.pixels; ++pixel, g += op.g_step, z += op.z_step) {
      Vec column[panel_vectors];
#pragma GCC unroll 4
      for (int v = 0; v < panel_vectors; ++v) column[v] = load(z + v * vec_width);
#pragma GCC unroll 8
      for (int i = 0; i < filters; ++i) {
        const Vec x = broadcast(g + i);
#pragma GCC unroll 4
        for (int v = 0; v < panel_vectors; ++v) sums[i][v] = multiply_add(x, column[v], sums[i][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < filters; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < panel_vectors; ++v) {
      float* to = out + i * step + v * vec_width;
      store(to, accumulate ? load(to) + sums[i][v] : sums[i][v]); // a strip's sum by itself first: one long sum would lose what is small
    }
}

inline void correlate(const Correlation& op, int64_t filters, float* out, int64_t step, bool accumulate) {
  static_assert(tile_filters == 6);
  switch (filters) {
    case 6: return correlate_tile<6>(op, out, step, accumulate);
    case 5: return correlate_tile<5>(op, out, step, accumulate);
    case 4: return correlate_tile<4>(op, out, step, accumulate);
    case 3: return correlate_tile<3>(op, out, step, accumulate);
    case 2: return correlate_tile<2>(op, out, step, accumulate);
    default: return correlate_tile<1>(op, out, step, accumulate);
  }
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
