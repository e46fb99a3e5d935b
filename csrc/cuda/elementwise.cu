// act(scale*y + shift + residual), and BN's backward a*g + b*y + c.
#include "elementwise.h"

#include "rows.cuh"

namespace fused_resnet::cuda {

// Rows that a thread has in flight, fewer where it reads more tensors.
template <bool MORE>
constexpr int IN_FLIGHT = MORE ? 2 : 4;

template <class T, int N, bool RESIDUAL>
__global__ void __launch_bounds__(BLOCK) bn_act(BnAct p) {
  constexpr int ROWS = IN_FLIGHT<RESIDUAL>;
  const Lane lane = lane_of<N>(p.rows);
  const auto y = static_cast<const T*>(p.y), residual = static_cast<const T*>(p.residual);
  const int64_t C = p.rows.channels;
  float scale[N], shift[N], residual_scale[N], residual_shift[N];
  read_floats(p.norm + 2 * C + lane.channel, scale);
  read_floats(p.norm + 3 * C + lane.channel, shift);
  if (RESIDUAL && p.residual_norm) {
    read_floats(p.residual_norm + 2 * C + lane.channel, residual_scale);
    read_floats(p.residual_norm + 3 * C + lane.channel, residual_shift);
  }
  for (int64_t at = lane.begin; at < lane.end; at += ROWS * lane.step) {
    Packed<T, N> y_read[ROWS], residual_read[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int64_t from = at + i * lane.step;
      if (from < lane.end) y_read[i].load(y + from);
      if (RESIDUAL && from < lane.end) residual_read[i].load(residual + from);
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      if (at + i * lane.step >= lane.end) break;
      Vector<T, N> v = y_read[i].unpacked();
      const Vector<T, N> r = residual_read[i].unpacked();
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float z = __fmaf_rn(to_float(v.at[j]), scale[j], shift[j]);
        if (RESIDUAL) {
          const float x = to_float(r.at[j]);
          z += p.residual_norm ? __fmaf_rn(x, residual_scale[j], residual_shift[j]) : x;
        }
        v.at[j] = from_float<T>(p.relu ? relu(z) : z);
      }
      store(static_cast<T*>(p.out) + at + i * lane.step, v);
    }
  }
}

template <class T, int N>
__global__ void __launch_bounds__(BLOCK) bn_act_bwd_apply(BnBackwardApply p) {
  constexpr int ROWS = IN_FLIGHT<true>;
  const Lane lane = lane_of<N>(p.rows);
  const auto g = static_cast<const T*>(p.g), y = static_cast<const T*>(p.y);
  const int64_t C = p.rows.channels;
  float a[N], b[N], c[N];
  read_floats(p.dnorm + lane.channel, a);
  read_floats(p.dnorm + C + lane.channel, b);
  read_floats(p.dnorm + 2 * C + lane.channel, c);
  for (int64_t at = lane.begin; at < lane.end; at += ROWS * lane.step) {
    Packed<T, N> g_read[ROWS], y_read[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int64_t from = at + i * lane.step;
      if (from < lane.end) g_read[i].load(g + from);
      if (y && from < lane.end) y_read[i].load(y + from);
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      if (at + i * lane.step >= lane.end) break;
      Vector<T, N> dy = g_read[i].unpacked();
      const Vector<T, N> read = y_read[i].unpacked();
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float x = to_float(dy.at[j]);
        dy.at[j] = from_float<T>(y ? norm_backward(x, to_float(read.at[j]), a[j], b[j], c[j]) : a[j] * x);
      }
      store(static_cast<T*>(p.dy) + at + i * lane.step, dy);
    }
  }
}

cudaError_t launch_bn_act(const BnAct& problem, Storage storage, int numbers, cudaStream_t stream) {
  return with_numbers(storage, numbers, [&](auto t, auto n) {
    using T = decltype(t);
    constexpr int N = decltype(n)::value;
    if (problem.residual) return launch_rows(bn_act<T, N, true>, 0, problem, stream);
    return launch_rows(bn_act<T, N, false>, 0, problem, stream);
  });
}

cudaError_t launch_bn_act_bwd_apply(const BnBackwardApply& problem, Storage storage, int numbers, cudaStream_t stream) {
  return with_numbers(storage, numbers, [&](auto t, auto n) {
    return launch_rows(bn_act_bwd_apply<decltype(t), decltype(n)::value>, 0, problem, stream);
  });
}

} // namespace fused_resnet::cuda
