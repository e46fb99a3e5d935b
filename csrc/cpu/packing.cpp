#include "packing.h"

#include "products.h"

namespace fused_resnet {

namespace {

float widened(float v) { return v; }
float widened(BFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <class F>
Tensor pack(int64_t channels, int64_t depth, const F& fill) {
  const int64_t width = product_kernels().panel, panels = (channels + width - 1) / width;
  Tensor packed = at::empty({panels, depth, width}, at::kFloat);
  float* data = packed.mutable_data_ptr<float>();
  at::parallel_for(0, panels, std::max<int64_t>(1, min_task / (width * std::max<int64_t>(depth, 1))),
                   [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      float* to = data + panel * depth * width;
      const int64_t first = panel * width, count = std::min(width, channels - first);
      if (count < width) std::fill_n(to, depth * width, 0.0f);
      fill(first, count, to, width);
    }
  });
  return packed;
}

} // namespace

Tensor pack_filters(const Tensor& weight, const float* scale) {
  const Tensor dense = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t depth = dense.numel() / dense.size(0);
  return dispatch_products(dense, "weight", [&](auto storage) {
    using T = decltype(storage);
    const T* from = data<T>(dense);
    return pack(dense.size(0), depth, [=](int64_t first, int64_t count, float* to, int64_t width) {
      for (int64_t k = 0; k < count; ++k) {
        const T* filter = from + (first + k) * depth;
        const float factor = scale ? scale[first + k] : 1.0f;
        for (int64_t d = 0; d < depth; ++d) to[d * width + k] = widened(filter[d]) * factor;
      }
    });
  });
}

Tensor pack_transposed(const Tensor& weight, const Lattice& lattice) {
  const Tensor dense = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t filters = dense.size(0), channels = dense.size(1), kernel[2] = {dense.size(2), dense.size(3)};
  return dispatch_products(dense, "weight", [&](auto storage) {
    using T = decltype(storage);
    const T* from = data<T>(dense);
    const int64_t taps = static_cast<int64_t>(lattice.tap_rows.size() * lattice.tap_cols.size());
    return pack(channels, taps * filters, [&, from](int64_t first, int64_t count, float* to, int64_t width) {
      for (const int64_t r : lattice.tap_rows)
        for (const int64_t s : lattice.tap_cols)
          for (int64_t k = 0; k < filters; ++k, to += width) {
            const T* tap = from + ((k * kernel[0] + r) * kernel[1] + s) * channels + first;
            for (int64_t c = 0; c < count; ++c) to[c] = widened(tap[c]);
          }
    });
  });
}

Tensor pack_matrix(const Tensor& matrix) {
  const Tensor dense = matrix.contiguous();
  const int64_t depth = dense.size(0), channels = dense.size(1);
  return dispatch_products(dense, "matrix", [&](auto storage) {
    using T = decltype(storage);
    const T* from = data<T>(dense);
    return pack(channels, depth, [=](int64_t first, int64_t count, float* to, int64_t width) {
      for (int64_t d = 0; d < depth; ++d)
        for (int64_t c = 0; c < count; ++c) to[d * width + c] = widened(from[d * channels + first + c]);
    });
  });
}

} // namespace fused_resnet
