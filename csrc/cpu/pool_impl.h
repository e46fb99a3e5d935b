// Loops of the max-pool; see number_impl.h for how this file is included.

// Takes one window position into the maxima so far. As in F.max_pool2d, the first maximum wins, or the last NaN;
// z is compared as bn_act would have stored it.
template <class T>
void pool_position(const T* __restrict y, Affine<T> affine, Acc<T> floor, int64_t channels, int32_t position,
                   Acc<T>* __restrict best, int32_t* __restrict positions) {
  const Acc<T>* __restrict scale = affine.scale;
  const Acc<T>* __restrict shift = affine.shift;
  for (int64_t c = 0; c < channels; ++c) {
    const Acc<T> z = widen(narrow<T>(at_least(floor, multiply_add(widen(y[c]), scale[c], shift[c]))));
    const bool wins = (z > best[c]) | (z != z);
    best[c] = wins ? z : best[c];
    positions[c] = wins ? position : positions[c];
  }
}

template <class T>
void pool_row(const Pool<T>& op, const PoolShape& shape, int64_t row, Acc<T>* scratch, int32_t* positions) {
  const int64_t channels = shape.channels;
  const T* image = op.y + row / shape.out_height * shape.height * shape.width * channels;
  const int64_t top = row % shape.out_height * shape.stride[0] - shape.padding[0];
  for (int64_t q = 0; q < shape.out_width; ++q) {
    const int64_t left = q * shape.stride[1] - shape.padding[1];
    const int64_t first_i = larger(0, -top), last_i = smaller(shape.kernel[0], shape.height - top);
    const int64_t first_j = larger(0, -left), last_j = smaller(shape.kernel[1], shape.width - left);
    // -inf loses against any number, but where nothing beats it the first position inside the map holds it
    const auto first = static_cast<int32_t>(first_i * shape.kernel[1] + first_j);
    for (int64_t c = 0; c < channels; ++c) scratch[c] = -__builtin_inff(), positions[c] = first;
    for (int64_t i = first_i; i < last_i; ++i)
      for (int64_t j = first_j; j < last_j; ++j)
        pool_position(image + ((top + i) * shape.width + left + j) * channels, op.affine, op.floor, channels,
                      static_cast<int32_t>(i * shape.kernel[1] + j), scratch, positions);
    const int64_t at = (row * shape.out_width + q) * channels;
    T* __restrict out = op.out + at;
    uint8_t* __restrict argmax = op.argmax + at;
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = narrow<T>(scratch[c]);
      argmax[c] = static_cast<uint8_t>(positions[c]);
    }
  }
}

// Adds dout where the window at this output took its maximum from `position`.
template <class T>
void add_where(const T* __restrict dout, const uint8_t* __restrict argmax, uint8_t position, int64_t channels,
               Acc<T>* __restrict dz) {
  for (int64_t c = 0; c < channels; ++c) {
    const Acc<T> value = widen(dout[c]); // read whether needed or not: a conditional read would not vectorise
    dz[c] += argmax[c] == position ? value : Acc<T>(0);
  }
}

// The outputs whose window covers a position of the padded map: o*stride <= at < o*stride + kernel.
struct Covering {
  int64_t first, last;
};
inline Covering covering(int64_t at, int64_t kernel, int64_t stride, int64_t outputs) {
  return {larger(0, at - kernel + stride) / stride, smaller(outputs - 1, at / stride)};
}

// Walks over the input pixels; a division per pixel and dimension would cost as much as the arithmetic.
class PixelWalk {
 public:
  PixelWalk(const PoolShape& shape, int64_t pixel)
      : shape_(shape),
        column_(pixel % shape.width),
        row_(pixel / shape.width % shape.height),
        image_(pixel / (shape.width * shape.height)),
        rows_(covering_rows()) {}

  void advance() {
    if (++column_ < shape_.width) return;
    column_ = 0;
    if (++row_ == shape_.height) row_ = 0, ++image_;
    rows_ = covering_rows();
  }

  // Calls f(element offset of the output pixel, position in its window) for every window over this pixel.
  template <class F>
  void for_each_window(const F& f) const {
    const int64_t w = column_ + shape_.padding[1], h = row_ + shape_.padding[0];
    const Covering columns = covering(w, shape_.kernel[1], shape_.stride[1], shape_.out_width);
    for (int64_t p = rows_.first; p <= rows_.last; ++p)
      for (int64_t q = columns.first; q <= columns.last; ++q)
        f(((image_ * shape_.out_height + p) * shape_.out_width + q) * shape_.channels,
          static_cast<uint8_t>((h - p * shape_.stride[0]) * shape_.kernel[1] + w - q * shape_.stride[1]));
  }

 private:
  Covering covering_rows() const {
    return covering(row_ + shape_.padding[0], shape_.kernel[0], shape_.stride[0], shape_.out_height);
  }

  const PoolShape& shape_;
  int64_t column_, row_, image_;
  Covering rows_;
};

template <class T>
void pool_backward(const PoolBackward<T>& op, const PoolShape& shape, int64_t begin, int64_t end, double* sums,
                   Acc<T>* scratch, T* tile) {
  const int64_t channels = shape.channels;
  Acc<T>* dz = scratch + 3 * channels;
  PixelWalk walk(shape, begin);
  for (int64_t l = 0; l < 2 * channels; ++l) sums[l] = 0;
  for (int64_t at = begin; at < end; at += pool_tile) {
    const int64_t stop = smaller(at + pool_tile, end);
    for (int64_t pixel = at; pixel < stop; ++pixel, walk.advance()) {
      for (int64_t c = 0; c < channels; ++c) dz[c] = 0;
      walk.for_each_window([&](int64_t offset, uint8_t position) {
        add_where(op.dout + offset, op.argmax + offset, position, channels, dz);
      });
      T* __restrict tile_row = tile + (pixel - at) * channels;
      for (int64_t c = 0; c < channels; ++c) tile_row[c] = narrow<T>(dz[c]);
    }
    BackwardReduce<T> reduce = op.reduce;
    const int64_t offset = at * channels;
    reduce.dout = tile;
    reduce.g += offset;
    reduce.mask_source += offset;
    reduce.projections[0].y += offset;
    backward_reduce_tile(reduce, 0, (stop - at) * channels, channels, sums, scratch);
  }
}
