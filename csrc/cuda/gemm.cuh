// Products of tiles on tensor cores: acc [M, N] += A [M, depth] * B [depth, N], pipelined through shared memory.
//
// What A and B are is the operands' business (operands.cuh), what becomes of acc the epilogue's (epilogues.cuh): a new
// fusion is a new type there, the loop below stays.
#pragma once

#include "cuda/portable.h"
#include "numbers.cuh"

namespace fused_resnet::cuda {

// Tiles of each operand in shared memory: one is multiplied, the others are on their way.
constexpr int STAGES = 3;

// M x N results of a block, split between WARPS_M x WARPS_N warps.
template <int M_, int N_, int WARPS_M_, int WARPS_N_>
struct Tile {
  static constexpr int M = M_, N = N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
  static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
  static constexpr int BLOCKS = THREADS <= 128 ? 3 : 2; // on a multiprocessor at once: 168 registers a thread, or 128
  static constexpr int WARP_M = M / WARPS_M, WARP_N = N / WARPS_N;
  static constexpr int FRAGMENTS_M = WARP_M / 16, FRAGMENTS_N = WARP_N / 8;
  static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0);
};

template <class Tile>
using Accumulators = float[Tile::FRAGMENTS_M][Tile::FRAGMENTS_N][4];

// Which index of an operand runs fastest in memory: the one that is summed over, or the other.
enum class Order { depth_inner, depth_outer };

// A tile of an operand in shared memory: rows of 16-byte chunks, of which a row's are permuted so that neither the
// copies nor the reads of fragments below have two lanes in one bank.
template <class T_, Order ORDER_, int EXTENT_, int DEPTH_>
struct SharedTile {
  using T = T_;
  static constexpr Order ORDER = ORDER_;
  static constexpr int EXTENT = EXTENT_, DEPTH = DEPTH_, SIZE = EXTENT * DEPTH;
  static constexpr int ROWS = ORDER == Order::depth_inner ? EXTENT : DEPTH, WIDTH = SIZE / ROWS;
  static constexpr int CHUNK = PER_16_BYTES<T>, CHUNKS = WIDTH / CHUNK;
  static_assert(CHUNKS >= 1 && (CHUNKS & (CHUNKS - 1)) == 0);

  // Offset of an element's chunk. 128 bytes have 8 chunks, in 1 row or several short ones.
  __device__ static int at(int row, int chunk) {
    constexpr int ROWS_OF_128_BYTES = CHUNKS >= 8 ? 1 : 8 / CHUNKS;
    // Words of transposed fragments are read one by one: 4 rows, 2 neighbouring chunks of each.
    constexpr int PAIRS = ORDER == Order::depth_outer && sizeof(T) == 4;
    const int key = (row / ROWS_OF_128_BYTES << PAIRS) & (CHUNKS >= 8 ? 7 : CHUNKS - 1);
    return row * WIDTH + (chunk ^ key) * CHUNK;
  }
  __device__ static uint32_t word(const T* tile, int row, int column) {
    static_assert(sizeof(T) == 4);
    return __float_as_uint(tile[at(row, column / CHUNK) + column % CHUNK]);
  }
};

// Depth of one tensor core instruction: 32 bytes.
template <class T>
constexpr int STEP = 32 / static_cast<int>(sizeof(T));

// Rows first..first+15 of A as mma wants them (PTX ISA, "Matrix fragments for mma.m16n8k16" and ".m16n8k8").
template <class Shared>
__device__ inline void read_a(uint32_t (&a)[4], const typename Shared::T* tile, int first, int step) {
  using T = typename Shared::T;
  const int lane = threadIdx.x % 32;
  if constexpr (Shared::ORDER == Order::depth_inner) {
    portable::ldmatrix(a, tile + Shared::at(first + lane % 16, 2 * step + lane / 16));
  } else if constexpr (sizeof(T) == 2) {
    const int depth = step * STEP<T> + lane % 8 + lane / 16 * 8;
    portable::ldmatrix<true>(a, tile + Shared::at(depth, first / 8 + lane / 8 % 2));
  } else {
    for (int i = 0; i < 4; ++i)
      a[i] = Shared::word(tile, step * STEP<T> + lane % 4 + i / 2 * 4, first + lane / 4 + i % 2 * 8);
  }
}

// Columns first..first+15 of B, two fragments of 8.
template <class Shared>
__device__ inline void read_b(uint32_t (&b)[2][2], const typename Shared::T* tile, int first, int step) {
  using T = typename Shared::T;
  const int lane = threadIdx.x % 32;
  if constexpr (Shared::ORDER == Order::depth_outer && sizeof(T) == 4) {
    for (int i = 0; i < 4; ++i)
      b[i / 2][i % 2] = Shared::word(tile, step * STEP<T> + lane % 4 + i % 2 * 4, first + i / 2 * 8 + lane / 4);
  } else {
    uint32_t both[4];
    if constexpr (Shared::ORDER == Order::depth_inner)
      portable::ldmatrix(both, tile + Shared::at(first + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
    else
      portable::ldmatrix<true>(both, tile + Shared::at(step * STEP<T> + lane % 16, first / 8 + lane / 16));
    for (int i = 0; i < 4; ++i) b[i / 2][i % 2] = both[i];
  }
}

template <class T>
__device__ inline void multiply_add(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (sizeof(T) == 4)
    portable::mma_m16n8k8_tf32(sum, a, b, sum);
  else
    portable::mma_m16n8k16<T>(sum, a, b, sum);
}

// acc += the product of two tiles in shared memory.
template <class Tile, class A, class B>
__device__ inline void multiply_tiles(Accumulators<Tile>& acc, const typename A::T* a_tile,
                                      const typename B::T* b_tile) {
  using T = typename A::T;
  const int warp = threadIdx.x / 32;
  const int row = warp % Tile::WARPS_M * Tile::WARP_M, column = warp / Tile::WARPS_M * Tile::WARP_N;
  // Of transposed operands one step at a time: fragments of the next one would cost registers.
#pragma unroll(A::ORDER == Order::depth_inner ? A::DEPTH / STEP<T> : 1)
  for (int step = 0; step < A::DEPTH / STEP<T>; ++step) {
    uint32_t a[Tile::FRAGMENTS_M][4], b[Tile::FRAGMENTS_N / 2][2][2];
#pragma unroll
    for (int i = 0; i < Tile::FRAGMENTS_M; ++i) read_a<A>(a[i], a_tile, row + 16 * i, step);
#pragma unroll
    for (int j = 0; j < Tile::FRAGMENTS_N / 2; ++j) read_b<B>(b[j], b_tile, column + 16 * j, step);
#pragma unroll
    for (int i = 0; i < Tile::FRAGMENTS_M; ++i)
#pragma unroll
      for (int j = 0; j < Tile::FRAGMENTS_N; ++j) multiply_add<T>(acc[i][j], a[i], b[j / 2][j % 2]);
  }
}

// Elements of shared memory that the pipeline of two operands needs.
template <class A, class B>
constexpr int PIPELINE_SIZE = STAGES * (A::STAGE_SIZE + B::STAGE_SIZE);

// acc += A * B over `steps` tiles of depth. The memory is free again when it returns. With `same`, B is A: the
// product of a tile with itself reads it once.
template <class Tile, class A, class B>
__device__ inline void multiply(Accumulators<Tile>& acc, A& a, B& b, int steps, typename A::T* memory,
                                bool same = false) {
  using T = typename A::T;
  T* const a_memory = memory;
  T* const b_memory = memory + STAGES * A::STAGE_SIZE;
  auto fetch = [&](int step) {
    if (step < steps) {
      a.fetch(step, a_memory + step % STAGES * A::STAGE_SIZE);
      if (!same) b.fetch(step, b_memory + step % STAGES * B::STAGE_SIZE);
    }
    portable::cp_async_commit(); // an empty group, too, so that counting groups counts steps
  };
  for (int step = 0; step < STAGES - 1; ++step) fetch(step);
  for (int step = 0; step < steps; ++step) {
    T* const a_tile = a_memory + step % STAGES * A::STAGE_SIZE;
    T* const b_tile = b_memory + step % STAGES * B::STAGE_SIZE;
    portable::cp_async_wait<STAGES - 2>();
    a.finish(step, a_tile);
    if (!same) b.finish(step, b_tile);
    __syncthreads(); // this step's tiles are complete, and everybody is done with those of the step before
    fetch(step + STAGES - 1);
    multiply_tiles<Tile, typename A::Shared, typename B::Shared>(acc, a_tile, same ? a_tile : b_tile);
  }
  __syncthreads(); // all copies have arrived: the last groups are empty
}

// Position of a block among tiles_m x tiles_n tiles: GROUP tiles of rows share their columns' operand while it is in L2.
__device__ inline void tile_of(int block, int tiles_m, int tiles_n, int& tile_m, int& tile_n) {
  constexpr int GROUP = 8;
  const int first = block / (GROUP * tiles_n) * GROUP;
  const int height = min(tiles_m - first, GROUP);
  const int inside = block % (GROUP * tiles_n);
  tile_m = first + inside % height;
  tile_n = inside / height;
}

} // namespace fused_resnet::cuda
