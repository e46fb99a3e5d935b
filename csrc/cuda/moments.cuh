// Means and centred sums of squares, merged as by Chan, Golub & LeVeque 1983 ("Algorithms for computing the sample
// variance"): no difference of large numbers is ever taken, so nothing cancels.
#pragma once

#include "rows.cuh"

namespace fused_resnet::cuda {

template <int N>
struct RunningMoments {
  float count = 0.f, mean[N] = {}, m2[N] = {};

  // Before `n` more numbers are merged: their share of all, and what the distance of the means weighs.
  struct Weights {
    float share, cross;
  };
  __device__ Weights weights(float n) {
    const float all = count + n, share = __fdiv_rn(n, all), cross = count * share;
    count = all;
    return {share, cross};
  }
  __device__ void merge(int j, Weights w, float other_mean, float other_m2) {
    const float delta = other_mean - mean[j];
    mean[j] = __fmaf_rn(delta, w.share, mean[j]);
    m2[j] += __fmaf_rn(delta * delta, w.cross, other_m2);
  }

  // The same number of values of each channel, a power of 2.
  template <int ROWS, class T>
  __device__ void add(const Vector<T, N> (&values)[ROWS]) {
    constexpr float INVERSE = 1.f / ROWS;
    const Weights w = weights(ROWS);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float sum = 0.f, squares = 0.f;
#pragma unroll
      for (int i = 0; i < ROWS; ++i) sum += to_float(values[i].at[j]);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
        const float d = to_float(values[i].at[j]) - sum * INVERSE;
        squares = __fmaf_rn(d, d, squares);
      }
      merge(j, w, sum * INVERSE, squares);
    }
  }

  // Merges the block's threads and writes its part: mean and m2, or of the only part the variance.
  static constexpr int VALUES = 2 * N + 1;
  __device__ void finish(const Rows& rows, const Lane& lane, float* mean_parts, float* m2_parts) {
    merge_rows(
        rows, lane,
        [&](auto put) {
          put(2 * N, count);
#pragma unroll
          for (int j = 0; j < N; ++j) put(2 * j, mean[j]), put(2 * j + 1, m2[j]);
        },
        [&](auto get) {
          const float n = get(2 * N);
          if (n == 0.f) return;
          const Weights w = weights(n);
#pragma unroll
          for (int j = 0; j < N; ++j) merge(j, w, get(2 * j), get(2 * j + 1));
        });
    if (!lane.reads || lane.row > 0) return;
    if (rows.per_block >= rows.count)
#pragma unroll
      for (int j = 0; j < N; ++j) m2[j] = __fdiv_rn(m2[j], count);
    const int64_t to = lane.part * rows.channels + lane.channel;
    write_floats(mean_parts + to, mean);
    write_floats(m2_parts + to, m2);
  }
};

} // namespace fused_resnet::cuda
