// Kernels with one planted bug each, and their correct forms.
#include <cuda_runtime.h>

#include "cuda/portable.h"

template <bool BEFORE, bool AFTER>
__global__ void reverse_twice(const float* x, float* y) {
  __shared__ float tile[96];
  for (int round = 0; round < 2; round++) {
    tile[threadIdx.x] = x[threadIdx.x] + round;
    if (BEFORE) __syncthreads();
    y[round * 96 + threadIdx.x] = tile[95 - threadIdx.x];
    if (AFTER) __syncthreads();
  }
}
extern "C" void correct(const float* x, float* y) { reverse_twice<true, true><<<1, 96>>>(x, y); }
extern "C" void no_barrier_before(const float* x, float* y) { reverse_twice<false, true><<<1, 96>>>(x, y); }
extern "C" void no_barrier_after(const float* x, float* y) { reverse_twice<true, false><<<1, 96>>>(x, y); }

__global__ void global_race(float* y) {
  y[threadIdx.x] = 1;
  y[(threadIdx.x + 1) % 64] += 1;
}
extern "C" void run_global_race(float* y) { global_race<<<1, 64>>>(y); }
__global__ void shuffle_is_no_barrier(float* y) {
  __shared__ float tile[32];
  tile[threadIdx.x] = threadIdx.x;
  const int zero = __shfl_sync(~0u, 0, 0);
  y[threadIdx.x] = tile[31 - threadIdx.x] + zero;
}
extern "C" void run_shuffle_is_no_barrier(float* y) { shuffle_is_no_barrier<<<1, 32>>>(y); }
__global__ void counter_race(int* y) { y[0] += 1; }
__global__ void counter_atomic(int* y) { atomicAdd(y, 1); }
extern "C" void run_counter(int* y, int atomic) {
  if (atomic) counter_atomic<<<2, 64>>>(y);
  else counter_race<<<2, 64>>>(y);
}

__global__ void divergent(float* y) {
  if (threadIdx.x < 40) {
    __syncthreads();
    y[0] = 1;
  } else {
    __syncwarp(0x80000000u >> (63 - threadIdx.x < 32 ? 63 - threadIdx.x : 0));
    __shfl_sync(0xffffffffu, 1, 0);
  }
}
extern "C" void run_divergent(float* y) { divergent<<<1, 64>>>(y); }
__global__ void two_barriers(float* y) {
  if (threadIdx.x < 40)
    __syncthreads();
  else
    __syncthreads();
  y[0] = 1;
}
extern "C" void run_two_barriers(float* y) { two_barriers<<<1, 64>>>(y); }
__global__ void lane_not_in_mask(float* y) { y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }
extern "C" void run_lane_not_in_mask(float* y) { lane_not_in_mask<<<1, 32>>>(y); }
__global__ void source_not_in_mask(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}
extern "C" void run_source_not_in_mask(float* y) { source_not_in_mask<<<1, 32>>>(y); }
__global__ void mixed(float* y) {
  if (threadIdx.x < 16) y[0] = __shfl_sync(~0u, 1, 0);
  else y[1] = __any_sync(~0u, 1);
}
extern "C" void run_mixed(float* y) { mixed<<<1, 32>>>(y); }

__global__ void past_the_end(const float* x, float* y, int offset) {
  const int t = threadIdx.x;
  y[t] = x[t + offset];
}
extern "C" void run_past_the_end(const float* x, float* y, int offset) { past_the_end<<<2, 32>>>(x, y, offset); }
__global__ void write_past(float* y, int offset) { y[threadIdx.x + offset] = 1; }
extern "C" void run_write_past(float* y, int offset) { write_past<<<1, 32>>>(y, offset); }
template <class T>
__global__ void past_static(T* y, int offset) {
  __shared__ T tile[33];
  T* p = tile;
  p[threadIdx.x + offset] = 1;
  y[threadIdx.x] = p[threadIdx.x + offset];
}
extern "C" void run_past_static(float* y, int offset) { past_static<<<1, 32>>>(y, offset); }
__global__ void past_dynamic(float* y, int offset) {
  extern __shared__ float tile[];
  tile[threadIdx.x + offset] = 1;
  y[threadIdx.x] = tile[threadIdx.x + offset];
}
extern "C" void run_past_dynamic(float* y, int offset) { past_dynamic<<<1, 32, 33 * 4>>>(y, offset); }
__global__ void misaligned(const float* x, float* y) {
  const float4 v = *reinterpret_cast<const float4*>(x + 1);
  y[0] = v.x + v.w;
}
extern "C" void run_misaligned(const float* x, float* y) { misaligned<<<1, 1>>>(x, y); }
__global__ void overflow(int* y, int kind) {
  if (kind == 0) y[0] = y[1] + 1;
  if (kind == 1) y[0] = 1 << y[2];
  if (kind == 2) y[0] = y[1] / y[3];
}
extern "C" void run_overflow(int* y, int kind) { overflow<<<1, 1>>>(y, kind); }

__global__ void stale(float* y) {
  __shared__ float tile[32];
  if (blockIdx.x == 0) tile[threadIdx.x] = 1;
  y[blockIdx.x * 32 + threadIdx.x] = tile[threadIdx.x];
}
extern "C" void run_stale(float* y) { stale<<<2, 32>>>(y); }

__global__ void copy(const float* x, float* y, int kind) {
  __shared__ __align__(16) float tile[8];
  __shared__ float odd[5];
  if (kind == 3) portable::cp_async<16>(tile + 1, x);
  else if (kind == 4) portable::cp_async<4>(y, x);
  else if (kind == 5) portable::cp_async<16>(tile, x, 17);
  else portable::cp_async<16>(tile, x);
  if (kind != 2) portable::cp_async_commit();
  if (kind == 1) y[0] = tile[0];
  if (kind == 0 || kind == 1) portable::cp_async_wait<0>();
  if (kind == 0) y[0] = tile[0];
  odd[0] = 1;
}
extern "C" void run_copy(const float* x, float* y, int kind) { copy<<<1, 1>>>(x, y, kind); }
__global__ void unaligned_row(uint32_t* y) {
  __shared__ __align__(16) short tile[300];
  for (int i = threadIdx.x; i < 300; i += 32) tile[i] = 0;
  __syncwarp();
  uint32_t r[4];
  portable::ldmatrix(r, tile + threadIdx.x * 8 + 4);
  y[threadIdx.x] = r[0];
}
extern "C" void run_unaligned_row(uint32_t* y) { unaligned_row<<<1, 32>>>(y); }

__global__ void nothing() {}
extern "C" void run_launch(float* y, int threads, int bytes, int allowed) {
  if (allowed) cudaFuncSetAttribute((const void*)nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
  nothing<<<1, threads, bytes>>>();
  y[0] = 1;
}
__global__ void forever(int* y) {
  volatile int* p = y;
  while (*p == 0) {
  }
}
extern "C" void run_forever(int* y) { forever<<<1, 1>>>(y); }
__global__ void locked_out(int* y) {
  while (atomicCAS(y, 1, 2) != 1) {
  }
}
extern "C" void run_locked_out(int* y) { locked_out<<<1, 40>>>(y); }
__global__ void trap(int* y) {
  if (y[threadIdx.x]) __trap();
}
extern "C" void run_trap(int* y) { trap<<<1, 8>>>(y); }
extern "C" int failing(float* y) { return y[0] = 3, 7; }
