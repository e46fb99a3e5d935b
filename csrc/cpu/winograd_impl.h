// The transforms of Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray 2016, section 4.1); see number_impl.h for how
// this file is included.

// Bᵀ d of four values.
inline void winograd_read(const Vec (&d)[4], Vec (&t)[4]) {
  t[0] = d[0] - d[2];
  t[1] = d[1] + d[2];
  t[2] = d[2] - d[1];
  t[3] = d[1] - d[3];
}

inline void winograd_input(const float* const* tiles, int64_t count, int64_t line, int64_t step, int64_t channels,
                           float* out, int64_t row, int64_t plane) {
  for (int64_t tile = 0; tile < count; ++tile)
    for (int64_t c = 0; c < channels; c += vec_width) {
      Vec half[4][4]; // [column][position]: Bᵀ d
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        Vec d[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) d[i] = load(tiles[tile] + i * line + j * step + c);
        winograd_read(d, half[j]);
      }
      float* to = out + tile * row + c;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Vec d[4] = {half[0][i], half[1][i], half[2][i], half[3][i]};
        Vec t[4];
        winograd_read(d, t);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) store(to + (4 * i + j) * plane, t[j]);
      }
    }
}

inline void winograd_output(const float* products, int64_t plane, const int32_t* pixels, int64_t tiles, float* sums) {
  for (int64_t tile = 0; tile < tiles; ++tile, pixels += 4)
    for (int64_t c = 0; c < panel_width; c += vec_width) {
      const float* from = products + tile * panel_width + c;
      Vec half[2][4]; // Aᵀ m
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        Vec m[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) m[i] = load(from + (4 * i + j) * plane);
        half[0][j] = m[0] + m[1] + m[2];
        half[1][j] = m[1] - m[2] - m[3];
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Vec first = half[i][0] + half[i][1] + half[i][2], second = half[i][1] - half[i][2] - half[i][3];
        if (pixels[2 * i] >= 0) store(sums + pixels[2 * i] * panel_width + c, first);
        if (pixels[2 * i + 1] >= 0) store(sums + pixels[2 * i + 1] * panel_width + c, second);
      }
    }
}
