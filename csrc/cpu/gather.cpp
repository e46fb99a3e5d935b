#include "gather.h"

namespace fused_resnet {

namespace {

Axis fprop_axis(const Convolution& conv, int d) {
  Axis axis{conv.out[d], conv.in[d], conv.stride[d], {}};
  for (int64_t r = 0; r < conv.kernel[d]; ++r) axis.taps.push_back(r * conv.dilation[d] - conv.padding[d]);
  return axis;
}

// Input h is read by output p through tap r where h + padding = p*stride + r*dilation.
struct Residue {
  int64_t first; // the least input of this residue
  Axis axis;
  std::vector<int64_t> taps;
};

Residue residue_of(const Convolution& conv, int d, int64_t first) {
  const int64_t stride = conv.stride[d];
  Residue found{first, {}, {}};
  found.axis = {(conv.in[d] - first + stride - 1) / stride, conv.out[d], 1, {}};
  for (int64_t r = conv.kernel[d] - 1; r >= 0; --r) { // descending, so that what they read ascends
    const int64_t shifted = first + conv.padding[d] - r * conv.dilation[d];
    if (shifted % stride != 0) continue;
    found.axis.taps.push_back(shifted / stride);
    found.taps.push_back(r);
  }
  return found;
}

// A product of pixels only is one image of one column: strips then need not end where an image does.
Gather flattened(Gather gather) {
  const int64_t lines = gather.images * gather.rows.out * gather.cols.out;
  gather.images = 1;
  gather.rows = {lines, lines, 1, {0}};
  gather.cols = {1, 1, 1, {0}};
  return gather;
}

} // namespace

Gather fprop_rows(const Convolution& conv) {
  return {conv.images, conv.channels, fprop_axis(conv, 0), fprop_axis(conv, 1)};
}

Gather fprop_gather(const Convolution& conv) {
  const Gather gather = fprop_rows(conv);
  return conv.pointwise() && conv.stride[0] == 1 && conv.stride[1] == 1 ? flattened(gather) : gather;
}

Placement dense_placement(int64_t height, int64_t width, int64_t channels) {
  return {0, height * width * channels, width * channels, channels};
}

std::vector<Lattice> dgrad_lattices(const Convolution& conv) {
  std::vector<Lattice> lattices;
  const Placement dense = dense_placement(conv.in[0], conv.in[1], conv.channels);
  const bool one = conv.pointwise() && conv.stride[0] == 1 && conv.stride[1] == 1;
  for (int64_t row = 0; row < std::min(conv.stride[0], conv.in[0]); ++row)
    for (int64_t col = 0; col < std::min(conv.stride[1], conv.in[1]); ++col) {
      const Residue r = residue_of(conv, 0, row), c = residue_of(conv, 1, col);
      Lattice lattice;
      lattice.gather = {conv.images, conv.filters, r.axis, c.axis};
      lattice.placement = {dense.offset(0, row, col), dense.image, dense.row * conv.stride[0],
                           dense.col * conv.stride[1]};
      lattice.tap_rows = r.taps;
      lattice.tap_cols = c.taps;
      if (one) {
        lattice.gather = flattened(lattice.gather);
        lattice.placement = {0, 0, conv.channels, 0};
      }
      lattices.push_back(lattice);
    }
  return lattices;
}

} // namespace fused_resnet
