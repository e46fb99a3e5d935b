// Launchers of the kernels that read each element once and write one.
#pragma once

#include "rows.h"

namespace fused_resnet::cuda {

// act(scale*y + shift + r): r is nothing, the residual, or with residual_norm its BN.
struct BnAct {
  const void* y;
  const float* norm; // [4, C]
  const void* residual;
  const float* residual_norm;
  void* out;
  Rows rows;
  bool relu;
};
cudaError_t launch_bn_act(const BnAct& problem, Storage storage, int numbers, cudaStream_t stream);

// a*g + b*y + c, without y a*g.
struct BnBackwardApply {
  const void *g, *y;
  const float* dnorm; // [3, C]
  void* dy;
  Rows rows;
};
cudaError_t launch_bn_act_bwd_apply(const BnBackwardApply& problem, Storage storage, int numbers, cudaStream_t stream);

} // namespace fused_resnet::cuda
