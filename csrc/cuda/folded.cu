// Folded 1x1 convolutions: kernels of two products each.
#include "epilogues.cuh"
#include "folded.h"
#include "operands.cuh"
#include "tiles.cuh"

namespace fused_resnet::cuda {

namespace {

// ---- g * weight_g + z * weight_x + bias + residual ----

template <class T, class Tile, bool ALIGNED, template <class, int> class Epilogue>
struct DgradInstance {
  static constexpr int DEPTH = 64 / sizeof(T), VECTOR = ALIGNED ? PER_16_BYTES<T> : 1;
  using Left = SharedTile<T, Order::depth_inner, Tile::M, DEPTH>;
  using Right = SharedTile<T, Order::depth_outer, Tile::N, DEPTH>;
  using G = Operand<T, ALIGNED, Left, Tile::THREADS, Dense, Plain>;
  using Z = Operand<T, ALIGNED, Left, Tile::THREADS, Patches, NormAct>;
  using Weight = Operand<T, ALIGNED, Right, Tile::THREADS, Dense, Plain>;
  using Result = Epilogue<T, VECTOR>;
  static constexpr size_t BYTES = shared_bytes<Tile, Z, Weight, Result>();
};

template <class T, int N>
__device__ Gradient<T, N> result(const FoldedDgrad& p, int, Gradient<T, N>*) {
  return {static_cast<const T*>(p.residual), static_cast<T*>(p.out)};
}
template <class T, int N>
__device__ MaskedGradient<T, N> result(const FoldedDgrad& p, int tile, MaskedGradient<T, N>*) {
  float* const sums = p.sums + static_cast<int64_t>(tile) * 2 * p.channels;
  return {static_cast<const T*>(p.x), p.x_norm, static_cast<T*>(p.out), sums, p.channels, p.x_relu};
}

// f(value, column) for each of a thread's sums.
template <class Tile, class F>
__device__ inline void for_columns(Accumulators<Tile>& acc, const F& f) {
  const int first = threadIdx.x / 32 / Tile::WARPS_M * Tile::WARP_N + threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < Tile::FRAGMENTS_N; ++j)
#pragma unroll
    for (int i = 0; i < Tile::FRAGMENTS_M; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) f(acc[i][j][e], first + 8 * j + e % 2);
}

// Grid: (tiles of the largest lattice times tiles of C, 1, lattices).
template <class T, class Tile, bool ALIGNED, template <class, int> class Epilogue>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS) folded_dgrad(const __grid_constant__ FoldedDgrad p) {
  using I = DgradInstance<T, Tile, ALIGNED, Epilogue>;
  extern __shared__ __align__(128) unsigned char memory[];
  const Pixels& pixels = p.lattices[blockIdx.z];
  const int rows = pixels.count;
  int tile_m, tile_n;
  tile_of(blockIdx.x, p.tiles, (p.channels + Tile::N - 1) / Tile::N, tile_m, tile_n);
  const int m = tile_m * Tile::M, n = tile_n * Tile::N;
  Accumulators<Tile> acc = {};
  if (p.first + blockIdx.z == 0) {
    T* const shared = reinterpret_cast<T*>(memory);
    {
      const Dense gradients{p.filters, rows, p.filters, 0}, weights{p.channels, p.filters, p.channels, 0};
      typename I::G a(static_cast<const T*>(p.g), nullptr, gradients, {}, m, 0);
      typename I::Weight b(static_cast<const T*>(p.weight_g), nullptr, weights, {}, 0, n);
      multiply<Tile>(acc, a, b, (p.filters + I::DEPTH - 1) / I::DEPTH, shared);
    }
    const Patches patches{pixels, p.window, p.all_channels, p.one_tap, rows, p.channels, p.channels, 0};
    const Dense weights{p.channels, p.channels, p.channels, 0};
    typename I::Z a(static_cast<const T*>(p.x), nullptr, patches, {p.x_norm, p.channels, p.x_relu}, m, 0);
    typename I::Weight b(static_cast<const T*>(p.weight_x), nullptr, weights, {}, 0, n);
    multiply<Tile>(acc, a, b, (p.channels + I::DEPTH - 1) / I::DEPTH, shared);
    for_columns<Tile>(acc, [&](float& v, int column) {
      if (n + column < p.channels) v += p.bias[n + column];
    });
  }
  auto offset = [&](int row) { return pixels.at(m + row) * p.channels + n; };
  auto epilogue = result(p, tile_m, static_cast<typename I::Result*>(nullptr));
  finish_tile<Tile>(acc, reinterpret_cast<float*>(memory), rows - m, p.channels - n, n, offset, epilogue);
}

template <template <class, int> class Epilogue>
cudaError_t launch(const FoldedDgrad& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  return with_gemm_tile(storage, aligned, tile, [&](auto t, auto cut, auto is_aligned) {
    using Tile = decltype(cut);
    constexpr bool ALIGNED = decltype(is_aligned)::value;
    using I = DgradInstance<decltype(t), Tile, ALIGNED, Epilogue>;
    const dim3 grid(static_cast<unsigned>(p.tiles * cdiv(p.channels, Tile::N)), 1, static_cast<unsigned>(p.count));
    return portable::launch(folded_dgrad<decltype(t), Tile, ALIGNED, Epilogue>, grid, Tile::THREADS, I::BYTES, stream,
                            p);
  });
}

// ---- act(scale*(z * weightᵀ) + shift + scale_d*(x_s * weight_dᵀ) + shift_d) ----

using Wide = Tile<128, 64, 4, 2>; // two products at once: half the sums of each for a thread

template <class T, class Tile, bool ALIGNED>
struct DualInstance {
  static constexpr int DEPTH = 64 / sizeof(T);
  using Left = SharedTile<T, Order::depth_inner, Tile::M, DEPTH>;
  using Right = SharedTile<T, Order::depth_inner, Tile::N, DEPTH>;
  using Z = Operand<T, ALIGNED, Left, Tile::THREADS, Dense, NormAct>;
  using X = Operand<T, ALIGNED, Left, Tile::THREADS, Patches, Plain>;
  using Weight = Operand<T, ALIGNED, Right, Tile::THREADS, Dense, Plain>;
  using Result = Affine<T, ALIGNED ? PER_16_BYTES<T> : 1>;
  static constexpr size_t BYTES = shared_bytes<Tile, X, Weight, Result>();
};

// Grid: tiles of N*P*Q times tiles of K.
template <class T, class Tile, bool ALIGNED>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS) fprop_dual(const __grid_constant__ FpropDual p) {
  using I = DualInstance<T, Tile, ALIGNED>;
  extern __shared__ __align__(128) unsigned char memory[];
  T* const shared = reinterpret_cast<T*>(memory);
  const int rows = p.pixels.count;
  int tile_m, tile_n;
  tile_of(blockIdx.x, (rows + Tile::M - 1) / Tile::M, (p.filters + Tile::N - 1) / Tile::N, tile_m, tile_n);
  const int m = tile_m * Tile::M, n = tile_n * Tile::N;
  Accumulators<Tile> acc = {}, added = {};
  {
    const Dense main{p.channels, rows, p.channels, 0}, weights{p.channels, p.filters, p.channels, 0};
    typename I::Z a(static_cast<const T*>(p.x), nullptr, main, {p.x_norm, p.channels, p.x_relu}, m, 0);
    typename I::Weight b(static_cast<const T*>(p.weight), nullptr, weights, {}, n, 0);
    multiply<Tile>(acc, a, b, (p.channels + I::DEPTH - 1) / I::DEPTH, shared);
  }
  const int depth = p.shortcut_channels;
  const Patches patches{p.pixels, p.window, p.all_shortcut_channels, p.one_tap, rows, depth, depth, 0};
  const Dense weights{depth, p.filters, depth, 0};
  typename I::X a(static_cast<const T*>(p.shortcut_x), nullptr, patches, {}, m, 0);
  typename I::Weight b(static_cast<const T*>(p.shortcut_weight), nullptr, weights, {}, n, 0);
  multiply<Tile>(added, a, b, (depth + I::DEPTH - 1) / I::DEPTH, shared);

  auto normed = [&](const float* norm) {
    return [&p, norm, n](float& v, int column) {
      const int k = min(n + column, p.filters - 1);
      v = __fmaf_rn(v, norm[2 * p.filters + k], norm[3 * p.filters + k]);
    };
  };
  for_columns<Tile>(acc, normed(p.norm));
  for_columns<Tile>(added, normed(p.shortcut_norm));
#pragma unroll
  for (int i = 0; i < Tile::FRAGMENTS_M; ++i)
#pragma unroll
    for (int j = 0; j < Tile::FRAGMENTS_N; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] += added[i][j][e];
  auto offset = [&](int row) { return static_cast<int64_t>(m + row) * p.filters + n; };
  typename I::Result epilogue{nullptr, nullptr, nullptr, static_cast<T*>(p.out), p.filters, p.relu, {}, {}};
  finish_tile<Tile>(acc, reinterpret_cast<float*>(memory), rows - m, p.filters - n, n, offset, epilogue);
}

template <class T>
cudaError_t launch(const FpropDual& p, bool aligned, int64_t tile, cudaStream_t stream) {
  return with_tile<T, Choice<Wide, NARROW>, Choice<Small, SMALL>>(aligned, tile, [&](auto t, auto cut, auto is_aligned) {
    using Tile = decltype(cut);
    constexpr bool ALIGNED = decltype(is_aligned)::value;
    const dim3 grid(static_cast<unsigned>(cdiv(p.pixels.count, Tile::M) * cdiv(p.filters, Tile::N)));
    return portable::launch(fprop_dual<decltype(t), Tile, ALIGNED>, grid, Tile::THREADS,
                            DualInstance<decltype(t), Tile, ALIGNED>::BYTES, stream, p);
  });
}

} // namespace

cudaError_t launch_folded_dgrad(const FoldedDgrad& p, Storage storage, bool aligned, int64_t tile,
                                cudaStream_t stream) {
  return p.sums ? launch<MaskedGradient>(p, storage, aligned, tile, stream)
                : launch<Gradient>(p, storage, aligned, tile, stream);
}

cudaError_t launch_fprop_dual(const FpropDual& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  switch (storage) {
    case Storage::bf16: return launch<__nv_bfloat16>(p, aligned, tile, stream);
    case Storage::fp16: return launch<__half>(p, aligned, tile, stream);
    default: return launch<float>(p, aligned, tile, stream);
  }
}

} // namespace fused_resnet::cuda
