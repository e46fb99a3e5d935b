// Input gradient of a convolution as an implicit GEMM: dx [pixels, C] = dy [pixels, taps*K] * weight, lattice by lattice.
#include "dgrad.h"
#include "epilogues.cuh"
#include "operands.cuh"
#include "tiles.cuh"

namespace fused_resnet::cuda {

namespace {

template <class T, class Tile, bool ALIGNED, template <class, int> class Epilogue>
struct Instance {
  static constexpr int DEPTH = 64 / sizeof(T), VECTOR = ALIGNED ? PER_16_BYTES<T> : 1;
  using A = Operand<T, ALIGNED, SharedTile<T, Order::depth_inner, Tile::M, DEPTH>, Tile::THREADS, Patches,
                    NormBackward>;
  using B = Operand<T, ALIGNED, SharedTile<T, Order::depth_outer, Tile::N, DEPTH>, Tile::THREADS, FilterRows, Plain>;
  using Result = Epilogue<T, VECTOR>;
  static constexpr size_t BYTES = shared_bytes<Tile, A, B, Result>();
};

template <class T, int N>
__device__ Gradient<T, N> result(const Dgrad& p, int, Gradient<T, N>*) {
  return {static_cast<const T*>(p.residual), static_cast<T*>(p.out)};
}
template <class T, int N>
__device__ MaskedGradient<T, N> result(const Dgrad& p, int tile, MaskedGradient<T, N>*) {
  float* const sums = p.sums + static_cast<int64_t>(tile) * 2 * p.channels;
  return {static_cast<const T*>(p.x), p.x_norm, static_cast<T*>(p.out), sums, p.channels, p.x_relu};
}

// Grid: (tiles of the largest lattice times tiles of C/groups, groups, lattices).
template <class T, class Tile, bool ALIGNED, template <class, int> class Epilogue>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS) dgrad(const __grid_constant__ Dgrad p) {
  using I = Instance<T, Tile, ALIGNED, Epilogue>;
  extern __shared__ __align__(128) unsigned char memory[];
  const Lattice& lattice = p.lattices[blockIdx.z];
  const int per_group = p.channels / p.groups, group = blockIdx.y, filters = p.group_filters.divisor;
  const int depth = lattice.window.taps_h * lattice.window.taps_w * filters, rows = lattice.pixels.count;
  int tile_m, tile_n;
  tile_of(blockIdx.x, p.tiles, (per_group + Tile::N - 1) / Tile::N, tile_m, tile_n);
  const int m = tile_m * Tile::M, n = tile_n * Tile::N;

  Pixels read = lattice.pixels;
  read.height = p.height, read.width = p.width;
  const Patches patches{read, lattice.window, p.group_filters, lattice.taps_w, rows, depth, p.filters, group * filters};
  const FilterRows weights{p.group_filters, lattice.taps_w, depth,    per_group, p.taps_of_row,  p.taps,
                           lattice.first_r, lattice.first_s, p.step_r, p.step_s,  group * filters};
  const NormBackward backward{p.dnorm, p.filters, p.y != nullptr};
  typename I::A a(static_cast<const T*>(p.g), static_cast<const T*>(p.y), patches, backward, m, 0);
  typename I::B b(static_cast<const T*>(p.weight), nullptr, weights, {}, 0, n);
  Accumulators<Tile> acc = {};
  multiply<Tile>(acc, a, b, m < rows ? (depth + I::DEPTH - 1) / I::DEPTH : 0, reinterpret_cast<T*>(memory));

  const int channel = group * per_group + n;
  auto offset = [&](int row) { return lattice.pixels.at(m + row) * p.channels + channel; };
  auto epilogue = result(p, (p.first + blockIdx.z) * p.tiles + tile_m, static_cast<typename I::Result*>(nullptr));
  finish_tile<Tile>(acc, reinterpret_cast<float*>(memory), rows - m, per_group - n, channel, offset, epilogue);
}

template <template <class, int> class Epilogue>
cudaError_t launch(const Dgrad& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  return with_gemm_tile(storage, aligned, tile, [&](auto t, auto cut, auto is_aligned) {
    using Tile = decltype(cut);
    constexpr bool ALIGNED = decltype(is_aligned)::value;
    using I = Instance<decltype(t), Tile, ALIGNED, Epilogue>;
    const int64_t tiles = p.tiles * cdiv(p.channels / p.groups, Tile::N);
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.groups), static_cast<unsigned>(p.count));
    return portable::launch(dgrad<decltype(t), Tile, ALIGNED, Epilogue>, grid, Tile::THREADS, I::BYTES, stream, p);
  });
}

} // namespace

cudaError_t launch_dgrad(const Dgrad& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  return p.sums ? launch<MaskedGradient>(p, storage, aligned, tile, stream)
                : launch<Gradient>(p, storage, aligned, tile, stream);
}

} // namespace fused_resnet::cuda
