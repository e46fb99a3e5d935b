// The transforms of Winograd's minimal filtering (Lavin & Gray 2016, section 4.1), F(2x2, 3x3) and F(3x3, 2x2), which
// have the same positions; see number_impl.h for how this file is included.

// M d Mᵀ, where one(d, t) is t = M d of a column: load(i, j) gives d's values, store(i, j, value) takes the results.
template <int in, int out, class Load, class Store>
inline __attribute__((always_inline)) void transform(void (*one)(const Vec (&)[in], Vec (&)[out]), const Load& load_at,
                                                     const Store& store_at) {
  Vec half[in][out]; // [column][row]
#pragma GCC unroll 4
  for (int j = 0; j < in; ++j) {
    Vec d[in];
#pragma GCC unroll 4
    for (int i = 0; i < in; ++i) d[i] = load_at(i, j);
    one(d, half[j]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < out; ++i) {
    Vec d[in], t[out];
#pragma GCC unroll 4
    for (int j = 0; j < in; ++j) d[j] = half[j][i];
    one(d, t);
#pragma GCC unroll 4
    for (int j = 0; j < out; ++j) store_at(i, j, t[j]);
  }
}

// Bᵀ d, of both.
inline void winograd_read(const Vec (&d)[4], Vec (&t)[4]) {
  t[0] = d[0] - d[2];
  t[1] = d[1] + d[2];
  t[2] = d[2] - d[1];
  t[3] = d[1] - d[3];
}

// Aᵀ m of F(2x2, 3x3).
inline void winograd_sums(const Vec (&m)[4], Vec (&y)[2]) {
  y[0] = m[0] + m[1] + m[2];
  y[1] = m[1] - m[2] - m[3];
}

// G g of F(3x3, 2x2) without its halves, and Aᵀ m with them.
inline void winograd_spread(const Vec (&g)[2], Vec (&t)[4]) {
  t[0] = g[0];
  t[1] = g[0] + g[1];
  t[2] = g[0] - g[1];
  t[3] = g[1];
}
inline void winograd_taps(const Vec (&m)[4], Vec (&w)[3]) {
  const Vec even = 0.5f * (m[1] + m[2]);
  w[0] = m[0] + even;
  w[1] = 0.5f * (m[1] - m[2]);
  w[2] = even - m[3];
}

inline void winograd_input(const float* const* tiles, int64_t count, int64_t line, int64_t step, int64_t channels,
                           float* out, int64_t row, int64_t plane) {
  for (int64_t tile = 0; tile < count; ++tile)
    for (int64_t c = 0; c < channels; c += vec_width) {
      const float* from = tiles[tile] + c;
      float* to = out + tile * row + c;
      transform(winograd_read, [=](int i, int j) { return load(from + i * line + j * step); },
                [=](int i, int j, Vec v) { store(to + (4 * i + j) * plane, v); });
    }
}

inline void winograd_output(const float* products, int64_t plane, const int32_t* pixels, int64_t tiles,
                            int64_t columns, float* sums) {
  for (int64_t tile = 0; tile < tiles; ++tile, pixels += 4)
    for (int64_t c = 0; c < columns; c += vec_width) {
      const float* from = products + tile * panel_width + c;
      transform(winograd_sums, [=](int i, int j) { return load(from + (4 * i + j) * plane); },
                [=](int i, int j, Vec v) {
                  if (pixels[2 * i + j] >= 0) store(sums + pixels[2 * i + j] * panel_width + c, v);
                });
    }
}

inline void winograd_gradient(const float* const* pixels, int64_t count, int64_t channels, float* out, int64_t row,
                              int64_t plane) {
  for (int64_t tile = 0; tile < count; ++tile, pixels += 4)
    for (int64_t c = 0; c < channels; c += vec_width) {
      float* to = out + tile * row + c;
      transform(winograd_spread, [=](int i, int j) { return load(pixels[2 * i + j] + c); },
                [=](int i, int j, Vec v) { store(to + (4 * i + j) * plane, v); });
    }
}

inline void winograd_filter(const float* sums, int64_t plane, int64_t channels, float* out, int64_t step) {
  for (int64_t c = 0; c < channels; c += vec_width)
    transform(winograd_taps, [=](int i, int j) { return load(sums + (4 * i + j) * plane + c); },
              [=](int r, int s, Vec v) { store(out + (3 * r + s) * step + c, v); });
}
