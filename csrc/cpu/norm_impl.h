// Loops of batch norm; see number_impl.h for how this file is included.

template <class T>
void affine_act(const T* y, Affine<T> affine, Acc<T> floor, T* out, int64_t size, int64_t width) {
  for (int64_t begin = 0; begin < size; begin += width) {
    const int64_t lanes = smaller(width, size - begin);
    const T* __restrict y_row = y + begin;
    const Acc<T>* __restrict scale = affine.scale;
    const Acc<T>* __restrict shift = affine.shift;
    T* __restrict out_row = out + begin;
    for (int64_t l = 0; l < lanes; ++l)
      out_row[l] = narrow<T>(at_least(floor, multiply_add(widen(y_row[l]), scale[l], shift[l])));
  }
}

template <class T, bool residual_has_affine>
void add_act_rows(const T* y, Affine<T> affine, const T* r, Affine<T> r_affine, Acc<T> floor, T* out, int64_t size,
                  int64_t width) {
  for (int64_t begin = 0; begin < size; begin += width) {
    const int64_t lanes = smaller(width, size - begin);
    const T* __restrict y_row = y + begin;
    const T* __restrict r_row = r + begin;
    const Acc<T>* __restrict scale = affine.scale;
    const Acc<T>* __restrict shift = affine.shift;
    const Acc<T>* __restrict r_scale = r_affine.scale;
    const Acc<T>* __restrict r_shift = r_affine.shift;
    T* __restrict out_row = out + begin;
    for (int64_t l = 0; l < lanes; ++l) {
      Acc<T> residual = widen(r_row[l]);
      if constexpr (residual_has_affine) residual = multiply_add(residual, r_scale[l], r_shift[l]);
      const Acc<T> z = multiply_add(widen(y_row[l]), scale[l], shift[l]) + residual;
      out_row[l] = narrow<T>(at_least(floor, z));
    }
  }
}

template <class T>
void add_act(const T* y, Affine<T> affine, const T* r, Affine<T> r_affine, Acc<T> floor, T* out, int64_t size,
             int64_t width) {
  if (r_affine.scale)
    add_act_rows<T, true>(y, affine, r, r_affine, floor, out, size, width);
  else
    add_act_rows<T, false>(y, affine, r, r_affine, floor, out, size, width);
}

template <class T>
void backward_apply(const T* g, const Acc<T>* a, const T* y, const Acc<T>* b, const Acc<T>* c, T* dy, int64_t size,
                    int64_t width) {
  for (int64_t begin = 0; begin < size; begin += width) {
    const int64_t lanes = smaller(width, size - begin);
    const T* __restrict g_row = g + begin;
    const Acc<T>* __restrict a_ = a;
    T* __restrict dy_row = dy + begin;
    if (y) {
      const T* __restrict y_row = y + begin;
      const Acc<T>* __restrict b_ = b;
      const Acc<T>* __restrict c_ = c;
      for (int64_t l = 0; l < lanes; ++l)
        dy_row[l] = narrow<T>(multiply_add(a_[l], widen(g_row[l]), multiply_add(b_[l], widen(y_row[l]), c_[l])));
    } else {
      for (int64_t l = 0; l < lanes; ++l) dy_row[l] = narrow<T>(a_[l] * widen(g_row[l]));
    }
  }
}

// Short rows read four side by side are streams that end before the processor has noticed them.
template <class T>
void prefetch(const T* y, int64_t size) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < size; i += line) __builtin_prefetch(y + i);
}

// Σ(y - origin) and Σ(y - origin)² of a few whole rows, four at a time to spare loads and stores of the sums.
template <class T>
void shifted_sums(const T* y, int64_t rows, int64_t lanes, int64_t width, const Acc<T>* __restrict origin,
                  Acc<T>* __restrict sum, Acc<T>* __restrict square) {
  constexpr int64_t prefetch_bytes = 8192; // longer rows are streams that the processor foresees
  for (int64_t l = 0; l < lanes; ++l) sum[l] = square[l] = 0;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const T* __restrict row0 = y + row * width;
    const T* __restrict row1 = row0 + width;
    const T* __restrict row2 = row1 + width;
    const T* __restrict row3 = row2 + width;
    if (4 * width * static_cast<int64_t>(sizeof(T)) < prefetch_bytes) prefetch(row3 + width, 4 * width);
    for (int64_t l = 0; l < lanes; ++l) {
      const Acc<T> d0 = widen(row0[l]) - origin[l], d1 = widen(row1[l]) - origin[l];
      const Acc<T> d2 = widen(row2[l]) - origin[l], d3 = widen(row3[l]) - origin[l];
      sum[l] += (d0 + d1) + (d2 + d3);
      square[l] += multiply_add(d0, d0, d1 * d1) + multiply_add(d2, d2, d3 * d3);
    }
  }
  for (; row < rows; ++row) {
    const T* __restrict y_row = y + row * width;
    for (int64_t l = 0; l < lanes; ++l) {
      const Acc<T> d = widen(y_row[l]) - origin[l];
      sum[l] += d;
      square[l] = multiply_add(d, d, square[l]);
    }
  }
}

// Merges the sums of a tile into the moments of the rows before it, and moves the origin to the new mean.
template <class A>
void absorb_tile(double* __restrict mean, double* __restrict m2, A* __restrict origin, const A* __restrict sum,
                 const A* __restrict square, int64_t count, int64_t rows, int64_t lanes) {
  const double inverse = 1.0 / static_cast<double>(rows);
  const double weight = static_cast<double>(rows) / static_cast<double>(count + rows);
  const double cross = static_cast<double>(count) * weight;
  for (int64_t l = 0; l < lanes; ++l) {
    const double s = static_cast<double>(sum[l]);
    const double delta = static_cast<double>(origin[l]) + s * inverse - mean[l];
    const double tile_m2 = static_cast<double>(square[l]) - s * s * inverse;
    mean[l] += delta * weight;
    m2[l] += at_least(0.0, tile_m2) + delta * delta * cross;
    origin[l] = static_cast<A>(mean[l]);
  }
}

// Every tile is summed about the mean of the rows before it (the first about its first row). The sums of a tile far
// from that origin cancel, but by the distance it adds to the total variance its error is then negligible.
template <class T>
void moments(const T* y, int64_t size, int64_t width, double* mean, double* m2, Acc<T>* scratch) {
  Acc<T>*origin = scratch, *sum = scratch + width, *square = scratch + 2 * width;
  for (int64_t l = 0; l < width; ++l) mean[l] = m2[l] = 0;
  for (int64_t l = 0; l < smaller(width, size); ++l) origin[l] = widen(y[l]);
  const int64_t whole_rows = size / width, tail = size % width;
  for (int64_t row = 0; row < whole_rows; row += tile_rows) {
    const int64_t rows = smaller(tile_rows, whole_rows - row);
    shifted_sums(y + row * width, rows, width, width, origin, sum, square);
    absorb_tile(mean, m2, origin, sum, square, row, rows, width);
  }
  if (tail) {
    shifted_sums(y + whole_rows * width, 1, tail, width, origin, sum, square);
    absorb_tile(mean, m2, origin, sum, square, whole_rows, 1, tail);
  }
}

inline void merge_moments(double* mean_a, double* m2_a, double count_a, const double* mean_b, const double* m2_b,
                          double count_b, int64_t width) {
  double* __restrict mean = mean_a;
  double* __restrict m2 = m2_a;
  const double weight = count_b / (count_a + count_b), cross = count_a * weight;
  for (int64_t l = 0; l < width; ++l) {
    const double delta = mean_b[l] - mean[l];
    mean[l] += delta * weight;
    m2[l] += m2_b[l] + delta * delta * cross;
  }
}

// g of one row, and its sum.
template <class T, Mask mask>
void mask_row(const T* __restrict dout, const T* __restrict source, Affine<T> affine, int64_t lanes,
              T* __restrict g, Acc<T>* __restrict sum) {
  const Acc<T>* __restrict scale = affine.scale;
  const Acc<T>* __restrict shift = affine.shift;
  for (int64_t l = 0; l < lanes; ++l) {
    T passed = dout[l];
    if constexpr (mask != Mask::none) {
      Acc<T> z = widen(source[l]);
      if constexpr (mask == Mask::affine) z = multiply_add(z, scale[l], shift[l]);
      passed = z <= 0 ? T{} : passed;
    }
    g[l] = passed;
    sum[l] += widen(passed);
  }
}

template <class T>
void project_row(const T* __restrict g, const T* __restrict y, const Acc<T>* __restrict mean, int64_t lanes,
                 Acc<T>* __restrict sum) {
  for (int64_t l = 0; l < lanes; ++l) sum[l] = multiply_add(widen(g[l]), widen(y[l]) - mean[l], sum[l]);
}

template <class T, Mask mask>
void mask_rows(const BackwardReduce<T>& op, int64_t begin, int64_t end, int64_t width, Acc<T>* sum) {
  for (int64_t at = begin; at < end; at += width)
    mask_row<T, mask>(op.dout + at, op.mask_source + at, op.affine, smaller(width, end - at), op.g + at, sum);
}

// One tile: a pass for g and its sum, then one per projection while g is still in the cache.
template <class T>
void backward_reduce_tile(const BackwardReduce<T>& op, int64_t begin, int64_t end, int64_t width, double* sums,
                          Acc<T>* scratch) {
  for (int64_t l = 0; l < (1 + op.projection_count) * width; ++l) scratch[l] = 0;
  switch (op.mask) {
    case Mask::none: mask_rows<T, Mask::none>(op, begin, end, width, scratch); break;
    case Mask::output: mask_rows<T, Mask::output>(op, begin, end, width, scratch); break;
    case Mask::affine: mask_rows<T, Mask::affine>(op, begin, end, width, scratch); break;
  }
  for (int p = 0; p < op.projection_count; ++p) {
    const Projection<T>& projection = op.projections[p];
    for (int64_t at = begin; at < end; at += width)
      project_row(op.g + at, projection.y + at, projection.mean, smaller(width, end - at), scratch + (1 + p) * width);
  }
  for (int64_t l = 0; l < (1 + op.projection_count) * width; ++l) sums[l] += static_cast<double>(scratch[l]);
}

template <class T>
void backward_reduce(const BackwardReduce<T>& op, int64_t begin, int64_t end, int64_t width, double* sums,
                     Acc<T>* scratch) {
  constexpr int64_t tile_bytes = 65536; // per stream: a few of them fit the second-level cache
  const int64_t row_bytes = width * static_cast<int64_t>(sizeof(T));
  const int64_t step = width * larger(4, smaller(tile_rows, tile_bytes / row_bytes));
  for (int64_t l = 0; l < (1 + op.projection_count) * width; ++l) sums[l] = 0;
  for (int64_t at = begin; at < end; at += step)
    backward_reduce_tile(op, at, smaller(at + step, end), width, sums, scratch);
}
