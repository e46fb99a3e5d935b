// Launchers of the second stage of reductions.
#pragma once

#include "rows.h"

namespace fused_resnet::cuda {

// Sums of the rows of each part.
struct MergeSums {
  const float* values;
  float* sums; // [parts, channels]
  Rows rows;
};
cudaError_t launch_merge_sums(const MergeSums& problem, int numbers, cudaStream_t stream);

// Moments of all tiles of each part, tiles being the rows here; of one part the variance in place of m2.
struct MergeMoments {
  const float *mean, *m2;
  float *merged_mean, *merged_m2; // [parts, channels]
  int64_t rows_per_tile, count;   // of all tiles; the last ones have fewer, or none
  Rows rows;
};
cudaError_t launch_merge_moments(const MergeMoments& problem, int numbers, cudaStream_t stream);

} // namespace fused_resnet::cuda
