// A 3x3 convolution (stride 1, padding 1) of NHWC images as an implicit matrix product on tensor cores, with the sums
// and sums of squares of every output channel that a batch normalisation needs. One source for nvcc and the emulator.
//
// y[m, k] = sum over r, s, c of x[n, h + r - 1, w + s - 1, c] * weights[k, r, s, c], where m counts the pixels n, h, w.
// C must be a multiple of 32 and K of 8.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda/portable.h"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32;  // of a block; each of 4 warps computes 32 x 32 of it
constexpr int THREADS = 128, STAGES = 2;
constexpr int ROW = TILE_K + 8;  // numbers in a row of shared memory: rows start in different banks

template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline __half from_float(float x) { return __float2half(x); }
template <>
__device__ inline __nv_bfloat16 from_float(float x) { return __float2bfloat16(x); }

struct Shape {
  int N, H, W, C, K;
};

// Copies step `step` of the operands to shared memory: tap (r, s) and TILE_K channels.
template <class T>
__device__ inline void load_step(const T* x, const T* weights, T* a, T* b, Shape shape, int step) {
  constexpr int PIECE = 8, PIECES = TILE_K / PIECE;  // numbers in 16 bytes
  const auto [N, H, W, C, K] = shape;
  const int tap = step / (C / TILE_K), channel = step % (C / TILE_K) * TILE_K;
  for (int i = threadIdx.x; i < TILE_M * PIECES; i += THREADS) {
    const int row = i / PIECES, column = i % PIECES * PIECE, m = blockIdx.x * TILE_M + row;
    const int w = m % W + tap % 3 - 1, h = m / W % H + tap / 3 - 1, n = m / (W * H);
    const bool inside = n < N && h >= 0 && h < H && w >= 0 && w < W;
    const T* from = inside ? x + ((static_cast<long>(n) * H + h) * W + w) * C + channel + column : x;
    portable::cp_async<16>(a + row * ROW + column, from, inside ? 16 : 0);
  }
  for (int i = threadIdx.x; i < TILE_N * PIECES; i += THREADS) {
    const int row = i / PIECES, column = i % PIECES * PIECE, k = blockIdx.y * TILE_N + row;
    const T* from = k < K ? weights + (static_cast<long>(k) * 9 + tap) * C + channel + column : weights;
    portable::cp_async<16>(b + row * ROW + column, from, k < K ? 16 : 0);
  }
  portable::cp_async_commit();
}

// Adds the product of a warp's 32 rows of A and 32 rows of B (in shared memory) to `sum`.
template <class T>
__device__ inline void multiply_step(const T* a, const T* b, float (&sum)[2][4][4]) {
  const int lane = threadIdx.x % 32;
  for (int k = 0; k < TILE_K; k += 16) {
    uint32_t a_fragment[2][4], b_fragment[4][2];
    for (int i = 0; i < 2; i++) portable::ldmatrix(a_fragment[i], a + (i * 16 + lane % 16) * ROW + k + lane / 16 * 8);
    for (int j = 0; j < 4; j += 2) {
      uint32_t both[4];
      portable::ldmatrix(both, b + (j * 8 + lane % 8 + lane / 16 * 8) * ROW + k + lane / 8 % 2 * 8);
      b_fragment[j][0] = both[0], b_fragment[j][1] = both[1];
      b_fragment[j + 1][0] = both[2], b_fragment[j + 1][1] = both[3];
    }
    for (int i = 0; i < 2; i++)
      for (int j = 0; j < 4; j++) portable::mma_m16n8k16<T>(sum[i][j], a_fragment[i], b_fragment[j], sum[i][j]);
  }
}

// Stores y, and for each channel the block's sum and sum of squares of what was stored.
template <class T>
__device__ inline void store(const float (&sum)[2][4][4], T* y, float* sums, float* squares, int M, int K) {
  __shared__ float partial[2][2][TILE_N];  // [warp row][sum or squares][channel]
  const int lane = threadIdx.x % 32, warp_m = threadIdx.x / 32 % 2, warp_n = threadIdx.x / 64;
  for (int j = 0; j < 4; j++)
    for (int half = 0; half < 2; half++) {
      const int column = warp_n * 32 + j * 8 + lane % 4 * 2 + half, k = blockIdx.y * TILE_N + column;
      float s = 0, q = 0;
      for (int i = 0; i < 2; i++)
        for (int v = 0; v < 2; v++) {
          const int m = blockIdx.x * TILE_M + warp_m * 32 + i * 16 + lane / 4 + v * 8;
          if (m >= M || k >= K) continue;
          const T rounded = from_float<T>(sum[i][j][v * 2 + half]);
          y[static_cast<long>(m) * K + k] = rounded;
          const float f = static_cast<float>(rounded);
          s += f, q += f * f;
        }
      for (int distance = 4; distance < 32; distance *= 2) {  // over the lanes with the same column
        s += __shfl_xor_sync(~0u, s, distance);
        q += __shfl_xor_sync(~0u, q, distance);
      }
      if (lane < 4) partial[warp_m][0][column] = s, partial[warp_m][1][column] = q;
    }
  __syncthreads();
  const int column = threadIdx.x, k = blockIdx.y * TILE_N + column;
  if (column < TILE_N && k < K) {
    sums[blockIdx.x * K + k] = partial[0][0][column] + partial[1][0][column];
    squares[blockIdx.x * K + k] = partial[0][1][column] + partial[1][1][column];
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    conv3x3(const T* __restrict__ x, const T* __restrict__ weights, T* __restrict__ y, float* __restrict__ sums,
            float* __restrict__ squares, Shape shape) {
  extern __shared__ __align__(128) unsigned char memory[];
  T* const a = reinterpret_cast<T*>(memory);
  T* const b = a + STAGES * TILE_M * ROW;
  const int warp_m = threadIdx.x / 32 % 2, warp_n = threadIdx.x / 64, steps = 9 * (shape.C / TILE_K);
  float sum[2][4][4] = {};
  load_step(x, weights, a, b, shape, 0);
  for (int step = 0; step < steps; step++) {
    const int stage = step % STAGES, next = (step + 1) % STAGES;
    if (step + 1 < steps) {
      load_step(x, weights, a + next * TILE_M * ROW, b + next * TILE_N * ROW, shape, step + 1);
      portable::cp_async_wait<1>();
    } else {
      portable::cp_async_wait<0>();
    }
    __syncthreads();
    multiply_step(a + (stage * TILE_M + warp_m * 32) * ROW, b + (stage * TILE_N + warp_n * 32) * ROW, sum);
    __syncthreads();  // before the next copies overwrite what other warps may still read
  }
  store(sum, y, sums, squares, shape.N * shape.H * shape.W, shape.K);
}

// `sums` and `squares` have a row of K numbers for each block of 64 pixels.
template <class T>
void launch(const void* x, const void* weights, void* y, float* sums, float* squares, Shape shape, cudaStream_t stream) {
  const size_t shared = STAGES * (TILE_M + TILE_N) * ROW * sizeof(T);
  const dim3 grid((shape.N * shape.H * shape.W + TILE_M - 1) / TILE_M, (shape.K + TILE_N - 1) / TILE_N);
  conv3x3<T><<<grid, THREADS, shared, stream>>>(static_cast<const T*>(x), static_cast<const T*>(weights), static_cast<T*>(y),
                                               sums, squares, shape);
}

extern "C" void conv3x3_bf16(const void* x, const void* weights, void* y, float* sums, float* squares, int N, int H, int W,
                             int C, int K, cudaStream_t stream) {
  launch<__nv_bfloat16>(x, weights, y, sums, squares, Shape{N, H, W, C, K}, stream);
}
extern "C" void conv3x3_fp16(const void* x, const void* weights, void* y, float* sums, float* squares, int N, int H, int W,
                             int C, int K, cudaStream_t stream) {
  launch<__half>(x, weights, y, sums, squares, Shape{N, H, W, C, K}, stream);
}
