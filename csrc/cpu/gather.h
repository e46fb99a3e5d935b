// Which input pixels an output pixel of a convolution reads: the index arithmetic of forward and backward products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fused_resnet {

// One dimension: output i reads the inputs i*step + taps[j] of [0, in), and zero outside.
struct Axis {
  int64_t out = 0, in = 0, step = 1;
  std::vector<int64_t> taps;

  int64_t least() const { return taps.empty() ? 0 : *std::min_element(taps.begin(), taps.end()); }
  int64_t greatest() const { return taps.empty() ? 0 : *std::max_element(taps.begin(), taps.end()); }
  bool inside() const { return taps.empty() || (least() >= 0 && (out - 1) * step + greatest() < in); }
  bool dense() const { // one run of neighbours
    for (size_t j = 1; j < taps.size(); ++j)
      if (taps[j] != taps[j - 1] + 1) return false;
    return !taps.empty();
  }
};

// From an input [images, rows.in, cols.in, channels], dense in this order, to outputs [images, rows.out, cols.out].
struct Gather {
  int64_t images = 0, channels = 0;
  Axis rows, cols;

  int64_t out_lines() const { return images * rows.out; }
  int64_t taps() const { return static_cast<int64_t>(rows.taps.size() * cols.taps.size()); }
  int64_t depth() const { return taps() * channels; }
};

// Where output pixel (n, i, j) lies in its tensor, in elements.
struct Placement {
  int64_t first = 0, image = 0, row = 0, col = 0;

  int64_t offset(int64_t n, int64_t i, int64_t j) const { return first + n * image + i * row + j * col; }
};

// Sizes of a convolution as in torch; pairs are (height, width).
struct Convolution {
  int64_t images, channels, in[2], filters, out[2], kernel[2], stride[2], padding[2], dilation[2];

  bool pointwise() const { return kernel[0] == 1 && kernel[1] == 1 && padding[0] == 0 && padding[1] == 0; }
};

Gather fprop_gather(const Convolution& conv);
Gather fprop_rows(const Convolution& conv); // the same, rows and images told apart whatever the convolution
Placement dense_placement(int64_t height, int64_t width, int64_t channels);

// The input's pixels (row, col) with (row + padding) % stride == residue of both dimensions read the same taps: their
// gradients are one product, from dy. tap_rows and tap_cols say which taps of the filter these are.
struct Lattice {
  Gather gather;
  Placement placement;
  std::vector<int64_t> tap_rows, tap_cols;
};
std::vector<Lattice> dgrad_lattices(const Convolution& conv);

} // namespace fused_resnet
