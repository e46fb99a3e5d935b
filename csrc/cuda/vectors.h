// Launchers of the kernels on per-channel vectors.
#pragma once

#include "dtypes.h"

namespace fused_resnet::cuda {

// A module's own vector; null: none.
struct StoredVector {
  void* at;
  Storage storage;
};

// invstd = 1/sqrt(var + eps), scale = weight*invstd, shift = bias - mean*scale.
struct Finalize {
  const float *mean, *var;
  StoredVector weight, bias;
  float* norm; // [4, C]
  int channels;
  float eps;
};
cudaError_t launch_bn_finalize(const Finalize& problem, cudaStream_t stream);

// running += momentum*(batch - running), the batch's variance times `correction`.
struct UpdateRunning {
  StoredVector running_mean, running_var;
  const float *mean, *var;
  int channels;
  float momentum, correction;
};
cudaError_t launch_bn_update_running(const UpdateRunning& problem, cudaStream_t stream);

// a = scale, b = -a*invstd*Σg·xhat/M, c = -a*Σg/M - b*mean.
struct BackwardFinalize {
  const float* sums; // [2, C]
  const float* norm; // [4, C]
  float* dnorm;      // [3, C]
  int channels;
  float count;
};
cudaError_t launch_bn_bwd_finalize(const BackwardFinalize& problem, cudaStream_t stream);

} // namespace fused_resnet::cuda
