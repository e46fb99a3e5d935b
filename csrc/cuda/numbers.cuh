// Numbers in storage and in registers. Every rounding is written in the source: the sources are compiled without
// contraction, and __fmaf_rn is where one rounding is wanted, so that kernels agree bit for bit on the sign of a value.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace fused_resnet::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float(float x) { return x; }
template <>
__device__ inline __half from_float(float x) { return __float2half_rn(x); }
template <>
__device__ inline __nv_bfloat16 from_float(float x) { return __float2bfloat16_rn(x); }

// Numbers in 16 bytes.
template <class T>
constexpr int PER_16_BYTES = 16 / static_cast<int>(sizeof(T));

// N neighbours, read and written at once: their address is a multiple of their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

template <int N, class T>
__device__ inline Vector<T, N> load(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}
template <int N, class T>
__device__ inline void store(T* to, const Vector<T, N>& values) {
  *reinterpret_cast<Vector<T, N>*>(to) = values;
}

// N numbers rounded to storage, two at a time where there is an instruction for it.
template <class T, int N>
__device__ inline Vector<T, N> rounded(const float (&v)[N]) {
  Vector<T, N> result;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    for (int i = 0; i < N; i += 2) {
      if constexpr (std::is_same_v<T, __half>) {
        const __half2 both = __floats2half2_rn(v[i], v[i + 1]);
        result.at[i] = both.x, result.at[i + 1] = both.y;
      } else {
        const __nv_bfloat162 both = __floats2bfloat162_rn(v[i], v[i + 1]);
        result.at[i] = both.x, result.at[i + 1] = both.y;
      }
    }
  } else {
    for (int i = 0; i < N; ++i) result.at[i] = from_float<T>(v[i]);
  }
  return result;
}

// N floats at an address that 16 bytes divide if N is a multiple of 4.
template <int N>
__device__ inline void load_floats(float (&values)[N], const float* from) {
  constexpr int AT_ONCE = N % 4 == 0 ? 4 : 1;
  for (int i = 0; i < N; i += AT_ONCE) {
    const auto some = load<AT_ONCE>(from + i);
    for (int j = 0; j < AT_ONCE; ++j) values[i + j] = some.at[j];
  }
}
template <int N>
__device__ inline void store_floats(float* to, const float (&values)[N]) {
  constexpr int AT_ONCE = N % 4 == 0 ? 4 : 1;
  for (int i = 0; i < N; i += AT_ONCE) {
    Vector<float, AT_ONCE> some;
    for (int j = 0; j < AT_ONCE; ++j) some.at[j] = values[i + j];
    store(to + i, some);
  }
}

// max(z, 0), NaN staying NaN as in torch.
__device__ inline float relu(float z) { return z < 0.f ? 0.f : z; }

// act(scale*y + shift).
__device__ inline float norm_act(float y, float scale, float shift, bool with_relu) {
  const float z = __fmaf_rn(y, scale, shift);
  return with_relu ? relu(z) : z;
}

// Whether the activation of scale*y + shift stops the gradient; NaN lets it pass, as in torch.
__device__ inline bool stopped(float y, float scale, float shift, bool with_relu) {
  return with_relu && __fmaf_rn(y, scale, shift) <= 0.f;
}

// BN's backward a*g + b*y + c.
__device__ inline float norm_backward(float g, float y, float a, float b, float c) {
  return __fmaf_rn(g, a, __fmaf_rn(y, b, c));
}

} // namespace fused_resnet::cuda
