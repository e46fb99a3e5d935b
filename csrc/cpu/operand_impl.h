// Reads operands of products and stores their results; see number_impl.h for how this file is included.

template <class T, class E>
void read_plain(const T* __restrict x, int64_t count, E* __restrict out) {
  for (int64_t c = 0; c < count; ++c) out[c] = narrow<E>(widen(x[c]));
}

template <class T, class E>
void read_activated(const T* __restrict x, const float* __restrict scale, const float* __restrict shift, float floor,
                    int64_t count, E* __restrict out) {
  for (int64_t c = 0; c < count; ++c)
    out[c] = narrow<E>(at_least(floor, multiply_add(widen(x[c]), scale[c], shift[c])));
}

template <class T, class E>
void read_backward(const T* __restrict g, const T* __restrict y, const float* __restrict a, const float* __restrict b,
                   const float* __restrict c, int64_t count, E* __restrict out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = narrow<E>(multiply_add(a[i], widen(g[i]), multiply_add(b[i], widen(y[i]), c[i])));
}

template <class T, class E>
void read_scaled(const T* __restrict g, const float* __restrict a, int64_t count, E* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = narrow<E>(a[i] * widen(g[i]));
}

template <class T, class E>
void read(const Operand<T>& operand, const Pixels& pixels, E* out, int64_t step) {
  const int64_t channel = pixels.channel, channels = pixels.channels;
  if (operand.plain() && pixels.step == channels && step == channels)
    return read_plain(operand.x + pixels.first, pixels.count * channels, out); // one run, be the channels ever so few
  for (int64_t i = 0; i < pixels.count; ++i) {
    const int64_t at = pixels.first + i * pixels.step + channel;
    E* to = out + i * step;
    if (operand.affine.scale)
      read_activated(operand.x + at, operand.affine.scale + channel, operand.affine.shift + channel, operand.floor,
                     channels, to);
    else if (operand.y)
      read_backward(operand.x + at, operand.y + at, operand.a + channel, operand.b + channel, operand.c + channel,
                    channels, to);
    else if (operand.a)
      read_scaled(operand.x + at, operand.a + channel, channels, to);
    else
      read_plain(operand.x + at, channels, to);
    if (operand.origin) {
      const float* __restrict origin = operand.origin + channel;
      for (int64_t c = 0; c < channels; ++c) to[c] = narrow<E>(widen(to[c]) - origin[c]);
    }
  }
}

template <int vectors>
struct WholeVectors {
  constexpr operator int64_t() const { return vectors * vec_width; }
};

// f(columns): for whole vectors with a number that the compiler knows, so that its loops become vectors.
template <int vectors = panel_vectors, class F>
void for_columns(int64_t columns, const F& f) {
  if (columns == vectors * vec_width) return f(WholeVectors<vectors>{});
  if constexpr (vectors > 1) for_columns<vectors - 1>(columns, f);
  else f(columns);
}

template <class T, bool has_affine, bool has_residual>
void store_forward_as(const float* sums, const Output<T>& to, const ForwardEpilogue<T>& epilogue) {
  for_columns(to.columns, [&](auto columns) {
    const float* __restrict scale = epilogue.scale;
    const float* __restrict shift = epilogue.shift;
    const float floor = epilogue.floor;
    for (int64_t i = 0; i < to.count; ++i) {
      const float* __restrict sum = sums + i * panel_width;
      T* __restrict out = to.out + to.offsets[i];
      const T* __restrict residual = has_residual ? epilogue.residual + to.offsets[i] : nullptr;
      for (int64_t c = 0; c < columns; ++c) {
        float z = sum[c];
        if constexpr (has_affine) z = multiply_add(z, scale[c], shift[c]);
        if constexpr (has_residual) z += widen(residual[c]);
        out[c] = narrow<T>(at_least(floor, z));
      }
    }
  });
}

template <class T>
void store_forward(float* sums, const Output<T>& to, const ForwardEpilogue<T>& epilogue) {
  if (epilogue.scale && epilogue.residual) return store_forward_as<T, true, true>(sums, to, epilogue);
  if (epilogue.scale) return store_forward_as<T, true, false>(sums, to, epilogue);
  if (epilogue.residual) return store_forward_as<T, false, true>(sums, to, epilogue);
  store_forward_as<T, false, false>(sums, to, epilogue);
}

// Two passes over what was stored, which is still in the cache: the mean, then deviations from it, corrected for the
// mean's own rounding (Chan, Golub & LeVeque 1983, eq. 1.7).
template <class T>
void store_moments(float* sums, const Output<T>& to, double* mean, double* m2) {
  float total[panel_width] = {}, first[panel_width] = {}, second[panel_width] = {};
  for_columns(to.columns, [&](auto columns) {
    for (int64_t i = 0; i < to.count; ++i) {
      float* __restrict sum = sums + i * panel_width;
      T* __restrict out = to.out + to.offsets[i];
      for (int64_t c = 0; c < columns; ++c) {
        const T stored = narrow<T>(sum[c]);
        out[c] = stored;
        sum[c] = widen(stored);
        total[c] += sum[c];
      }
    }
    const float inverse = 1.0f / static_cast<float>(to.count);
    for (int64_t c = 0; c < columns; ++c) total[c] *= inverse;
    for (int64_t i = 0; i < to.count; ++i) {
      const float* __restrict sum = sums + i * panel_width;
      for (int64_t c = 0; c < columns; ++c) {
        const float d = sum[c] - total[c];
        first[c] += d;
        second[c] = multiply_add(d, d, second[c]);
      }
    }
    const double count = static_cast<double>(to.count);
    for (int64_t c = 0; c < columns; ++c) {
      const double rest = static_cast<double>(first[c]);
      mean[c] = static_cast<double>(total[c]) + rest / count;
      m2[c] = at_least(0.0, static_cast<double>(second[c]) - rest * rest / count);
    }
  });
}

template <class T, bool has_bias, bool has_residual>
void add_gradients(float* sums, const Output<T>& to, const GradientEpilogue<T>& epilogue) {
  for_columns(to.columns, [&](auto columns) {
    const float* __restrict bias = epilogue.bias;
    for (int64_t i = 0; i < to.count; ++i) {
      float* __restrict sum = sums + i * panel_width;
      const T* __restrict residual = has_residual ? epilogue.residual + to.offsets[i] : nullptr;
      for (int64_t c = 0; c < columns; ++c) {
        float z = sum[c];
        if constexpr (has_bias) z += bias[c];
        if constexpr (has_residual) z += widen(residual[c]);
        sum[c] = z;
      }
    }
  });
}

template <class T>
void store_plain(const float* sums, const Output<T>& to) {
  for_columns(to.columns, [&](auto columns) {
    for (int64_t i = 0; i < to.count; ++i) {
      const float* __restrict sum = sums + i * panel_width;
      T* __restrict out = to.out + to.offsets[i];
      for (int64_t c = 0; c < columns; ++c) out[c] = narrow<T>(sum[c]);
    }
  });
}

template <class T, bool relu>
void store_masked(const float* sums, const Output<T>& to, const GradientEpilogue<T>& epilogue, double* reduced) {
  float total[panel_width] = {}, projected[panel_width] = {};
  for_columns(to.columns, [&](auto columns) {
    const float* __restrict scale = epilogue.affine.scale;
    const float* __restrict shift = epilogue.affine.shift;
    const float* __restrict mean = epilogue.mean;
    for (int64_t i = 0; i < to.count; ++i) {
      const float* __restrict sum = sums + i * panel_width;
      const T* __restrict x = epilogue.x + to.offsets[i];
      T* __restrict out = to.out + to.offsets[i];
      for (int64_t c = 0; c < columns; ++c) {
        const float value = widen(x[c]);
        float g = sum[c];
        if constexpr (relu) g = multiply_add(value, scale[c], shift[c]) <= 0 ? 0.0f : g;
        const T stored = narrow<T>(g);
        out[c] = stored;
        g = widen(stored);
        total[c] += g;
        projected[c] = multiply_add(g, value - mean[c], projected[c]);
      }
    }
    for (int64_t c = 0; c < columns; ++c) {
      reduced[c] = static_cast<double>(total[c]);
      reduced[panel_width + c] = static_cast<double>(projected[c]);
    }
  });
}

template <class T>
void store_gradient(float* sums, const Output<T>& to, const GradientEpilogue<T>& epilogue, double* reduced) {
  if (epilogue.bias && epilogue.residual) add_gradients<T, true, true>(sums, to, epilogue);
  else if (epilogue.bias) add_gradients<T, true, false>(sums, to, epilogue);
  else if (epilogue.residual) add_gradients<T, false, true>(sums, to, epilogue);
  if (!epilogue.x) return store_plain(sums, to);
  if (epilogue.relu) return store_masked<T, true>(sums, to, epilogue, reduced);
  store_masked<T, false>(sums, to, epilogue, reduced);
}
