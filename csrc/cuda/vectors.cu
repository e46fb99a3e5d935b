// Coefficients of BN and of its backward, and running statistics: a thread for each channel.
#include "vectors.h"

#include "cuda/portable.h"
#include "numbers.cuh"

namespace fused_resnet::cuda {

constexpr int CHANNELS = 128; // of a block

__device__ inline float read(const StoredVector& v, int i) {
  switch (v.storage) {
    case Storage::bf16: return to_float(static_cast<const __nv_bfloat16*>(v.at)[i]);
    case Storage::fp16: return to_float(static_cast<const __half*>(v.at)[i]);
    default: return static_cast<const float*>(v.at)[i];
  }
}

__device__ inline void write(const StoredVector& v, int i, float value) {
  switch (v.storage) {
    case Storage::bf16: static_cast<__nv_bfloat16*>(v.at)[i] = from_float<__nv_bfloat16>(value); break;
    case Storage::fp16: static_cast<__half*>(v.at)[i] = from_float<__half>(value); break;
    default: static_cast<float*>(v.at)[i] = value;
  }
}

__global__ void __launch_bounds__(CHANNELS) bn_finalize(Finalize p) {
  const int c = blockIdx.x * CHANNELS + threadIdx.x;
  if (c >= p.channels) return;
  const float mean = p.mean[c], invstd = __fdiv_rn(1.f, __fsqrt_rn(p.var[c] + p.eps));
  const float scale = p.weight.at ? read(p.weight, c) * invstd : invstd;
  p.norm[c] = mean;
  p.norm[p.channels + c] = invstd;
  p.norm[2 * p.channels + c] = scale;
  p.norm[3 * p.channels + c] = p.bias.at ? __fmaf_rn(-mean, scale, read(p.bias, c)) : -mean * scale;
}

// As torch.lerp: with momentum 1 it ends at the batch's value.
__device__ inline void move(const StoredVector& running, int c, float batch, float momentum) {
  const float start = read(running, c), way = batch - start;
  write(running, c, momentum < 0.5f ? __fmaf_rn(momentum, way, start) : __fmaf_rn(momentum - 1.f, way, batch));
}

__global__ void __launch_bounds__(CHANNELS) bn_update_running(UpdateRunning p) {
  const int c = blockIdx.x * CHANNELS + threadIdx.x;
  if (c >= p.channels) return;
  move(p.running_mean, c, p.mean[c], p.momentum);
  move(p.running_var, c, p.var[c] * p.correction, p.momentum);
}

__global__ void __launch_bounds__(CHANNELS) bn_bwd_finalize(BackwardFinalize p) {
  const int channel = blockIdx.x * CHANNELS + threadIdx.x;
  if (channel >= p.channels) return;
  const float* const norm = p.norm + channel;
  const float mean = norm[0], invstd = norm[p.channels], a = norm[2 * p.channels];
  const float b = __fdiv_rn(-a * invstd * p.sums[p.channels + channel], p.count);
  float* const dnorm = p.dnorm + channel;
  dnorm[0] = a;
  dnorm[p.channels] = b;
  dnorm[2 * p.channels] = __fmaf_rn(-b, mean, __fdiv_rn(-a * p.sums[channel], p.count));
}

template <class Params>
static cudaError_t launch(void (*kernel)(Params), const Params& problem, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(cdiv(problem.channels, CHANNELS));
  return portable::launch(kernel, dim3(blocks), dim3(CHANNELS), 0, stream, problem);
}

cudaError_t launch_bn_finalize(const Finalize& problem, cudaStream_t stream) {
  return launch(bn_finalize, problem, stream);
}

cudaError_t launch_bn_update_running(const UpdateRunning& problem, cudaStream_t stream) {
  return launch(bn_update_running, problem, stream);
}

cudaError_t launch_bn_bwd_finalize(const BackwardFinalize& problem, cudaStream_t stream) {
  return launch(bn_bwd_finalize, problem, stream);
}

} // namespace fused_resnet::cuda
