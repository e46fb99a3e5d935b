// BN's backward sums, shared by the plain and the pooled form.
#pragma once

#include "arguments.h"

namespace fused_resnet {

// Adds up partial sums [chunks][1 + projections][width] in order, folds the lanes onto their channels, and turns
// Σ g*(y - mean) into Σ g*xhat.
template <class A>
Tensor finish_sums(const Tensor& partial, int64_t channels, const std::array<const A*, 2>& invstd) {
  const int64_t chunks = partial.size(0), vectors = partial.size(1), width = partial.size(2);
  const double* values = partial.const_data_ptr<double>();
  std::vector<double> total(vectors * channels);
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t v = 0; v < vectors; ++v, values += width)
      for (int64_t lane = 0; lane < width; lane += channels)
        for (int64_t c = 0; c < channels; ++c) total[v * channels + c] += values[lane + c];
  Tensor sums = at::empty({vectors, channels}, c10::CppTypeToScalarType<A>::value);
  A* out = sums.mutable_data_ptr<A>();
  for (int64_t v = 0; v < vectors; ++v)
    for (int64_t c = 0; c < channels; ++c) {
      const double factor = v == 0 ? 1.0 : static_cast<double>(invstd[v - 1][c]);
      out[v * channels + c] = static_cast<A>(total[v * channels + c] * factor);
    }
  return sums;
}

} // namespace fused_resnet
