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

// The transforms of F(3x3, 2x2), which has the same positions: G g Gᵀ without its halves, and Aᵀ m A with them.
inline void winograd_gradient(const float* const* pixels, int64_t count, int64_t channels, float* out, int64_t row,
                              int64_t plane) {
  for (int64_t tile = 0; tile < count; ++tile, pixels += 4)
    for (int64_t c = 0; c < channels; c += vec_width) {
      const Vec d[2][2] = {{load(pixels[0] + c), load(pixels[1] + c)}, {load(pixels[2] + c), load(pixels[3] + c)}};
      const Vec half[4][2] = {{d[0][0], d[0][1]},
                              {d[0][0] + d[1][0], d[0][1] + d[1][1]},
                              {d[0][0] - d[1][0], d[0][1] - d[1][1]},
                              {d[1][0], d[1][1]}};
      float* to = out + tile * row + c;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        store(to + (4 * i + 0) * plane, half[i][0]);
        store(to + (4 * i + 1) * plane, half[i][0] + half[i][1]);
        store(to + (4 * i + 2) * plane, half[i][0] - half[i][1]);
        store(to + (4 * i + 3) * plane, half[i][1]);
      }
    }
}

// Aᵀ m of four values.
inline void winograd_taps(const Vec (&m)[4], Vec (&w)[3]) {
  const Vec even = 0.5f * (m[1] + m[2]);
  w[0] = m[0] + even;
  w[1] = 0.5f * (m[1] - m[2]);
  w[2] = even - m[3];
}

inline void winograd_filter(const float* sums, int64_t plane, int64_t channels, float* out, int64_t step) {
  for (int64_t c = 0; c < channels; c += vec_width) {
    Vec half[4][3]; // [column][tap row]
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Vec m[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) m[i] = load(sums + (4 * i + j) * plane + c);
      winograd_taps(m, half[j]);
    }
#pragma GCC unroll 3
    for (int r = 0; r < 3; ++r) {
      const Vec m[4] = {half[0][r], half[1][r], half[2][r], half[3][r]};
      Vec w[3];
      winograd_taps(m, w);
#pragma GCC unroll 3
      for (int s = 0; s < 3; ++s) store(out + (3 * r + s) * step + c, w[s]);
    }
  }
}
