// Forward convolution as an implicit GEMM: out [M, K] = z [M, R*S*C] * weightᵀ, M = N*P*Q. No matrix of patches is ever
// written: tiles of z are gathered from x, normalised, and padded with zeros after that.
#include "epilogues.cuh"
#include "fprop.h"
#include "operands.cuh"
#include "tiles.cuh"

namespace fused_resnet::cuda {

namespace {

template <class T, class Tile, bool ALIGNED, template <class, int> class Epilogue>
struct Instance {
  static constexpr int DEPTH = 128 / sizeof(T), VECTOR = ALIGNED ? PER_16_BYTES<T> : 1;
  template <int EXTENT>
  using Shared = SharedTile<T, Order::depth_inner, EXTENT, DEPTH>;
  using A = Operand<T, ALIGNED, Shared<Tile::M>, Tile::THREADS, Patches, NormAct>;
  using B = Operand<T, ALIGNED, Shared<Tile::N>, Tile::THREADS, Dense, Plain>;
  using Result = Epilogue<T, VECTOR>;
  static constexpr size_t BYTES = shared_bytes<Tile, A, B, Result>();
};

template <class T, int N>
__device__ Affine<T, N> result(const Fprop& p, int, Affine<T, N>*) {
  return {static_cast<const T*>(p.bias), p.norm, static_cast<const T*>(p.residual), static_cast<T*>(p.out), p.filters,
          p.relu};
}
template <class T, int N>
__device__ Moments<T, N> result(const Fprop& p, int tile_m, Moments<T, N>*) {
  const int64_t row = static_cast<int64_t>(tile_m) * p.filters;
  return {static_cast<T*>(p.out), p.mean + row, p.m2 + row};
}

// Grid: (tiles of M times tiles of K/groups, groups).
template <class T, class Tile, bool ALIGNED, template <class, int> class Epilogue>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS) fprop(const __grid_constant__ Fprop p) {
  using I = Instance<T, Tile, ALIGNED, Epilogue>;
  extern __shared__ __align__(128) unsigned char memory[];
  const int per_group = p.filters / p.groups, group = blockIdx.y, channels = p.group_channels.divisor;
  const int depth = p.window.taps_h * p.window.taps_w * channels, rows = p.pixels.count;
  int tile_m, tile_n;
  tile_of(blockIdx.x, (rows + Tile::M - 1) / Tile::M, (per_group + Tile::N - 1) / Tile::N, tile_m, tile_n);
  const int m = tile_m * Tile::M, n = tile_n * Tile::N;

  const Patches patches{p.pixels, p.window, p.group_channels, p.taps_w, rows, depth, p.channels, group * channels};
  const Dense filters{depth, per_group, depth, 0};
  const T* const weight = static_cast<const T*>(p.weight) + static_cast<int64_t>(group) * per_group * depth;
  typename I::A a(static_cast<const T*>(p.x), nullptr, patches, {p.x_norm, p.channels, p.x_relu}, m, 0);
  typename I::B b(weight, nullptr, filters, {}, n, 0);
  Accumulators<Tile> acc = {};
  multiply<Tile>(acc, a, b, (depth + I::DEPTH - 1) / I::DEPTH, reinterpret_cast<T*>(memory));

  const int channel = group * per_group + n;
  auto offset = [&](int row) { return static_cast<int64_t>(m + row) * p.filters + channel; };
  auto epilogue = result(p, tile_m, static_cast<typename I::Result*>(nullptr));
  finish_tile<Tile>(acc, reinterpret_cast<float*>(memory), rows - m, per_group - n, channel, offset, epilogue);
}

template <template <class, int> class Epilogue>
cudaError_t launch(const Fprop& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  return with_gemm_tile(storage, aligned, tile, [&](auto t, auto cut, auto is_aligned) {
    using Tile = decltype(cut);
    constexpr bool ALIGNED = decltype(is_aligned)::value;
    using I = Instance<decltype(t), Tile, ALIGNED, Epilogue>;
    const int64_t tiles = cdiv(p.pixels.count, Tile::M) * cdiv(p.filters / p.groups, Tile::N);
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.groups));
    return portable::launch(fprop<decltype(t), Tile, ALIGNED, Epilogue>, grid, Tile::THREADS, I::BYTES, stream, p);
  });
}

} // namespace

cudaError_t launch_fprop(const Fprop& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  return p.mean ? launch<Moments>(p, storage, aligned, tile, stream) : launch<Affine>(p, storage, aligned, tile, stream);
}

} // namespace fused_resnet::cuda
