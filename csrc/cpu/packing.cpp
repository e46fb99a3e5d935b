#include "packing.h"

#include "cut.h"
#include "pack_cache.h"
#include "pool_of_buffers.h"
#include "products.h"
#include "strip.h"
#include "winograd.h"

namespace fused_resnet {

namespace {

float widened(float v) { return v; }
float widened(BFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

int64_t grain_of(int64_t elements) { return std::max<int64_t>(1, min_task / std::max<int64_t>(1, elements)); }

// fill(first channel, count, to) writes a panel.
template <class F>
Tensor pack(int64_t channels, int64_t depth, const F& fill) {
  const int64_t width = product_kernels().panel, panels = divide_up(channels, width);
  const Tensor packed = pooled({panels, depth, width});
  at::parallel_for(0, panels, grain_of(width * depth), [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      float* to = packed.mutable_data_ptr<float>() + panel * depth * width;
      const int64_t first = panel * width, count = std::min(width, channels - first);
      if (count < width) std::fill_n(to, depth * width, 0.0f);
      fill(first, count, to);
    }
  });
  return packed;
}

// The same for matrix hardware: fill(tap, first channel, count, to) writes a tap of a panel.
template <class F>
Tensor pack_pairs(int64_t channels, int64_t taps, int64_t channels_of_tap, const F& fill) {
  const int64_t width = product_kernels().panel, parts = divide_up(channels, width) * taps;
  const int64_t pairs = divide_up(channels_of_tap, 2);
  const Tensor packed = pooled({parts, pairs, width}).view(at::kBFloat16);
  at::parallel_for(0, parts, grain_of(width * channels_of_tap), [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part / taps * width;
      fill(part % taps, first, std::min(width, channels - first), data<BFloat16>(packed) + part * pairs * 2 * width);
    }
  });
  return packed;
}

// f(first element) of a dense tensor, with its storage type.
template <class F>
Tensor pack_from(const Tensor& dense, const char* name, const F& f) {
  return dispatch_products(dense, name, [&](auto storage) { return f(data<const decltype(storage)>(dense)); });
}

// G g Gᵀ (Lavin & Gray 2016) of `count` filters side by side: taps [9][count] to rows of `width`, `plane` apart.
void winograd_weights(const float* taps, int64_t count, float* to, int64_t plane) {
  for (int64_t l = 0; l < count; ++l) {
    float half[4][3];
    for (int s = 0; s < 3; ++s) {
      const float first = taps[s * count + l], second = taps[(3 + s) * count + l], third = taps[(6 + s) * count + l];
      half[0][s] = first;
      half[1][s] = 0.5f * (first + second + third);
      half[2][s] = 0.5f * (first - second + third);
      half[3][s] = third;
    }
    for (int r = 0; r < 4; ++r) {
      const float first = half[r][0], second = half[r][1], third = half[r][2];
      to[(4 * r + 0) * plane + l] = first;
      to[(4 * r + 1) * plane + l] = 0.5f * (first + second + third);
      to[(4 * r + 2) * plane + l] = 0.5f * (first - second + third);
      to[(4 * r + 3) * plane + l] = third;
    }
  }
}

// tap(depth index, tap, first channel, count, to): `count` weights.
template <class Tap>
Tensor pack_winograd_as(int64_t channels, int64_t depth, const Tap& tap) {
  const int64_t width = product_kernels().panel;
  const auto fill = [&](int64_t first, int64_t count, float* to) {
    std::vector<float> taps(static_cast<size_t>(9 * count));
    for (int64_t d = 0; d < depth; ++d) {
      for (int t = 0; t < 9; ++t) tap(d, t, first, count, taps.data() + t * count);
      winograd_weights(taps.data(), count, to + d * width, depth * width);
    }
  };
  return pack(channels, winograd_positions * depth, fill);
}

} // namespace

Tensor pack_winograd(const Tensor& weight) {
  const Tensor dense = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t channels = dense.size(1);
  return pack_from(dense, "weight", [&](auto* from) {
    return pack_winograd_as(dense.size(0), channels, [=](int64_t c, int t, int64_t first, int64_t count, float* to) {
      for (int64_t k = 0; k < count; ++k) to[k] = widened(from[((first + k) * 9 + t) * channels + c]);
    });
  });
}

Tensor pack_winograd_transposed(const Tensor& weight) {
  const Tensor dense = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t channels = dense.size(1);
  return pack_from(dense, "weight", [&](auto* from) {
    return pack_winograd_as(channels, dense.size(0), [=](int64_t k, int t, int64_t first, int64_t count, float* to) {
      const auto* tap = from + (k * 9 + 8 - t) * channels + first; // turned by half a turn
      for (int64_t c = 0; c < count; ++c) to[c] = widened(tap[c]);
    });
  });
}

Tensor pack_filters(const Tensor& weight, Packing packing) {
  const Tensor dense = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t filters = dense.size(0), channels = dense.size(1), depth = dense.numel() / filters;
  const int64_t width = product_kernels().panel;
  if (packing == Packing::pairs)
    return pack_pairs(filters, depth / channels, channels,
                      [=, from = data<const BFloat16>(dense)](int64_t tap, int64_t first, int64_t count, BFloat16* to) {
      product_kernels().pair_columns(from + first * depth + tap * channels, count, depth, channels, to);
    });
  return pack_from(dense, "weight", [&](auto* from) {
    return pack(filters, depth, [=](int64_t first, int64_t count, float* to) {
      for (int64_t k = 0; k < count; ++k) {
        const auto* filter = from + (first + k) * depth;
        for (int64_t d = 0; d < depth; ++d) to[d * width + k] = widened(filter[d]);
      }
    });
  });
}

Tensor packed_filters(const Tensor& weight, bool winograd, Packing packing) {
  // whether it is packed for Winograd depends on the image, too: either form of one weight may be wanted
  const int kind = winograd ? 1 : packing == Packing::pairs ? 2 : 0;
  return packed_once(weight, kind + 4 * static_cast<int>(product_kernels().panel), [=](const Tensor& w) {
    return winograd ? pack_winograd(w) : pack_filters(w, packing);
  });
}

Tensor pack_transposed(const Tensor& weight, const Lattice& lattice, Packing packing) {
  const Tensor dense = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t filters = dense.size(0), channels = dense.size(1), width = product_kernels().panel;
  const auto columns = static_cast<int64_t>(lattice.tap_cols.size());
  const int64_t taps = static_cast<int64_t>(lattice.tap_rows.size()) * columns;
  // where a tap of the lattice lies in a filter, and the distance of filters
  const int64_t filter = dense.numel() / filters;
  const auto offset = [&lattice, columns, channels, kernel_columns = dense.size(3)](int64_t tap) {
    const int64_t r = lattice.tap_rows[static_cast<size_t>(tap / columns)];
    const int64_t s = lattice.tap_cols[static_cast<size_t>(tap % columns)];
    return (r * kernel_columns + s) * channels;
  };
  if (packing == Packing::pairs)
    return pack_pairs(channels, taps, filters,
                      [=, from = data<const BFloat16>(dense)](int64_t tap, int64_t first, int64_t count, BFloat16* to) {
      product_kernels().pair_pixels(from + offset(tap) + first, filters, filter, count, to);
    });
  return pack_from(dense, "weight", [&](auto* from) {
    return pack(channels, taps * filters, [=](int64_t first, int64_t count, float* to) {
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t k = 0; k < filters; ++k, to += width) {
          const auto* row = from + k * filter + offset(tap) + first;
          for (int64_t c = 0; c < count; ++c) to[c] = widened(row[c]);
        }
    });
  });
}

Tensor pack_matrix(const Tensor& matrix, Packing packing) {
  const Tensor dense = matrix.contiguous();
  const int64_t depth = dense.size(0), channels = dense.size(1), width = product_kernels().panel;
  if (packing == Packing::pairs)
    return pack_pairs(channels, 1, depth,
                      [=, from = data<const BFloat16>(dense)](int64_t, int64_t first, int64_t count, BFloat16* to) {
      product_kernels().pair_pixels(from + first, depth, channels, count, to);
    });
  return pack_from(dense, "matrix", [&](auto* from) {
    return pack(channels, depth, [=](int64_t first, int64_t count, float* to) {
      for (int64_t d = 0; d < depth; ++d)
        for (int64_t c = 0; c < count; ++c) to[d * width + c] = widened(from[d * channels + first + c]);
    });
  });
}

} // namespace fused_resnet
