// Launcher of input gradients.
#pragma once

#include "dtypes.h"
#include "geometry.h"

namespace fused_resnet::cuda {

// A lattice of input pixels: those that the same taps reach. A problem of its own, in which nothing is multiplied by
// zeros.
struct Lattice {
  Pixels pixels; // counted ones; height and width of x
  Window window; // what each of them reads of g
  Divider taps_w;
  int first_r, first_s; // of the filter
};

// g, y [N, P, Q, K], weight [K, R, S, C/groups], out, residual, x [N, H, W, C], all dense.
struct Dgrad {
  const void* g;
  const void* y;      // or null
  const float* dnorm; // [3, K] or null
  const void* weight;
  const void* residual; // or null
  const void* x;        // with x_norm and sums, or null
  const float* x_norm;  // [4, C]
  void* out;
  float* sums; // [lattices, tiles, 2, C]
  Lattice lattices[LATTICES];
  Divider group_filters;
  int height, width; // of g
  int taps_of_row, taps, step_r, step_s;
  int channels, filters, groups;
  int tiles, count, first; // tiles of the largest lattice; lattices of this launch, the number of the first
  bool x_relu;
};

cudaError_t launch_dgrad(const Dgrad& problem, Storage storage, bool aligned, int64_t tile, cudaStream_t stream);

} // namespace fused_resnet::cuda
