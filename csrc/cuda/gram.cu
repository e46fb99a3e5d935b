// Mean and centred second moments [C, C] of the M rows z that a 1x1 convolution reads. With any pivot p near the mean and
// d = z - p, Σ(z - mean)(z - mean)ᵀ is Σddᵀ - ΣdΣdᵀ/M (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample
// variance", shifted data): nothing cancels, however far from 0 the mean is, and one pass is enough. p is the first row.
#include "epilogues.cuh"
#include "gram.h"
#include "operands.cuh"
#include "tiles.cuh"

namespace fused_resnet::cuda {

namespace {

// d rounded to what tensor cores take of it, so that the sums taken off are those of the same numbers.
template <class T>
__device__ inline T operand(float d) {
  return from_float<T>(d);
}
template <>
__device__ inline float operand<float>(float d) {
  const float scaled = d * 8193.f; // Dekker's splitting (1971): the high 11 bits
  return scaled - (scaled - d);
}

// z as the convolution reads it.
template <class T>
__device__ inline float normed(float x, const float* norm, float scale, float shift, bool with_relu) {
  return norm ? to_float(from_float<T>(norm_act(x, scale, shift, with_relu))) : x;
}

// A prologue: deviations from the pivot, and their sums. KEEPS: the coefficients, too, stay in registers; what is read
// element by element leaves none for them.
template <class T, int COLUMNS, bool KEEPS>
struct Deviations {
  static constexpr bool AUX = false, NOTES = false;
  static constexpr int COEFFICIENTS = 0;
  static constexpr int KEPT = KEEPS ? COLUMNS : 1;
  const float* norm;
  int channels, first; // of this thread's
  bool with_relu;
  float scale[KEPT], shift[KEPT], pivot[COLUMNS], rounded_sum[COLUMNS], exact_sum[COLUMNS];

  __device__ Deviations(const Gram& p, int first)
      : norm(p.x_norm), channels(p.channels), first(first), with_relu(p.x_relu) {
    for (int i = 0; i < COLUMNS; ++i) {
      const int c = min(first + i, p.channels - 1);
      const float a = norm ? norm[2 * p.channels + c] : 1.f, b = norm ? norm[3 * p.channels + c] : 0.f;
      if constexpr (KEEPS) scale[i] = a, shift[i] = b;
      pivot[i] = normed<T>(to_float(static_cast<const T*>(p.x)[c]), norm, a, b, with_relu);
      rounded_sum[i] = exact_sum[i] = 0.f;
    }
  }
  __device__ float deviation(float x, int i) const {
    if constexpr (KEEPS) return normed<T>(x, norm, scale[i], shift[i], with_relu) - pivot[i];
    const int c = first + i;
    const float a = norm ? norm[2 * channels + c] : 1.f, b = norm ? norm[3 * channels + c] : 0.f;
    return normed<T>(x, norm, a, b, with_relu) - pivot[i];
  }
  __device__ static bool active() { return true; }
  template <int N>
  __device__ void apply(float (&x)[N], const Vector<T, N>&, const float (&)[1][N], int at) {
    for (int i = 0; i < N; ++i) {
      const float exact = deviation(x[i], at + i);
      exact_sum[at + i] += exact;
      x[i] = to_float(operand<T>(exact));
      rounded_sum[at + i] += x[i];
    }
  }
};

template <class T, class Tile, bool ALIGNED>
struct Instance {
  static constexpr int DEPTH = 64 / sizeof(T);
  using Prologue = Deviations<T, PER_16_BYTES<T>, ALIGNED>;
  using Side = Operand<T, ALIGNED, SharedTile<T, Order::depth_outer, Tile::M, DEPTH>, Tile::THREADS, Patches, Prologue>;
  using Result = Partial<ALIGNED ? 4 : 1>;
  static constexpr size_t SUMS = Tile::THREADS * PER_16_BYTES<T> * sizeof(float);
  static constexpr size_t NEEDED = shared_bytes<Tile, Side, Side, Result>(), BYTES = NEEDED > SUMS ? NEEDED : SUMS;
  static_assert(Tile::M == Tile::N);
};

// Grid: (tiles of C squared, splits). Tiles below the diagonal keep what is there: nobody reads them.
template <class T, class Tile, bool ALIGNED>
__global__ void __launch_bounds__(Tile::THREADS, Tile::THREADS > 128 ? 1 : Tile::BLOCKS) gram(const __grid_constant__ Gram p) {
  using I = Instance<T, Tile, ALIGNED>;
  using Side = typename I::Side;
  extern __shared__ __align__(128) unsigned char memory[];
  const int tiles = (p.channels + Tile::M - 1) / Tile::M;
  const int i = blockIdx.x / tiles * Tile::M, j = blockIdx.x % tiles * Tile::N;
  if (j < i) return;
  const int first = blockIdx.y * p.rows_per_split, last = min(first + p.rows_per_split, p.pixels.count);

  const Patches rows{p.pixels, p.window, p.all_channels, p.one_tap, last, p.channels, p.channels, 0};
  const int mine = Side::chunk() * Side::CHUNK;
  Side a(static_cast<const T*>(p.x), nullptr, rows, {p, i + mine}, first, i);
  Side b(static_cast<const T*>(p.x), nullptr, rows, {p, j + mine}, first, j);
  Accumulators<Tile> acc = {};
  multiply<Tile>(acc, a, b, (last - first + I::DEPTH - 1) / I::DEPTH, reinterpret_cast<T*>(memory), i == j);

  float* const part = p.parts + static_cast<int64_t>(blockIdx.y) * p.channels * (p.channels + 2);
  if (i == j) {
    float* const sums = part + static_cast<int64_t>(p.channels) * p.channels + i;
    store_row_sums<Side>(a.state().rounded_sum, reinterpret_cast<float*>(memory), sums, p.channels - i);
    store_row_sums<Side>(a.state().exact_sum, reinterpret_cast<float*>(memory), sums + p.channels, p.channels - i);
  }
  auto offset = [&](int row) { return static_cast<int64_t>(row) * p.channels; };
  typename I::Result epilogue{part + static_cast<int64_t>(i) * p.channels + j};
  finish_tile<Tile>(acc, reinterpret_cast<float*>(memory), p.channels - i, p.channels - j, 0, offset, epilogue);
}

// A thread for each pair of channels i <= j, which it writes twice; neighbours have neighbouring j.
template <class T>
__global__ void __launch_bounds__(256) gram_finish(const __grid_constant__ GramFinish p) {
  const int i = blockIdx.y, j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= p.channels || j < i) return;
  const int64_t at = static_cast<int64_t>(i) * p.channels + j;
  const float rows = static_cast<float>(p.rows);
  const float moment = p.products[at] - p.sums[i] * __fdiv_rn(p.sums[j], rows);
  p.moments[at] = moment;
  p.moments[static_cast<int64_t>(j) * p.channels + i] = moment;
  if (i == j) {
    const float x = to_float(static_cast<const T*>(p.x)[j]);
    const float scale = p.x_norm ? p.x_norm[2 * p.channels + j] : 1.f;
    const float shift = p.x_norm ? p.x_norm[3 * p.channels + j] : 0.f;
    p.mean[j] = normed<T>(x, p.x_norm, scale, shift, p.x_relu) + __fdiv_rn(p.sums[p.channels + j], rows);
  }
}

template <class T, class... Choices>
cudaError_t launch(const Gram& p, bool aligned, int64_t tile, cudaStream_t stream) {
  return with_tile<T, Choices...>(aligned, tile, [&](auto t, auto cut, auto is_aligned) {
    using Tile = decltype(cut);
    constexpr bool ALIGNED = decltype(is_aligned)::value;
    const int64_t side = cdiv(p.channels, Tile::M);
    const dim3 grid(static_cast<unsigned>(side * side), static_cast<unsigned>(p.splits));
    return portable::launch(gram<decltype(t), Tile, ALIGNED>, grid, Tile::THREADS,
                            Instance<decltype(t), Tile, ALIGNED>::BYTES, stream, p);
  });
}

} // namespace

int64_t gram_channels(int64_t tile) { return tile == LARGE ? Large::M : Small::M; }

cudaError_t launch_gram(const Gram& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  using L = Choice<Large, LARGE>;
  using S = Choice<Small, SMALL>;
  switch (storage) {
    case Storage::bf16: return launch<__nv_bfloat16, L, S>(p, aligned, tile, stream);
    case Storage::fp16: return launch<__half, L, S>(p, aligned, tile, stream);
    default: return launch<float, S>(p, aligned, tile, stream);
  }
}

cudaError_t launch_gram_finish(const GramFinish& p, Storage storage, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(cdiv(p.channels, 256)), static_cast<unsigned>(p.channels));
  switch (storage) {
    case Storage::bf16: return portable::launch(gram_finish<__nv_bfloat16>, grid, 256, 0, stream, p);
    case Storage::fp16: return portable::launch(gram_finish<__half>, grid, 256, 0, stream, p);
    default: return portable::launch(gram_finish<float>, grid, 256, 0, stream, p);
  }
}

} // namespace fused_resnet::cuda
