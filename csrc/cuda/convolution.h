// Sizes of a convolution, from the arguments of an op: what the host side of every product needs.
#pragma once

#include "arguments.h"
#include "geometry.h"
#include "limits.h"

namespace fused_resnet::cuda {

// x [N, H, W, C], weight [K, R, S, C/groups], y [N, P, Q, K].
struct Convolution {
  int64_t n, c, h, w, k, r, s, p, q;
  Pair stride, padding, dilation;
  int64_t groups;

  Convolution(at::IntArrayRef x_size, at::IntArrayRef weight_size, Pair stride, Pair padding, Pair dilation,
              int64_t groups)
      : n(x_size[0]), c(x_size[1]), h(x_size[2]), w(x_size[3]), k(weight_size[0]), r(weight_size[2]),
        s(weight_size[3]), stride(stride), padding(padding), dilation(dilation), groups(groups) {
    p = (h + 2 * padding[0] - dilation[0] * (r - 1) - 1) / stride[0] + 1;
    q = (w + 2 * padding[1] - dilation[1] * (s - 1) - 1) / stride[1] + 1;
    TORCH_CHECK(c == weight_size[1] * groups && k % groups == 0, "weight: expected [K, ", c, "/groups, R, S], got ",
                weight_size, " with groups ", groups);
    for (int64_t span : {h, w, p, q, padding[0], padding[1], dilation[0] * r, dilation[1] * s})
      TORCH_CHECK(span <= MAX_SPAN, "images and windows: expected sides of at most ", MAX_SPAN, ", got ", span);
    TORCH_CHECK(n * h * w <= INT32_MAX && n * p * q <= INT32_MAX && groups <= UINT16_MAX && r * s * c <= INT32_MAX,
                "sizes: expected at most 2^31 - 1 pixels and 65535 groups");
  }

  // Chunks of 16 bytes of x, weight and y lie within one group and one tap.
  bool aligned(const Tensor& t) const {
    const int64_t chunk = 16 / t.element_size();
    return c / groups % chunk == 0 && k / groups % chunk == 0;
  }

  // The pixels of y, each with the window of x that it is made of.
  Pixels outputs() const { return Pixels(n, p, q, h, w); }
  int64_t lattices() const { return stride[0] * stride[1]; }

  // The pixels of x in a lattice.
  Pixels lattice(int64_t number) const {
    const int64_t first_h = number / stride[1], first_w = number % stride[1];
    Pixels pixels(n, cdiv(h - first_h, stride[0]), cdiv(w - first_w, stride[1]), h, w);
    pixels.stride_h = static_cast<int>(stride[0]), pixels.stride_w = static_cast<int>(stride[1]);
    pixels.first_h = static_cast<int>(first_h), pixels.first_w = static_cast<int>(first_w);
    return pixels;
  }
  // Pixels of the largest lattice.
  int64_t lattice_size() const { return n * cdiv(h, stride[0]) * cdiv(w, stride[1]); }

  Window window() const {
    Window found;
    found.taps_h = static_cast<int>(r), found.taps_w = static_cast<int>(s);
    found.step_h = static_cast<int>(stride[0]), found.step_w = static_cast<int>(stride[1]);
    found.padding_h = static_cast<int>(padding[0]), found.padding_w = static_cast<int>(padding[1]);
    found.dilation_h = static_cast<int>(dilation[0]), found.dilation_w = static_cast<int>(dilation[1]);
    return found;
  }
};

// An ungrouped, unpadded 1x1 convolution of x.
inline Convolution pointwise(const Tensor& x, int64_t filters, Pair stride) {
  return Convolution(x.sizes(), {filters, x.size(1), 1, 1}, stride, {0, 0}, {1, 1}, 1);
}

// A sum over many rows, of few results: blocks of their own for parts of the rows.
struct Split {
  int64_t count, rows; // of each
};

// `step`: what divides the rows of a part; `tiles`: of results, each by a block of `warps` warps. It depends on sizes
// alone, and so do all bits.
inline Split split_rows(int64_t rows, int64_t step, int64_t tiles, int64_t warps) {
  constexpr int64_t WARPS = 4096; // enough to keep a large GPU busy
  const int64_t least_rows = limit(1024, 64); // fewer, and writing partial sums would cost more than reading the rows
  const int64_t wanted = std::max<int64_t>(1, std::min(cdiv(WARPS, warps * tiles), rows / least_rows));
  const int64_t part = cdiv(cdiv(rows, wanted), step) * step;
  return {cdiv(rows, part), part};
}

inline void check_size(const Tensor& t, const Tensor& like, at::IntArrayRef size, const char* name) {
  check_activation(t, name);
  TORCH_CHECK(t.sizes() == size && t.scalar_type() == like.scalar_type() && t.device() == like.device(), name,
              ": expected ", like.scalar_type(), " of sizes ", size, ", got ", t.scalar_type(), " of sizes ", t.sizes());
}

// A matrix or a weight, dense with the first index slowest and channels fastest (a copy only where it is not).
inline Tensor check_weight(const Tensor& t, const Tensor& like, const char* name) {
  TORCH_CHECK(Device::has(t) && t.scalar_type() == like.scalar_type(), name, ": expected ", like.scalar_type(),
              " on ", like.device(), ", got ", t.scalar_type(), " on ", t.device());
  return t.contiguous(t.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

} // namespace fused_resnet::cuda
