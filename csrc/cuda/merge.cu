// Merging what blocks left. The parts are rows here, far fewer than of an activation and mostly in the L2 cache.
#include "merge_launch.h"

#include "moments.cuh"
#include "sums.cuh"

namespace fused_resnet::cuda {

template <int N>
__global__ void __launch_bounds__(BLOCK) merge_sums(MergeSums p) {
  constexpr int ROWS = 8;
  const Lane lane = lane_of<N>(p.rows);
  float sums[1][N] = {};
  for (int64_t at = lane.begin; at < lane.end; at += ROWS * lane.step) {
    Vector<float, N> values[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
      if (at + i * lane.step < lane.end) values[i] = load<N>(p.values + at + i * lane.step);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      if (at + i * lane.step >= lane.end) break;
#pragma unroll
      for (int j = 0; j < N; ++j) sums[0][j] += values[i].at[j];
    }
  }
  write_sums<0>(p.rows, lane, sums, nullptr, 0, p.sums);
}

template <int N>
__global__ void __launch_bounds__(BLOCK) merge_moments(MergeMoments p) {
  constexpr int ROWS = 4;
  const Lane lane = lane_of<N>(p.rows);
  RunningMoments<N> moments;
  int64_t tile = lane.part * p.rows.per_block + lane.row;
  for (int64_t at = lane.begin; at < lane.end; at += ROWS * lane.step) {
    Vector<float, N> mean[ROWS], m2[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int64_t from = at + i * lane.step;
      if (from < lane.end) mean[i] = load<N>(p.mean + from);
      if (from < lane.end) m2[i] = load<N>(p.m2 + from);
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i, tile += p.rows.height) {
      const int64_t n = min(p.rows_per_tile, p.count - tile * p.rows_per_tile);
      if (n <= 0 || at + i * lane.step >= lane.end) break;
      const auto weights = moments.weights(static_cast<float>(n));
#pragma unroll
      for (int j = 0; j < N; ++j) moments.merge(j, weights, mean[i].at[j], m2[i].at[j]);
    }
  }
  moments.finish(p.rows, lane, p.merged_mean, p.merged_m2);
}

// f(N) for the numbers of an access, as an integral constant.
template <class F>
static cudaError_t with_floats(int numbers, const F& f) {
  return numbers == 1 ? f(std::integral_constant<int, 1>{}) : f(std::integral_constant<int, 4>{});
}

cudaError_t launch_merge_sums(const MergeSums& problem, int numbers, cudaStream_t stream) {
  return with_floats(numbers, [&](auto n) {
    return launch_rows(merge_sums<decltype(n)::value>, MERGING_BYTES<decltype(n)::value>, problem, stream);
  });
}

cudaError_t launch_merge_moments(const MergeMoments& problem, int numbers, cudaStream_t stream) {
  return with_floats(numbers, [&](auto n) {
    constexpr int N = decltype(n)::value;
    return launch_rows(merge_moments<N>, MERGING_BYTES<RunningMoments<N>::VALUES>, problem, stream);
  });
}

} // namespace fused_resnet::cuda
