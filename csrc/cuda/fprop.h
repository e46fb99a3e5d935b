// Launcher of forward convolutions.
#pragma once

#include "dtypes.h"
#include "geometry.h"

namespace fused_resnet::cuda {

// x [N, H, W, C], weight [K, R, S, C/groups], out, residual [N, P, Q, K], all dense; vectors fp32, bias as x.
struct Fprop {
  const void* x;
  const void* weight;
  const float* x_norm; // [4, C] or null
  const void* bias;    // [K] or null
  const float* norm;   // [4, K] or null
  const void* residual;
  void* out;
  float *mean, *m2; // [tiles of rows, K], of what was stored; null: with bias, norm, residual, act
  Pixels pixels;    // of out; height and width of x
  Window window;
  Divider group_channels, taps_w;
  int channels, filters, groups;
  bool x_relu, relu;
};

cudaError_t launch_fprop(const Fprop& problem, Storage storage, bool aligned, int64_t tile, cudaStream_t stream);

} // namespace fused_resnet::cuda
