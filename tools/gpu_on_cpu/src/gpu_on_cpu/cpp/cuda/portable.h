// Launches, warp-level matrix instructions and asynchronous copies for kernels that are compiled by nvcc and by the
// emulator alike: inline PTX for a GPU (sm_80 and newer), emulated otherwise. Include it as "cuda/portable.h".
//
//   launch(kernel, grid, block, dynamic_shared, stream, params)
//                                    starts a kernel whose only parameter is a struct; returns what went wrong
//   mma_m16n8k16<T>(d, a, b, c)      d = a * b + c; T is __half or __nv_bfloat16, two in each register
//   mma_m16n8k8_tf32(d, a, b, c)     the same of tf32 numbers; to_tf32(x) makes one
//   ldmatrix<TRANSPOSED>(r, row)     N = 1, 2 or 4 8x8 matrices of 16-bit numbers; lane 8 * i + j has row j of matrix i
//   cp_async<BYTES>(to, from, valid) copies `valid` bytes to shared memory and fills the rest of BYTES with zeros
//   cp_async_commit(), cp_async_wait<GROUPS>(), cp_async_wait_all()
#pragma once

#if defined(GPU_ON_CPU_EMULATOR)
#include "launch.h"
#include "tensor_core.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace portable {

// What a block gets without asking; a kernel that wants more must be told so before it is launched.
constexpr size_t FREE_SHARED = 48 << 10;

template <class Params>
cudaError_t launch(void (*kernel)(Params), dim3 grid, dim3 block, size_t dynamic_shared, cudaStream_t stream, const Params& params) {
  if (dynamic_shared > FREE_SHARED &&
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(dynamic_shared)) != cudaSuccess)
    return cudaGetLastError();
  kernel<<<grid, block, dynamic_shared, stream>>>(params);
  return cudaGetLastError();
}

#define PORTABLE_MMA(shape, types)                                                                                        \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." types ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};" \
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]))

template <class T>
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  if constexpr (std::is_same_v<T, __half>)
    PORTABLE_MMA("m16n8k16", "f16.f16");
  else
    PORTABLE_MMA("m16n8k16", "bf16.bf16");
}

__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
  PORTABLE_MMA("m16n8k8", "tf32.tf32");
}
#undef PORTABLE_MMA

__device__ inline uint32_t to_tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

// The asm statements that touch shared memory have a "memory" clobber: the compiler must not move accesses over them.
template <bool TRANSPOSED = false, int N>
__device__ inline void ldmatrix(uint32_t (&r)[N], const void* row) {
  static_assert(N == 1 || N == 2 || N == 4);
  const uint32_t s = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (N == 1 && !TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(s) : "memory");
  else if constexpr (N == 1)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(s) : "memory");
  else if constexpr (N == 2 && !TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(s) : "memory");
  else if constexpr (N == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(s)
                 : "memory");
  else if constexpr (!TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(s)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(s)
                 : "memory");
}

template <int BYTES>
__device__ inline void cp_async(void* to, const void* from, int valid = BYTES) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  const uint32_t s = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const size_t g = __cvta_generic_to_global(from);
  if constexpr (BYTES == 16)  // past the L1 cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(s), "l"(g), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(s), "l"(g), "n"(BYTES), "r"(valid) : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS>
__device__ inline void cp_async_wait() {
  static_assert(GROUPS >= 0);
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}
__device__ inline void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace portable
#endif
