// Launchers of the stem's max-pool and of its backward.
#pragma once

#include "geometry.h"
#include "rows.h"

namespace fused_resnet::cuda {

// Sizes of a pool's input and output, below 2^31 pixels each, and of its windows (height, width).
struct PoolShape {
  int height, width, out_height, out_width;
  int kernel[2], stride[2], padding[2];
  Divider per_image, per_row; // pixels of the map that `rows` counts
  Divider strides[2];
};

// Maximum of act(scale*y + shift) in each window, and its place there.
struct Pool {
  const void* y;
  const float* norm; // [4, C]
  void* out;
  uint8_t* argmax;
  PoolShape shape;
  Rows rows; // of out
  bool relu;
};
cudaError_t launch_bn_act_maxpool(const Pool& problem, Storage storage, int numbers, cudaStream_t stream);

// g, what each pixel of y gets from the windows that took their maximum there, where the activation let it pass; and
// sums of it.
struct PoolBackward {
  const void* dout;
  const uint8_t* argmax;
  const void* y;
  const float* norm[1]; // [4, C]
  void* g;
  float* sums; // [parts, 2, C]: Σg, Σg·xhat
  PoolShape shape;
  Rows rows; // of y
  bool relu;
};
cudaError_t launch_bn_act_maxpool_bwd_reduce(const PoolBackward& problem, Storage storage, int numbers,
                                             cudaStream_t stream);

} // namespace fused_resnet::cuda
