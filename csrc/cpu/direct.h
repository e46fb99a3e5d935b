// Products that multiply every tap: pixels are read where they lie in a strip, or in the tensor itself.
#pragma once

#include "cut.h"

namespace fused_resnet {

constexpr int64_t longest_run = 384; // floats of a pixel: six of them and a panel's weights fit the first-level cache

// One of the matrices that are multiplied and added up: rows of pixels, packed weights of `depth` rows per panel.
struct Factor {
  std::vector<const float*> pixels;
  std::vector<Segment> segments;
  const float *weights, *scale; // scale: of Source
  int64_t depth;
};

// sums [count][width] of a panel, of which `columns` exist; behind them there is room for as many.
inline void multiply_panel(const std::vector<Factor>& factors, int64_t panel, int64_t count, int64_t columns,
                           float* sums) {
  const ProductKernels& kernels = product_kernels();
  const int64_t width = kernels.panel;
  bool add = false;
  for (const Factor& factor : factors) {
    const float* weights = factor.weights + panel * factor.depth * width;
    float* to = factor.scale ? sums + count * width : sums;
    bool accumulate = add && !factor.scale;
    for (const Segment& segment : factor.segments) {
      kernels.multiply(factor.pixels.data(), count, &segment, 1, weights, columns, to, accumulate);
      weights += segment.depth * width;
      accumulate = true;
    }
    if (factor.scale) add_scaled(to, factor.scale + panel * width, count, columns, width, add, sums);
    add = add || !factor.segments.empty();
  }
  if (!add) std::fill_n(sums, count * width, 0.0f); // a lattice that no tap reaches
}

// A strip of all sources, ready to be multiplied; tasks of one strip that a thread takes in turn load it once.
template <class T>
class Operands {
 public:
  Operands(const std::vector<Source<T>>& sources, const Placement& placement, const Cut& cut)
      : placement_(placement), cut_(cut) {
    for (const Source<T>& source : sources) {
      const int slot = static_cast<int>(1 + strips_.size());
      strips_.emplace_back(source.gather, source.operand, 0, source.gather.channels, 0, slot, true);
      factors.push_back({{}, strips_.back().layout.segments(longest_run),
                         source.weights.template const_data_ptr<float>(), source.scale, source.gather.depth()});
    }
  }

  void load(int64_t strip) {
    if (strip == loaded_) return;
    for (size_t s = 0; s < strips_.size(); ++s) {
      strips_[s].load(cut_.begin(strip), cut_.begin(strip + 1));
      strips_[s].pixels(factors[s].pixels);
    }
    offsets = offsets_of(strips_[0].pieces, placement_, cut_.columns);
    loaded_ = strip;
  }

  std::vector<Factor> factors;
  std::vector<int64_t> offsets;

 private:
  const Placement& placement_;
  const Cut& cut_;
  std::vector<Strip<T>> strips_;
  int64_t loaded_ = -1;
};

// store(strip, panel, sums [pixels][width], offsets [pixels])
template <class T, class Store>
void direct_product(const std::vector<Source<T>>& sources, const Placement& placement, const Cut& cut,
                    const Store& store) {
  const auto keep = [&] { return Operands<T>(sources, placement, cut); };
  for_tasks(cut.strips * cut.groups, cut.parallel, keep, [&](int64_t task, Operands<T>& operands) {
    const int64_t strip = task / cut.groups, group = task % cut.groups;
    operands.load(strip);
    const int64_t count = static_cast<int64_t>(operands.offsets.size());
    float* sums = scratch(0, 2 * count * cut.width);
    for (int64_t panel = cut.panels * group / cut.groups; panel < cut.panels * (group + 1) / cut.groups; ++panel) {
      multiply_panel(operands.factors, panel, count, cut.columns_of(panel), sums);
      store(strip, panel, sums, operands.offsets.data());
    }
  });
}

} // namespace fused_resnet
