// A thread's part of the rows of rows.h, and how the threads of a block merge what they found.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/portable.h"
#include "numbers.cuh"
#include "rows.h"

namespace fused_resnet::cuda {

// Where a thread reads: N numbers at every offset from `begin` below `end`, `step` apart. Threads that are too many
// have no rows, and channels that exist.
struct Lane {
  int64_t part;             // of the matrix, this block's
  int64_t begin, end, step; // elements
  int row, column;          // among the threads of the block
  int channel;              // the first of N
  bool reads;
};

template <int N>
__device__ inline Lane lane_of(const Rows& rows) {
  Lane lane;
  const int tile = static_cast<int>(blockIdx.x % rows.tiles);
  lane.part = blockIdx.x / rows.tiles;
  lane.row = static_cast<int>(threadIdx.x) / rows.width;
  lane.column = static_cast<int>(threadIdx.x) % rows.width;
  const int channel = (tile * rows.width + lane.column) * N;
  lane.reads = lane.row < rows.height && channel < rows.channels;
  lane.channel = lane.reads ? channel : 0;
  lane.step = static_cast<int64_t>(rows.height) * rows.channels;
  lane.begin = (lane.part * rows.per_block + lane.row) * rows.channels + lane.channel;
  lane.end = lane.reads ? min(rows.count, (lane.part + 1) * rows.per_block) * rows.channels : lane.begin;
  return lane;
}

// N neighbours as the registers that they are loaded into. A Vector is taken apart as soon as it is loaded: where loads
// depend on conditions, each would wait for the one before it.
template <class T, int N>
class Packed {
 public:
  __device__ void load(const T* from) { words_ = *reinterpret_cast<const Words*>(from); }
  __device__ Vector<T, N> unpacked() const {
    Vector<T, N> v;
    memcpy(&v, &words_, sizeof v);
    return v;
  }

 private:
  using Words = std::conditional_t<sizeof(T) * N == 16, uint4, T>;
  static_assert(sizeof(Words) == sizeof(T) * N);
  Words words_;
};

// N fp32 numbers, 16 bytes at a time.
template <int N>
__device__ inline void read_floats(const float* from, float (&to)[N]) {
  constexpr int PIECE = N % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int i = 0; i < N; i += PIECE) {
    const auto piece = load<PIECE>(from + i);
#pragma unroll
    for (int j = 0; j < PIECE; ++j) to[i + j] = piece.at[j];
  }
}

template <int N>
__device__ inline void write_floats(float* to, const float (&from)[N]) {
  constexpr int PIECE = N % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int i = 0; i < N; i += PIECE) {
    Vector<float, PIECE> piece;
#pragma unroll
    for (int j = 0; j < PIECE; ++j) piece.at[j] = from[i + j];
    store(to + i, piece);
  }
}

// Merges what the threads of each column of a block hold, in the order of a binary tree; the first row gets it.
// give(put) calls put(k, value) for every k below VALUES, take(get) merges the values get(k) of another thread.
constexpr int GIVING = BLOCK / 2; // at most half of the threads
template <int VALUES>
constexpr size_t MERGING_BYTES = VALUES * GIVING * sizeof(float);

template <class Give, class Take>
__device__ inline void merge_rows(const Rows& rows, const Lane& lane, const Give& give, const Take& take) {
  extern __shared__ __align__(128) unsigned char memory[];
  int half = 1;
  while (2 * half < rows.height) half *= 2;
  for (; half > 0; half /= 2) {
    float* const slot = reinterpret_cast<float*>(memory) + lane.row % half * rows.width + lane.column;
    const int live = min(rows.height, 2 * half);
    if (lane.row >= half && lane.row < live)
      give([&](int k, float value) { slot[k * GIVING] = value; });
    __syncthreads();
    if (lane.row + half < live) take([&](int k) { return slot[k * GIVING]; });
    __syncthreads();
  }
}

// f(T{}, N) for the storage type and the numbers of an access, the latter as an integral constant.
template <class F>
cudaError_t with_numbers(Storage storage, int numbers, const F& f) {
  auto of = [&](auto t) {
    using T = decltype(t);
    if (numbers == 1) return f(t, std::integral_constant<int, 1>{});
    return f(t, std::integral_constant<int, PER_16_BYTES<T>>{});
  };
  switch (storage) {
    case Storage::bf16: return of(__nv_bfloat16{});
    case Storage::fp16: return of(__half{});
    default: return of(float{});
  }
}

template <class Params>
cudaError_t launch_rows(void (*kernel)(Params), size_t shared_bytes, const Params& params, cudaStream_t stream) {
  return portable::launch(kernel, dim3(params.rows.blocks()), dim3(BLOCK), shared_bytes, stream, params);
}

} // namespace fused_resnet::cuda
