// Launchers of folded 1x1 convolutions: their input gradients, and a block's tail together with its projection.
#pragma once

#include "dtypes.h"
#include "geometry.h"

namespace fused_resnet::cuda {

// g [N, P, Q, K], weight_g [K, C], x, residual, out [N, H, W, C], weight_x [C, C], all dense. Pixels that the stride
// skips get the residual alone.
struct FoldedDgrad {
  const void* g;
  const void* weight_g;
  const void* x;
  const float* x_norm; // [4, C] or null
  const void* weight_x;
  const float* bias; // [C]
  const void* residual; // or null
  void* out;
  float* sums; // [tiles, 2, C]: mask by the activation of x, and its BN's sums; or null
  Pixels lattices[LATTICES]; // of x; number 0 of all is what the convolution reads
  Window window;             // of one tap
  Divider all_channels, one_tap;
  int channels, filters;
  int tiles, count, first; // tiles of the largest lattice; lattices of this launch, the number of the first
  bool x_relu;
};

cudaError_t launch_folded_dgrad(const FoldedDgrad& problem, Storage storage, bool aligned, int64_t tile,
                                cudaStream_t stream);

// x [N, P, Q, C], weight [K, C], shortcut_x [N, H, W, D], shortcut_weight [K, D], out [N, P, Q, K].
struct FpropDual {
  const void* x;
  const void* weight;
  const float* x_norm; // [4, C] or null
  const float* norm;   // [4, K]
  const void* shortcut_x;
  const void* shortcut_weight;
  const float* shortcut_norm; // [4, K]
  void* out;
  Pixels pixels; // of out; height and width of shortcut_x
  Window window; // of one tap of the shortcut
  Divider all_shortcut_channels, one_tap;
  int channels, shortcut_channels, filters;
  bool x_relu, relu;
};

cudaError_t launch_fprop_dual(const FpropDual& problem, Storage storage, bool aligned, int64_t tile,
                              cudaStream_t stream);

} // namespace fused_resnet::cuda
