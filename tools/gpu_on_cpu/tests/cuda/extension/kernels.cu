// Kernels for the tests of emulated extensions.
#include "kernels.h"

#include <cuda_fp16.h>

#include "cuda/portable.h"

namespace sample {

constexpr int ROWS = 8;

// A block of ROWS x 32 threads sums 32 columns.
__global__ void column_sums(Sums p) {
  extern __shared__ __align__(16) float parts[];
  const int row = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 32 + lane;
  float sum = 0;
  for (int r = row; r < p.rows; r += ROWS)
    if (column < p.columns) sum += p.x[static_cast<int64_t>(r) * p.columns + column];
  parts[row * 32 + lane] = sum;
  if (!p.skipped_barrier) __syncthreads();
  if (row || column >= p.columns + p.excess) return;
  for (int i = 1; i < ROWS; i++) sum += parts[i * 32 + lane];
  p.sums[column] = sum;
}

template <class T, int N>
__global__ void __launch_bounds__(256) scaled(Scale p) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  for (int64_t i = first; i < first + N && i < p.n; i++)
    static_cast<T*>(p.y)[i] = static_cast<T>(static_cast<float>(static_cast<const T*>(p.x)[i]) * p.factor);
}

struct Nothing {};
__global__ void empty(Nothing) {}

namespace {
__global__ void hidden(Nothing) {}
}  // namespace

cudaError_t sum_columns(const Sums& p, cudaStream_t stream) {
  return portable::launch(column_sums, (p.columns + 31) / 32, ROWS * 32, ROWS * 32 * sizeof(float), stream, p);
}

cudaError_t scale(const Scale& p, Type type, int threads, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>((p.n + 4 * threads - 1) / (4 * threads));
  if (type == Type::FLOAT) return portable::launch(scaled<float, 4>, blocks, threads, 0, stream, p);
  return portable::launch(scaled<__half, 4>, blocks, threads, 0, stream, p);
}

cudaError_t nothing(unsigned blocks, unsigned threads, int shared, cudaStream_t stream) {
  return portable::launch(empty, blocks, threads, shared, stream, Nothing{});
}
cudaError_t unnamed(cudaStream_t stream) { return portable::launch(hidden, 1, 32, 0, stream, Nothing{}); }

}  // namespace sample
