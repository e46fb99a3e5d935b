// Second stage of every reduction: merges the parts that blocks left, in a fixed order.
#pragma once

#include "arguments.h"

namespace fused_resnet::cuda {

// parts [count, rows, channels] summed over count: [rows, channels].
Tensor merged_sums(const Tensor& parts, const Device& device);

// Mean and biased variance [channels] of `rows` rows, from the moments [tiles, channels] of tiles of `rows_per_tile`
// of them (the last ones fewer, or none).
std::tuple<Tensor, Tensor> merged_moments(const Tensor& mean, const Tensor& m2, int64_t rows_per_tile, int64_t rows,
                                          const Device& device);

} // namespace fused_resnet::cuda
