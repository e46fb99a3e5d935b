// Launchers of the reductions over the pixels: batch statistics and BN's backward sums.
#pragma once

#include "rows.h"

namespace fused_resnet::cuda {

// Mean, and centred sum of squares, of each part of the rows; of one part the variance in its place.
struct Statistics {
  const void* y;
  float *mean, *m2; // [parts, C]
  Rows rows;
};
cudaError_t launch_bn_stats(const Statistics& problem, Storage storage, int numbers, cudaStream_t stream);

// g, which is dout and 0 where the activation stopped it, and sums of it.
struct BackwardReduce {
  const void* dout;
  const void* out;      // where it is not positive nothing passes; null: y's affine map tells
  const void* y[2];     // of the units whose Σg·xhat is wanted, from the first on; null: none
  const float* norm[2]; // [4, C]
  void* g;
  float* sums; // [parts, 1 + units, C]: Σg, Σg·xhat
  Rows rows;
  bool relu;
};
cudaError_t launch_bn_act_bwd_reduce(const BackwardReduce& problem, Storage storage, int numbers, cudaStream_t stream);

} // namespace fused_resnet::cuda
