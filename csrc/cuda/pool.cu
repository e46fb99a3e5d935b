// The stem's max-pool, which normalises while it reads, and its backward, in which every pixel gathers what it gets.
#include "pool.h"

#include <cmath>

#include "sums.cuh"

namespace fused_resnet::cuda {

struct Pixel {
  int64_t image;
  int row, column;
};

__device__ inline Pixel pixel_of(const PoolShape& shape, int n) {
  const int image = shape.per_image.divide(n);
  n -= image * static_cast<int>(shape.per_image.divisor);
  const int row = shape.per_row.divide(n);
  return {image, row, n - row * static_cast<int>(shape.per_row.divisor)};
}

// The largest of the values so far. The first of equal ones wins, and a NaN over everything before it, as in torch.
template <int N>
struct Largest {
  float value[N];
  int position[N];

  __device__ explicit Largest(int first) { // in the map: wins where all are -inf
#pragma unroll
    for (int j = 0; j < N; ++j) value[j] = -INFINITY, position[j] = first;
  }
  __device__ void add(int j, float z, int at) {
    const bool wins = z > value[j] || z != z;
    value[j] = wins ? z : value[j];
    position[j] = wins ? at : position[j];
  }
};

constexpr int LOADS = 3; // in flight, of a window's row

template <class T, int N>
__global__ void __launch_bounds__(BLOCK) bn_act_maxpool(Pool p) {
  const Lane lane = lane_of<N>(p.rows);
  const PoolShape& s = p.shape;
  const auto y = static_cast<const T*>(p.y) + lane.channel;
  const int64_t C = p.rows.channels;
  float scale[N], shift[N];
  read_floats(p.norm + 2 * C + lane.channel, scale);
  read_floats(p.norm + 3 * C + lane.channel, shift);
  int pixel = static_cast<int>(lane.part * p.rows.per_block) + lane.row;
  for (int64_t at = lane.begin; at < lane.end; at += lane.step, pixel += p.rows.height) {
    const Pixel to = pixel_of(s, pixel);
    const int top = to.row * s.stride[0] - s.padding[0], left = to.column * s.stride[1] - s.padding[1];
    const int begin_i = max(0, -top), end_i = min(s.kernel[0], s.height - top);
    const int begin_j = max(0, -left), end_j = min(s.kernel[1], s.width - left);
    Largest<N> largest(begin_i * s.kernel[1] + begin_j);
    for (int i = begin_i; i < end_i; ++i) {
      const T* const row = y + ((to.image * s.height + top + i) * s.width + left) * C;
      for (int j = begin_j; j < end_j; j += LOADS) {
        Vector<T, N> v[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; ++k) v[k] = load<N>(row + min(j + k, end_j - 1) * C);
#pragma unroll
        for (int k = 0; k < LOADS; ++k) // the last one again is not larger than itself
#pragma unroll
          for (int e = 0; e < N; ++e) {
            // What is compared is what an unfused pool would have read: the stored value.
            const float z = norm_act(to_float(v[k].at[e]), scale[e], shift[e], p.relu);
            largest.add(e, to_float(from_float<T>(z)), i * s.kernel[1] + min(j + k, end_j - 1));
          }
      }
    }
    Vector<T, N> out;
    Vector<uint8_t, N> argmax;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      out.at[e] = from_float<T>(largest.value[e]);
      argmax.at[e] = static_cast<uint8_t>(largest.position[e]);
    }
    store(static_cast<T*>(p.out) + at, out);
    store(p.argmax + at, argmax);
  }
}

// The outputs whose windows cover a position of the padded map: output*stride <= position < output*stride + kernel.
struct Covering {
  int first, last;
};
__device__ inline Covering covering(const PoolShape& s, int dimension, int position, int outputs) {
  const Divider& stride = s.strides[dimension];
  return {stride.divide(max(0, position - s.kernel[dimension] + s.stride[dimension])),
          min(outputs - 1, stride.divide(position))};
}

// What the pixel gets of dout, in the order of the windows.
template <class T, int N>
__device__ inline void gather(const PoolBackward& p, const Pixel& pixel, int channel, float (&sum)[N]) {
  constexpr int LOADS = 2;
  const PoolShape& s = p.shape;
  const auto dout = static_cast<const T*>(p.dout) + channel;
  const int h = pixel.row + s.padding[0], w = pixel.column + s.padding[1];
  const Covering rows = covering(s, 0, h, s.out_height), columns = covering(s, 1, w, s.out_width);
#pragma unroll
  for (int e = 0; e < N; ++e) sum[e] = 0.f;
  for (int i = rows.first; i <= rows.last; ++i) {
    const int64_t row = (pixel.image * s.out_height + i) * s.out_width;
    for (int j = columns.first; j <= columns.last; j += LOADS) {
      Vector<T, N> v[LOADS];
      Vector<uint8_t, N> argmax[LOADS];
#pragma unroll
      for (int k = 0; k < LOADS; ++k) {
        const int64_t at = (row + min(j + k, columns.last)) * p.rows.channels;
        v[k] = load<N>(dout + at);
        argmax[k] = load<N>(p.argmax + channel + at);
      }
#pragma unroll
      for (int k = 0; k < LOADS; ++k) {
        const int place = (h - i * s.stride[0]) * s.kernel[1] + w - (j + k) * s.stride[1];
#pragma unroll
        for (int e = 0; e < N; ++e)
          if (j + k <= columns.last && argmax[k].at[e] == place) sum[e] += to_float(v[k].at[e]);
      }
    }
  }
}

template <class T, int N>
__global__ void __launch_bounds__(BLOCK) bn_act_maxpool_bwd_reduce(PoolBackward p) {
  const Lane lane = lane_of<N>(p.rows);
  const int64_t C = p.rows.channels;
  float mean[N], scale[N], shift[N], sums[2][N] = {};
  read_floats(p.norm[0] + lane.channel, mean);
  read_floats(p.norm[0] + 2 * C + lane.channel, scale);
  read_floats(p.norm[0] + 3 * C + lane.channel, shift);
  int pixel = static_cast<int>(lane.part * p.rows.per_block) + lane.row;
  for (int64_t at = lane.begin; at < lane.end; at += lane.step, pixel += p.rows.height) {
    const Vector<T, N> y = load<N>(static_cast<const T*>(p.y) + at);
    float sum[N];
    gather<T>(p, pixel_of(p.shape, pixel), lane.channel, sum);
    Vector<T, N> g;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const float read = to_float(y.at[e]);
      g.at[e] = from_float<T>(stopped(read, scale[e], shift[e], p.relu) ? 0.f : sum[e]);
      sums[0][e] += to_float(g.at[e]);
      sums[1][e] = __fmaf_rn(to_float(g.at[e]), read - mean[e], sums[1][e]);
    }
    store(static_cast<T*>(p.g) + at, g);
  }
  write_sums<1>(p.rows, lane, sums, p.norm, 1, p.sums);
}

cudaError_t launch_bn_act_maxpool(const Pool& problem, Storage storage, int numbers, cudaStream_t stream) {
  return with_numbers(storage, numbers, [&](auto t, auto n) {
    return launch_rows(bn_act_maxpool<decltype(t), decltype(n)::value>, 0, problem, stream);
  });
}

cudaError_t launch_bn_act_maxpool_bwd_reduce(const PoolBackward& problem, Storage storage, int numbers,
                                             cudaStream_t stream) {
  return with_numbers(storage, numbers, [&](auto t, auto n) {
    constexpr int N = decltype(n)::value;
    return launch_rows(bn_act_maxpool_bwd_reduce<decltype(t), N>, MERGING_BYTES<2 * N>, problem, stream);
  });
}

} // namespace fused_resnet::cuda
