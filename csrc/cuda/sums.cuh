// Σg and Σg·xhat of BN's backward over the rows of a block.
#pragma once

#include "rows.cuh"

namespace fused_resnet::cuda {

// Adds up what the threads of each column hold, Σg and for every unit Σg·(y - mean), and writes this block's part
// [1 + units, C]: Σg, and with the units' norms [4, C] their Σg·xhat.
template <int UNITS, int N>
__device__ inline void write_sums(const Rows& rows, const Lane& lane, float (&sums)[1 + UNITS][N],
                                  const float* const* norm, int units, float* parts) {
  merge_rows(
      rows, lane,
      [&](auto put) {
#pragma unroll
        for (int k = 0; k < (1 + UNITS) * N; ++k) put(k, sums[k / N][k % N]);
      },
      [&](auto get) {
#pragma unroll
        for (int k = 0; k < (1 + UNITS) * N; ++k) sums[k / N][k % N] += get(k);
      });
  if (!lane.reads || lane.row > 0) return;
  const int64_t C = rows.channels;
  float* const to = parts + lane.part * (1 + units) * C + lane.channel;
  write_floats(to, sums[0]);
#pragma unroll
  for (int u = 0; u < UNITS; ++u) {
    if (u >= units) break;
    float invstd[N];
    read_floats(norm[u] + C + lane.channel, invstd);
#pragma unroll
    for (int j = 0; j < N; ++j) sums[1 + u][j] *= invstd[j];
    write_floats(to + (1 + u) * C, sums[1 + u]);
  }
}

} // namespace fused_resnet::cuda
