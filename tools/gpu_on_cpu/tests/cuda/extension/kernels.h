// Launchers of kernels.cu; no torch here.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace sample {

struct Sums {
  const float* x;  // [rows, columns]
  float* sums;     // [columns]
  int rows, columns;
  int skipped_barrier, excess;  // mistakes on demand
};
cudaError_t sum_columns(const Sums& p, cudaStream_t stream);

struct Scale {
  const void* x;
  void* y;
  int64_t n;
  float factor;
};
enum class Type { FLOAT, HALF };
cudaError_t scale(const Scale& p, Type type, int threads, cudaStream_t stream);

cudaError_t nothing(unsigned blocks, unsigned threads, int shared, cudaStream_t stream);
cudaError_t unnamed(cudaStream_t stream);

}  // namespace sample
