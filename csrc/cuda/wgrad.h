// Launchers of weight gradients.
#pragma once

#include "dtypes.h"
#include "geometry.h"

namespace fused_resnet::cuda {

// g, y, out, masked [N, P, Q, K], x [N, H, W, C], all dense; parts [splits, K, R*S, C/groups], sums [splits, K].
struct Wgrad {
  const void* g;
  const void* y;       // or null
  const float* dnorm;  // [3, K] or null
  const void* out;     // whose sign masks g; null: no mask
  const void* x;
  const float* x_norm; // [4, C] or null
  void* masked;        // with out
  float* sums;         // with out
  float* parts;
  Pixels pixels; // of g; height and width of x
  Window window;
  Divider group_channels, taps_w;
  int channels, filters, groups;
  int splits, rows_per_split; // a multiple of WGRAD_ROWS
  bool x_relu;
};

// What a tile of this number has of results [K/groups, R*S*C/groups], and how many rows it sums up in one step.
int64_t wgrad_filters(int64_t tile);
int64_t wgrad_columns(int64_t tile);
constexpr int64_t WGRAD_ROWS = 32;

cudaError_t launch_wgrad(const Wgrad& problem, Storage storage, bool aligned, int64_t tile, cudaStream_t stream);

// weight [filters, channels, taps] = the sum of parts [splits, filters, taps, channels].
struct WgradMerge {
  const float* parts;
  float* weight;
  int splits, filters, taps, channels;
};
cudaError_t launch_wgrad_merge(const WgradMerge& problem, cudaStream_t stream);

} // namespace fused_resnet::cuda
