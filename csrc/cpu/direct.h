// Products that multiply every tap: pixels are read where they lie in a strip, or in the tensor itself.
#pragma once

#include "cut.h"

namespace fused_resnet {

constexpr int64_t longest_run = 384; // floats of a pixel: six of them and a panel's weights fit the first-level cache

// store(strip, panel, sums [pixels][width], offsets [pixels])
template <class T, class Store>
void direct_product(const std::vector<Source<T>>& sources, const Placement& placement, const Cut& cut,
                    const Store& store) {
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
    const std::vector<int64_t> offsets = offsets_of(strips[0].pieces, placement, cut.columns);
    const int64_t count = static_cast<int64_t>(offsets.size());
    float* sums = scratch(0, count * cut.width);
    for (int64_t panel = cut.panels * group / cut.groups; panel < cut.panels * (group + 1) / cut.groups; ++panel) {
      bool add = false;
      for (size_t s = 0; s < sources.size(); ++s) {
        const float* weights = sources[s].weights.template const_data_ptr<float>() +
            panel * sources[s].gather.depth() * cut.width;
        const float* scale = sources[s].scale;
        float* to = scale ? scratch(3, count * cut.width) : sums;
        bool accumulate = add && !scale;
        for (const Segment& segment : segments[s]) {
          kernels.multiply(pixels[s].data(), count, &segment, 1, weights, to, accumulate);
          weights += segment.depth * cut.width;
          accumulate = add = true;
        }
        if (scale) add_scaled(to, scale + panel * cut.width, count, cut.columns_of(panel), cut.width, s > 0, sums);
      }
      if (!add) std::fill_n(sums, count * cut.width, 0.0f); // a lattice that no tap reaches
      store(strip, panel, sums, offsets.data());
    }
  };
  for_tasks(cut.strips * cut.groups, cut.parallel, task);
}

} // namespace fused_resnet
