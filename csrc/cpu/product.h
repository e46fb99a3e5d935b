// A convolution-like product: strips of output pixels times packed weights, the results handed to an epilogue.
#pragma once

#include "direct.h"
#include "matrix_product.h"
#include "winograd.h"

namespace fused_resnet {

// store(strip, panel, sums [pixels][width], offsets [pixels])
template <class T, class Store>
void product(const std::vector<Source<T>>& sources, const Placement& placement, const Cut& cut, const Store& store) {
  if constexpr (std::is_same_v<T, BFloat16>)
    if (sources[0].weights.scalar_type() == at::kBFloat16) return matrix_product(sources, placement, cut, store);
  if (sources.size() == 1 && sources[0].winograd) return winograd_product(sources[0], placement, cut, store);
  direct_product(sources, placement, cut, store);
}

} // namespace fused_resnet
