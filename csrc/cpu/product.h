// A convolution-like product: strips of output pixels times packed weights, the results handed to an epilogue.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "strip.h"

namespace fused_resnet {

using at::Tensor;

// One matrix that is multiplied, and the packed weights [panels][depth][panel width] that it meets. Where an op adds
// two products, both have the same output pixels.
template <class T>
struct Source {
  Gather gather;
  Operand<T> operand;
  Tensor weights;
};

// How a product is cut: strips of lines, and groups of panels where there are fewer strips than threads.
struct Cut {
  Cut(const Gather& gather, int64_t depth, int64_t channels);

  int64_t begin(int64_t strip) const { return std::min(strip * lines_per_strip, lines); }
  int64_t pixels(int64_t strip) const { return (begin(strip + 1) - begin(strip)) * columns; }
  int64_t columns_of(int64_t panel) const { return std::min(width, channels - panel * width); }

  int64_t lines, columns, lines_per_strip, strips, width, channels, panels, groups;
  bool parallel;
};

constexpr int64_t longest_run = 384; // floats of a pixel: six of them and a panel's weights fit the first-level cache

// store(strip, panel, sums [pixels][width], offsets [pixels])
template <class T, class Store>
void product(const std::vector<Source<T>>& sources, const Placement& placement, const Cut& cut, const Store& store) {
  const ProductKernels& kernels = product_kernels();
  const auto task = [&](int64_t index) {
    const int64_t strip = index / cut.groups, group = index % cut.groups;
    const int64_t begin = cut.begin(strip), end = cut.begin(strip + 1);
    std::vector<Strip<T>> strips;
    std::vector<std::vector<Segment>> segments;
    std::vector<std::vector<const float*>> pixels(sources.size());
    for (size_t s = 0; s < sources.size(); ++s) {
      const Source<T>& source = sources[s];
      strips.emplace_back(source.gather, source.operand, 0, source.gather.channels, 0, static_cast<int>(1 + s), true);
      strips[s].load(begin, end);
      segments.push_back(strips[s].layout.segments(longest_run));
      strips[s].pixels(pixels[s]);
    }
    std::vector<int64_t> offsets;
    for (const Piece& piece : strips[0].pieces)
      for (int64_t i = 0; i < piece.count; ++i)
        for (int64_t j = 0; j < cut.columns; ++j) offsets.push_back(placement.offset(piece.image, piece.begin + i, j));
    const int64_t count = static_cast<int64_t>(offsets.size());
    float* sums = scratch(0, count * cut.width);
    for (int64_t panel = cut.panels * group / cut.groups; panel < cut.panels * (group + 1) / cut.groups; ++panel) {
      bool accumulate = false;
      for (size_t s = 0; s < sources.size(); ++s) {
        const float* weights = sources[s].weights.template const_data_ptr<float>() +
            panel * sources[s].gather.depth() * cut.width;
        for (const Segment& segment : segments[s]) {
          kernels.multiply(pixels[s].data(), count, &segment, 1, weights, sums, accumulate);
          weights += segment.depth * cut.width;
          accumulate = true;
        }
      }
      if (!accumulate) std::fill_n(sums, count * cut.width, 0.0f); // a lattice that no tap reaches
      store(strip, panel, sums, offsets.data());
    }
  };
  at::parallel_for(0, cut.strips * cut.groups, cut.parallel ? 1 : cut.strips * cut.groups,
                   [&](int64_t first, int64_t last) {
                     for (int64_t index = first; index < last; ++index) task(index);
                   });
}

} // namespace fused_resnet
