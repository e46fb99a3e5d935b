// What becomes of the panels of a forward product.
#pragma once

#include "cut.h"

namespace fused_resnet {

// A store of `product`. Pointers are to the first channel.
template <class T>
struct ForwardStore {
  T* out;
  ForwardEpilogue<T> whole;
  const Cut& cut;

  Output<T> output(int64_t strip, int64_t panel, const int64_t* offsets) const {
    return {out + panel * cut.width, offsets, cut.pixels(strip), cut.columns_of(panel)};
  }

  ForwardEpilogue<T> epilogue(int64_t panel) const {
    const int64_t first = panel * cut.width;
    const auto from = [&](const auto* p) { return p ? p + first : nullptr; };
    return {from(whole.scale), from(whole.shift), from(whole.residual), whole.floor};
  }

  void operator()(int64_t strip, int64_t panel, float* sums, const int64_t* offsets) const {
    operand_kernels<T>().store_forward(sums, output(strip, panel, offsets), epilogue(panel));
  }
};

} // namespace fused_resnet
