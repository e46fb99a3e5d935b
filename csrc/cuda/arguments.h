// Argument checks and conversions that the ops share, and where they run.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <cuda_runtime_api.h>

#include <array>
#include <optional>
#include <string>

#include "dtypes.h"
#ifndef FUSED_RESNET_EMULATED
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace fused_resnet::cuda {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Pair = std::array<int64_t, 2>;

// While it lives, the device of a tensor is the current one; `stream` is the caller's.
#ifdef FUSED_RESNET_EMULATED // the same host code, around kernels that run on the CPU
struct Device {
  explicit Device(const Tensor&) {}
  static bool has(const Tensor& t) { return t.is_cpu(); }
  cudaStream_t stream = nullptr;
};
#else
struct Device {
  explicit Device(const Tensor& t) : guard(t.device()), stream(c10::cuda::getCurrentCUDAStream()) {}
  static bool has(const Tensor& t) { return t.is_cuda(); }
  c10::cuda::CUDAGuard guard;
  cudaStream_t stream;
};
#endif

inline void check_launch(cudaError_t error, const char* op) {
  TORCH_CHECK(error == cudaSuccess, op, ": the launch failed: ", cudaGetErrorString(error));
}

// The Python side has checked everything; this guards the raw pointers against a direct call.
inline void check_activation(const Tensor& t, const char* name) {
  TORCH_CHECK(Device::has(t) && t.dim() == 4 && t.is_contiguous(at::MemoryFormat::ChannelsLast), name,
              ": expected a dense channels_last CUDA tensor, got sizes ", t.sizes(), ", strides ", t.strides(), " on ",
              t.device());
  TORCH_CHECK(t.numel() > 0, name, ": expected at least one element, got sizes ", t.sizes());
}

inline void check_like(const Tensor& t, const Tensor& other, const char* name) {
  check_activation(t, name);
  TORCH_CHECK(t.sizes() == other.sizes() && t.scalar_type() == other.scalar_type() && t.device() == other.device(), name,
              ": expected ", other.scalar_type(), " of sizes ", other.sizes(), " on ", other.device(), ", got ",
              t.scalar_type(), " of sizes ", t.sizes(), " on ", t.device());
}

// `rows` fp32 vectors of `channels` each, dense.
inline const float* check_vectors(const Tensor& t, int64_t rows, int64_t channels, const char* name) {
  TORCH_CHECK(Device::has(t) && t.scalar_type() == at::kFloat && t.is_contiguous() && t.numel() == rows * channels &&
                  t.size(-1) == channels,
              name, ": expected ", rows, " contiguous fp32 vectors of ", channels, " channels, got ", t.scalar_type(),
              " of sizes ", t.sizes(), " on ", t.device());
  return t.const_data_ptr<float>();
}

inline const float* check_vectors(const OptionalTensor& t, int64_t rows, int64_t channels, const char* name) {
  return t ? check_vectors(*t, rows, channels, name) : nullptr;
}

inline bool is_relu(const std::string& act, const char* name) {
  TORCH_CHECK(act == "relu" || act == "identity", name, ": expected relu or identity, got ", act);
  return act == "relu";
}

inline Storage storage_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case at::kFloat: return Storage::fp32;
    case at::kHalf: return Storage::fp16;
    case at::kBFloat16: return Storage::bf16;
    default: TORCH_CHECK(false, name, ": expected fp32, fp16 or bf16, got ", t.scalar_type());
  }
}

inline int64_t pixels(const Tensor& t) { return t.numel() / t.size(1); }

inline const void* data(const Tensor& t) { return t.const_data_ptr(); }
inline const void* data(const OptionalTensor& t) { return t ? t->const_data_ptr() : nullptr; }

// An uninitialised NHWC activation of this size.
inline Tensor new_activation(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w) {
  return at::empty({n, c, h, w}, like.options(), at::MemoryFormat::ChannelsLast);
}

// Uninitialised fp32 values.
inline Tensor new_vectors(const Tensor& like, at::IntArrayRef size) {
  return at::empty(size, like.options().dtype(at::kFloat));
}
inline float* floats(Tensor& t) { return t.mutable_data_ptr<float>(); }

} // namespace fused_resnet::cuda
