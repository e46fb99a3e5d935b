// Weight gradient as an implicit GEMM over rows: dw [K, R*S*C] = dyᵀ * z, M = N*P*Q rows. Rows are many and results few,
// so the rows are split between blocks, whose partial sums a second kernel adds up in a fixed order.
#include "epilogues.cuh"
#include "operands.cuh"
#include "tiles.cuh"
#include "wgrad.h"

namespace fused_resnet::cuda {

namespace {

using FewFilters = Tile<16, 64, 1, 4>;

template <class T, class Tile, bool ALIGNED, class Prologue>
struct Instance {
  static constexpr int DEPTH = 64 / sizeof(T);
  template <int EXTENT>
  using Shared = SharedTile<T, Order::depth_outer, EXTENT, DEPTH>;
  using A = Operand<T, ALIGNED, Shared<Tile::M>, Tile::THREADS, Dense, Prologue>;
  using B = Operand<T, ALIGNED, Shared<Tile::N>, Tile::THREADS, Patches, NormAct>;
  using Result = Partial<ALIGNED ? 4 : 1>;
  static constexpr size_t SUMS = Tile::THREADS * PER_16_BYTES<T> * sizeof(float);
  static constexpr size_t NEEDED = shared_bytes<Tile, A, B, Result>(), BYTES = NEEDED > SUMS ? NEEDED : SUMS;
};

__device__ inline NormBackward prologue(const Wgrad& p, bool, NormBackward*) {
  return {p.dnorm, p.filters, p.y != nullptr};
}
// Only blocks of the first columns write the masked gradient.
template <class T, int N>
__device__ Masked<T, N> prologue(const Wgrad& p, bool first, Masked<T, N>*) {
  return {first ? static_cast<T*>(p.masked) : nullptr, {}}; // where there is a mask, there is one group
}

// Grid: (tiles of K/groups times tiles of R*S*C/groups, splits, groups).
template <class T, class Tile, bool ALIGNED, class Prologue>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS) wgrad(const __grid_constant__ Wgrad p) {
  using I = Instance<T, Tile, ALIGNED, Prologue>;
  extern __shared__ __align__(128) unsigned char memory[];
  const int filters = p.filters / p.groups, group = blockIdx.z, channels = p.group_channels.divisor;
  const int columns = p.window.taps_h * p.window.taps_w * channels;
  const int tiles_m = (filters + Tile::M - 1) / Tile::M;
  const int m = blockIdx.x % tiles_m * Tile::M, n = blockIdx.x / tiles_m * Tile::N;
  const int first = blockIdx.y * p.rows_per_split, last = min(first + p.rows_per_split, p.pixels.count);

  const int first_filter = group * filters;
  const Dense gradients{p.filters, last, filters, first_filter};
  const Patches patches{p.pixels, p.window, p.group_channels, p.taps_w, last, columns, p.channels, group * channels};
  const T* const aux = static_cast<const T*>(std::is_same_v<Prologue, NormBackward> ? p.y : p.out);
  typename I::A a(static_cast<const T*>(p.g) + first_filter, aux ? aux + first_filter : nullptr, gradients,
                  prologue(p, n == 0, static_cast<Prologue*>(nullptr)), first, m);
  typename I::B b(static_cast<const T*>(p.x), nullptr, patches, {p.x_norm, p.channels, p.x_relu}, first, n);
  Accumulators<Tile> acc = {};
  multiply<Tile>(acc, a, b, (last - first + I::DEPTH - 1) / I::DEPTH, reinterpret_cast<T*>(memory));

  if constexpr (!std::is_same_v<Prologue, NormBackward>)
    if (n == 0) {
      float* const sums = p.sums + static_cast<int64_t>(blockIdx.y) * p.filters + first_filter + m;
      store_row_sums<typename I::A>(a.state().sum, reinterpret_cast<float*>(memory), sums, filters - m);
    }
  float* const part = p.parts + (static_cast<int64_t>(blockIdx.y) * p.filters + first_filter + m) * columns + n;
  auto offset = [&](int row) { return static_cast<int64_t>(row) * columns; };
  typename I::Result epilogue{part};
  finish_tile<Tile>(acc, reinterpret_cast<float*>(memory), filters - m, columns - n, 0, offset, epilogue);
}

// A thread for each result; neighbours read neighbouring partial sums.
__global__ void __launch_bounds__(256) wgrad_merge(const __grid_constant__ WgradMerge p) {
  const int64_t size = static_cast<int64_t>(p.filters) * p.taps * p.channels;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float sum = 0.f;
#pragma unroll 8
  for (int split = 0; split < p.splits; ++split) sum += p.parts[split * size + i];
  const int64_t pair = i / p.channels, channel = i % p.channels, filter = pair / p.taps, tap = pair % p.taps;
  p.weight[(filter * p.channels + channel) * p.taps + tap] = sum;
}

template <class T, class... Choices>
cudaError_t launch(const Wgrad& p, bool aligned, int64_t tile, cudaStream_t stream) {
  return with_tile<T, Choices...>(aligned, tile, [&](auto t, auto cut, auto is_aligned) {
    using Tile = decltype(cut);
    constexpr bool ALIGNED = decltype(is_aligned)::value;
    const int64_t columns = static_cast<int64_t>(p.window.taps_h) * p.window.taps_w * p.group_channels.divisor;
    const int64_t tiles = cdiv(p.filters / p.groups, Tile::M) * cdiv(columns, Tile::N);
    const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.splits), static_cast<unsigned>(p.groups));
    auto start = [&](auto prologue) {
      using Prologue = decltype(prologue);
      using I = Instance<decltype(t), Tile, ALIGNED, Prologue>;
      return portable::launch(wgrad<decltype(t), Tile, ALIGNED, Prologue>, grid, Tile::THREADS, I::BYTES, stream, p);
    };
    return p.out ? start(Masked<decltype(t), PER_16_BYTES<decltype(t)>>{}) : start(NormBackward{});
  });
}

} // namespace

int64_t wgrad_filters(int64_t tile) { return tile == LARGE ? Large::M : tile == SMALL ? Small::M : FewFilters::M; }
int64_t wgrad_columns(int64_t tile) { return tile == LARGE ? Large::N : tile == SMALL ? Small::N : FewFilters::N; }

cudaError_t launch_wgrad(const Wgrad& p, Storage storage, bool aligned, int64_t tile, cudaStream_t stream) {
  using L = Choice<Large, LARGE>;
  using S = Choice<Small, SMALL>;
  using F = Choice<FewFilters, SLIM>;
  switch (storage) {
    case Storage::bf16: return launch<__nv_bfloat16, L, S, F>(p, aligned, tile, stream);
    case Storage::fp16: return launch<__half, L, S, F>(p, aligned, tile, stream);
    default: return launch<float, S, F>(p, aligned, tile, stream);
  }
}

cudaError_t launch_wgrad_merge(const WgradMerge& p, cudaStream_t stream) {
  const int64_t blocks = cdiv(static_cast<int64_t>(p.filters) * p.taps * p.channels, 256);
  return portable::launch(wgrad_merge, dim3(static_cast<unsigned>(blocks)), 256, 0, stream, p);
}

} // namespace fused_resnet::cuda
