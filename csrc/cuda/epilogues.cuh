// What becomes of a tile of sums. It goes through shared memory once, so that every thread has chunks of neighbouring
// columns, always the same columns: it reads and writes 16 bytes at a time, and keeps coefficients and sums of its
// columns in registers.
#pragma once

#include "gemm.cuh"

namespace fused_resnet::cuda {

// How the threads of a block share a tile of fp32 values: VECTOR columns each, every ROW_STEP rows.
template <class Tile, int VECTOR_>
struct Chunks {
  static constexpr int VECTOR = VECTOR_;
  static constexpr int PER_ROW = Tile::N / VECTOR, ROW_STEP = Tile::THREADS / PER_ROW;
  static constexpr int PITCH = Tile::N + 8; // rows of fragments start in different banks
  static constexpr int STAGED = Tile::M * PITCH;
  static_assert(Tile::THREADS % PER_ROW == 0);

  __device__ static int column() { return threadIdx.x % PER_ROW * VECTOR; }
  __device__ static int first_row() { return threadIdx.x / PER_ROW; }

  // Place of an element. A thread's 8 columns are read 4 at a time: the first four of all threads lie side by side, then
  // the others, so that no two threads meet in a bank.
  __device__ static int at(int row, int column) {
    if constexpr (VECTOR == 8)
      return row * PITCH + (column % 8 < 4 ? 0 : Tile::N / 2 + 4) + column / 8 * 4 + column % 4;
    else
      return row * PITCH + column;
  }
  __device__ static void load(float (&v)[VECTOR], const float* memory, int row) {
    constexpr int AT_ONCE = VECTOR < 4 ? VECTOR : 4;
    for (int i = 0; i < VECTOR; i += AT_ONCE) {
      const auto some = cuda::load<AT_ONCE>(memory + at(row, column() + i));
      for (int j = 0; j < AT_ONCE; ++j) v[i + j] = some.at[j];
    }
  }
  __device__ static void store(float* memory, int row, const float (&v)[VECTOR]) {
    constexpr int AT_ONCE = VECTOR < 4 ? VECTOR : 4;
    for (int i = 0; i < VECTOR; i += AT_ONCE) {
      Vector<float, AT_ONCE> some;
      for (int j = 0; j < AT_ONCE; ++j) some.at[j] = v[i + j];
      cuda::store(memory + at(row, column() + i), some);
    }
  }
};

// Floats of shared memory that an epilogue with SUMS sums for each column needs.
template <class Tile, int VECTOR, int SUMS>
constexpr int EPILOGUE_SIZE = Chunks<Tile, VECTOR>::STAGED + Chunks<Tile, VECTOR>::ROW_STEP * SUMS * Tile::N +
                              (SUMS > 0 ? Tile::N : 0);

// Bytes of shared memory of a kernel: first for the pipeline of its operands, then for its epilogue.
template <class Tile, class A, class B, class Epilogue>
constexpr size_t shared_bytes() {
  constexpr size_t PIPELINE = PIPELINE_SIZE<A, B> * sizeof(typename A::T);
  constexpr size_t END = EPILOGUE_SIZE<Tile, Epilogue::VECTOR, Epilogue::SUMS> * sizeof(float);
  return PIPELINE > END ? PIPELINE : END;
}

template <class Tile, class Chunks>
__device__ inline void stage(const Accumulators<Tile>& acc, float* memory) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = warp % Tile::WARPS_M * Tile::WARP_M + lane / 4;
  const int column = warp / Tile::WARPS_M * Tile::WARP_N + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Tile::FRAGMENTS_M; ++i)
#pragma unroll
    for (int j = 0; j < Tile::FRAGMENTS_N; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        store(memory + Chunks::at(row + 16 * i + 8 * half, column + 8 * j),
              Vector<float, 2>{{acc[i][j][2 * half], acc[i][j][2 * half + 1]}});
  __syncthreads();
}

// Sums of all threads with the same columns, in the order of their rows: f(which, column, total) for each column below
// `columns`. The memory may be used again when it returns.
template <class Tile, class Chunks, int SUMS, class F>
__device__ inline void for_column_sums(const float (&sums)[SUMS][Chunks::VECTOR], float* memory, int columns,
                                       const F& f) {
  for (int s = 0; s < SUMS; ++s)
    store_floats(memory + (Chunks::first_row() * SUMS + s) * Tile::N + Chunks::column(), sums[s]);
  __syncthreads();
  for (int i = threadIdx.x; i < SUMS * Tile::N; i += Tile::THREADS) {
    const int s = i / Tile::N, column = i % Tile::N;
    float total = 0.f;
    for (int row = 0; row < Chunks::ROW_STEP; ++row) total += memory[(row * SUMS + s) * Tile::N + column];
    if (column < columns) f(s, column, total);
  }
  __syncthreads();
}

// Runs an epilogue over a tile of which `rows` x `columns` exist. offset(row): of the row's first element of the tile in
// the result.
template <class Tile, class Epilogue, class Offset>
__device__ inline void finish_tile(const Accumulators<Tile>& acc, float* memory, int rows, int columns, int channel,
                                   const Offset& offset, Epilogue& epilogue) {
  constexpr int N = Epilogue::VECTOR;
  using Chunks = Chunks<Tile, N>;
  stage<Tile, Chunks>(acc, memory);
  const int column = Chunks::column();
  if (column < columns) {
    epilogue.begin(channel + column);
#pragma unroll 2
    for (int row = Chunks::first_row(); row < min(rows, Tile::M); row += Chunks::ROW_STEP) {
      float v[N];
      Chunks::load(v, memory, row);
      epilogue.store(offset(row) + column, v);
      if constexpr (Epilogue::KEEPS) Chunks::store(memory, row, v);
    }
  }
  epilogue.template end<Tile, Chunks>(memory, min(rows, Tile::M), min(columns, Tile::N), channel);
}

// act(scale*(sum + bias) + shift + residual); what is null is left out.
template <class T, int N>
struct Affine {
  static constexpr int VECTOR = N, SUMS = 0;
  static constexpr bool KEEPS = false;
  const T* bias;
  const float* norm; // [4, channels]
  const T* residual;
  T* out;
  int channels;
  bool with_relu;
  float scale[N], shift[N];

  __device__ void begin(int channel) {
    for (int e = 0; e < N; ++e) scale[e] = 1.f, shift[e] = 0.f;
    if (norm) {
      load_floats(scale, norm + 2 * channels + channel);
      load_floats(shift, norm + 3 * channels + channel);
    }
    if (bias)
      for (int e = 0; e < N; ++e) shift[e] = __fmaf_rn(to_float(bias[channel + e]), scale[e], shift[e]);
  }
  __device__ void store(int64_t offset, float (&v)[N]) const {
    for (int e = 0; e < N; ++e) v[e] = __fmaf_rn(v[e], scale[e], shift[e]);
    if (residual) {
      const auto r = load<N>(residual + offset);
      for (int e = 0; e < N; ++e) v[e] += to_float(r.at[e]);
    }
    if (with_relu)
      for (int e = 0; e < N; ++e) v[e] = relu(v[e]);
    cuda::store(out + offset, rounded<T>(v));
  }
  template <class Tile, class Chunks>
  __device__ static void end(float*, int, int, int) {}
};

// The sum as it is, and the mean and centred sum of squares [tiles, channels] of what was stored of a tile's columns:
// the squares in a second pass over shared memory, so that nothing cancels.
template <class T, int N>
struct Moments {
  static constexpr int VECTOR = N, SUMS = 1;
  static constexpr bool KEEPS = true;
  T* out;
  float *mean, *m2; // this tile's
  float sum[1][N];

  __device__ void begin(int) {
    for (float& s : sum[0]) s = 0.f;
  }
  __device__ void store(int64_t offset, float (&v)[N]) {
    const auto stored = rounded<T>(v);
    cuda::store(out + offset, stored);
    for (int e = 0; e < N; ++e) sum[0][e] += v[e] = to_float(stored.at[e]);
  }
  template <class Tile, class Chunks>
  __device__ void end(float* memory, int rows, int columns, int channel) {
    float* const scratch = memory + Chunks::STAGED;
    float* const average = scratch + Chunks::ROW_STEP * SUMS * Tile::N;
    const int column = Chunks::column();
    if (column >= columns) begin(0);
    for_column_sums<Tile, Chunks>(sum, scratch, columns, [&](int, int c, float total) {
      mean[channel + c] = average[c] = __fdiv_rn(total, static_cast<float>(rows));
    });
    begin(0);
    if (column < columns)
      for (int row = Chunks::first_row(); row < rows; row += Chunks::ROW_STEP) {
        float v[N];
        Chunks::load(v, memory, row);
        for (int e = 0; e < N; ++e) {
          const float d = v[e] - average[column + e];
          sum[0][e] = __fmaf_rn(d, d, sum[0][e]);
        }
      }
    for_column_sums<Tile, Chunks>(sum, scratch, columns,
                                  [&](int, int c, float total) { m2[channel + c] = total; });
  }
};

// The gradient sum + residual; or, given the sums' place, the gradient where the activation of x_norm(x) let it pass,
// and the sums of that unit's BN [2, channels]: Σg, Σg·xhat.
template <class T, int N>
struct Gradient {
  static constexpr int VECTOR = N, SUMS = 0;
  static constexpr bool KEEPS = false;
  const T* residual;
  T* out;

  __device__ static void begin(int) {}
  __device__ void store(int64_t offset, float (&v)[N]) const {
    if (residual) {
      const auto r = load<N>(residual + offset);
      for (int e = 0; e < N; ++e) v[e] += to_float(r.at[e]);
    }
    cuda::store(out + offset, rounded<T>(v));
  }
  template <class Tile, class Chunks>
  __device__ static void end(float*, int, int, int) {}
};

template <class T, int N>
struct MaskedGradient {
  static constexpr int VECTOR = N, SUMS = 2;
  static constexpr bool KEEPS = false;
  const T* x;
  const float* norm; // [4, channels]
  T* out;
  float* sums; // [2, channels], this tile's
  int channels;
  bool with_relu;
  float mean[N], invstd[N], scale[N], shift[N], sum[2][N];

  __device__ void begin(int channel) {
    load_floats(mean, norm + channel);
    load_floats(invstd, norm + channels + channel);
    load_floats(scale, norm + 2 * channels + channel);
    load_floats(shift, norm + 3 * channels + channel);
    for (int e = 0; e < N; ++e) sum[0][e] = sum[1][e] = 0.f;
  }
  __device__ void store(int64_t offset, float (&v)[N]) {
    const auto y = load<N>(x + offset);
    for (int e = 0; e < N; ++e)
      if (stopped(to_float(y.at[e]), scale[e], shift[e], with_relu)) v[e] = 0.f;
    const auto g = rounded<T>(v);
    cuda::store(out + offset, g);
    for (int e = 0; e < N; ++e) {
      const float value = to_float(g.at[e]), xhat = (to_float(y.at[e]) - mean[e]) * invstd[e];
      sum[0][e] += value;
      sum[1][e] = __fmaf_rn(value, xhat, sum[1][e]);
    }
  }
  template <class Tile, class Chunks>
  __device__ void end(float* memory, int, int columns, int channel) {
    if (Chunks::column() >= columns)
      for (int e = 0; e < N; ++e) sum[0][e] = sum[1][e] = 0.f;
    for_column_sums<Tile, Chunks>(sum, memory + Chunks::STAGED, columns, [&](int s, int c, float total) {
      sums[s * channels + channel + c] = total;
    });
  }
};

// The sum as it is, in fp32.
template <int N>
struct Partial {
  static constexpr int VECTOR = N, SUMS = 0;
  static constexpr bool KEEPS = false;
  float* out;

  __device__ static void begin(int) {}
  __device__ void store(int64_t offset, float (&v)[N]) const {
    store_floats(out + offset, v);
  }
  template <class Tile, class Chunks>
  __device__ static void end(float*, int, int, int) {}
};

} // namespace fused_resnet::cuda
