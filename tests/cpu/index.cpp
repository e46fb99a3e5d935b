// The index arithmetic of convolutions, compiled without torch, for sizes whose tensors would not fit into memory.
#include "gather.h"

#include "strip.h"

using namespace fused_resnet;

namespace {

Convolution conv_of(const int64_t* s) {
  return {s[0], s[1], {s[2], s[3]}, s[4], {s[5], s[6]}, {s[7], s[8]}, {s[9], s[10]}, {s[11], s[12]}, {s[13], s[14]}};
}

} // namespace

extern "C" {

// Sizes: images, channels, in (2), filters, out (2), kernel (2), stride (2), padding (2), dilation (2).

// The element offset of the output pixel (n, i, j) of a forward product.
int64_t output_offset(const int64_t* sizes, int64_t n, int64_t i, int64_t j) {
  const Convolution conv = conv_of(sizes);
  return dense_placement(conv.out[0], conv.out[1], conv.filters).offset(n, i, j);
}

// How many products the input's gradient takes.
int64_t lattices(const int64_t* sizes) { return static_cast<int64_t>(dgrad_lattices(conv_of(sizes)).size()); }

// The element offset in dx of the last pixel of the last image of one of them.
int64_t last_of_lattice(const int64_t* sizes, int64_t index) {
  const Convolution conv = conv_of(sizes);
  const Lattice lattice = dgrad_lattices(conv).at(static_cast<size_t>(index));
  const Gather& gather = lattice.gather;
  return lattice.placement.offset(gather.images - 1, gather.rows.out - 1, gather.cols.out - 1);
}

// The lines of a whole forward product, and the floats of a strip that holds them all.
int64_t lines(const int64_t* sizes) { return fprop_gather(conv_of(sizes)).out_lines(); }
int64_t strip_size(const int64_t* sizes) {
  const Gather gather = fprop_gather(conv_of(sizes));
  const StripLayout layout(gather, gather.channels, 0, false);
  return layout.lines(gather.rows.out) * layout.line;
}
}
