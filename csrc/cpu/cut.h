// What a convolution-like product multiplies, and how it is cut into tasks.
#pragma once

#include <ATen/core/Tensor.h>

#include "strip.h"
#include "tasks.h"

namespace fused_resnet {

using at::Tensor;

// One matrix that is multiplied, and the packed weights [panels][depth][panel width] that it meets. Where an op adds
// two products, both have the same output pixels.
template <class T>
struct Source {
  Gather gather;
  Operand<T> operand;
  Tensor weights;
  bool winograd = false; // the weights are packed for winograd.h: [panels][positions][depth][panel width]
  const float* scale = nullptr; // of the output channels; what has one tap only may have it
};

constexpr int64_t strip_pixels = 336; // more would push the panel's sums out of the first-level cache

// How a product is cut: strips of lines, and groups of panels where there are fewer strips than threads.
struct Cut {
  // depth: multiply-adds of a result; channels: of the results; winograd: strips are of pairs of lines.
  Cut(const Gather& gather, int64_t depth, int64_t channels, bool winograd = false);

  int64_t begin(int64_t strip) const { return std::min(strip * lines_per_strip, lines); }
  int64_t pixels(int64_t strip) const { return (begin(strip + 1) - begin(strip)) * columns; }
  int64_t columns_of(int64_t panel) const { return std::min(width, channels - panel * width); }

  int64_t lines, columns, lines_per_strip, strips, width, channels, panels, groups;
  bool parallel;
};

// to = (add: +=) from * scale, per column of those that exist.
inline void add_scaled(const float* from, const float* scale, int64_t pixels, int64_t columns, int64_t width, bool add,
                       float* to) {
  for (int64_t i = 0; i < pixels; ++i, from += width, to += width)
    for (int64_t c = 0; c < columns; ++c) to[c] = (add ? to[c] : 0.0f) + from[c] * scale[c];
}

// Where the pixels of a strip lie in the result.
inline std::vector<int64_t> offsets_of(const std::vector<Piece>& pieces, const Placement& placement, int64_t columns) {
  std::vector<int64_t> offsets;
  for (const Piece& piece : pieces)
    for (int64_t i = 0; i < piece.count; ++i)
      for (int64_t j = 0; j < columns; ++j) offsets.push_back(placement.offset(piece.image, piece.begin + i, j));
  return offsets;
}

} // namespace fused_resnet
