// Batch statistics, and BN's backward sums.
#include "reduce.h"

#include "moments.cuh"
#include "sums.cuh"

namespace fused_resnet::cuda {

template <class T, int N>
__global__ void __launch_bounds__(BLOCK) bn_stats(Statistics p) {
  constexpr int ROWS = 4;
  const Lane lane = lane_of<N>(p.rows);
  const auto y = static_cast<const T*>(p.y);
  RunningMoments<N> moments;
  int64_t at = lane.begin;
  for (; at + (ROWS - 1) * lane.step < lane.end; at += ROWS * lane.step) {
    Vector<T, N> values[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) values[i] = load<N>(y + at + i * lane.step);
    moments.add(values);
  }
  for (; at < lane.end; at += lane.step) {
    const Vector<T, N> values[1] = {load<N>(y + at)};
    moments.add(values);
  }
  moments.finish(p.rows, lane, p.mean, p.m2);
}

// g becomes 0 where stops(j).
template <class T, int N, class F>
__device__ inline void stop(Vector<T, N>& g, const F& stops) {
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (stops(j)) g.at[j] = from_float<T>(0.f);
}

// UNITS: BNs whose Σg·xhat is wanted, at most.
template <class T, int N, int UNITS>
__global__ void __launch_bounds__(BLOCK) bn_act_bwd_reduce(BackwardReduce p) {
  constexpr int ROWS = 2;
  const Lane lane = lane_of<N>(p.rows);
  const auto dout = static_cast<const T*>(p.dout), out = static_cast<const T*>(p.out);
  const int64_t C = p.rows.channels;
  float scale[N], shift[N], mean[UNITS][N], sums[1 + UNITS][N] = {};
  if (p.y[0]) {
    read_floats(p.norm[0] + 2 * C + lane.channel, scale);
    read_floats(p.norm[0] + 3 * C + lane.channel, shift);
#pragma unroll
    for (int u = 0; u < UNITS; ++u) read_floats(p.norm[u] + lane.channel, mean[u]);
  }
  for (int64_t at = lane.begin; at < lane.end; at += ROWS * lane.step) {
    Packed<T, N> dout_read[ROWS], out_read[ROWS], y_read[UNITS][ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int64_t from = at + i * lane.step;
      if (from < lane.end) dout_read[i].load(dout + from);
      if (out && from < lane.end) out_read[i].load(out + from);
      if (p.y[0] && from < lane.end)
#pragma unroll
        for (int u = 0; u < UNITS; ++u) y_read[u][i].load(static_cast<const T*>(p.y[u]) + from);
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      if (at + i * lane.step >= lane.end) break;
      Vector<T, N> g = dout_read[i].unpacked();
      if (out) {
        const Vector<T, N> mask = out_read[i].unpacked();
        stop(g, [&](int j) { return to_float(mask.at[j]) <= 0.f; });
      } else if (p.relu) {
        const Vector<T, N> y = y_read[0][i].unpacked();
        stop(g, [&](int j) { return stopped(to_float(y.at[j]), scale[j], shift[j], true); });
      }
      store(static_cast<T*>(p.g) + at + i * lane.step, g);
#pragma unroll
      for (int j = 0; j < N; ++j) sums[0][j] += to_float(g.at[j]);
      if (!p.y[0]) continue;
#pragma unroll
      for (int u = 0; u < UNITS; ++u) {
        const Vector<T, N> y = y_read[u][i].unpacked();
#pragma unroll
        for (int j = 0; j < N; ++j)
          sums[1 + u][j] = __fmaf_rn(to_float(g.at[j]), to_float(y.at[j]) - mean[u][j], sums[1 + u][j]);
      }
    }
  }
  write_sums<UNITS>(p.rows, lane, sums, p.norm, p.y[0] ? UNITS : 0, p.sums);
}

cudaError_t launch_bn_stats(const Statistics& problem, Storage storage, int numbers, cudaStream_t stream) {
  return with_numbers(storage, numbers, [&](auto t, auto n) {
    constexpr int N = decltype(n)::value;
    return launch_rows(bn_stats<decltype(t), N>, MERGING_BYTES<RunningMoments<N>::VALUES>, problem, stream);
  });
}

cudaError_t launch_bn_act_bwd_reduce(const BackwardReduce& problem, Storage storage, int numbers, cudaStream_t stream) {
  return with_numbers(storage, numbers, [&](auto t, auto n) {
    using T = decltype(t);
    constexpr int N = decltype(n)::value;
    if (problem.y[1]) return launch_rows(bn_act_bwd_reduce<T, N, 2>, MERGING_BYTES<3 * N>, problem, stream);
    return launch_rows(bn_act_bwd_reduce<T, N, 1>, MERGING_BYTES<2 * N>, problem, stream);
  });
}

} // namespace fused_resnet::cuda
