// Launchers of moments.
#pragma once

#include "dtypes.h"
#include "geometry.h"

namespace fused_resnet::cuda {

// x [N, H, W, C], dense; parts [splits, C + 2, C]: Σddᵀ of rounded d on and above the diagonal, then Σd of rounded d, and
// of exact d.
struct Gram {
  const void* x;
  const float* x_norm; // [4, C] or null
  float* parts;
  Pixels pixels; // the rows; height and width of x
  Window window; // of one tap
  Divider all_channels, one_tap;
  int channels, splits, rows_per_split;
  bool x_relu;
};

// Channels of a tile of this number.
int64_t gram_channels(int64_t tile);
constexpr int64_t GRAM_ROWS = 32; // that a block sums up in one step

cudaError_t launch_gram(const Gram& problem, Storage storage, bool aligned, int64_t tile, cudaStream_t stream);

// mean [C] = p + Σd/M of exact d; moments [C, C] = Σddᵀ - ΣdΣdᵀ/M of rounded d; p is the first row of z.
struct GramFinish {
  const void* x;
  const float* x_norm;
  const float *products, *sums; // [C, C], [2, C]
  float *mean, *moments;
  int channels, rows;
  bool x_relu;
};
cudaError_t launch_gram_finish(const GramFinish& problem, Storage storage, cudaStream_t stream);

} // namespace fused_resnet::cuda
