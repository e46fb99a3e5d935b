#include "build_info.h"

namespace fused_resnet {

__global__ void probe() {}

std::vector<int> cuda_architectures() {
  std::vector<int> architectures{__CUDA_ARCH_LIST__};
  for (int& architecture : architectures) architecture /= 10;
  return architectures;
}

std::string cuda_version() {
  return std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__);
}

bool has_cuda_code() {
  cudaFuncAttributes attributes;
  const bool found = cudaFuncGetAttributes(&attributes, probe) == cudaSuccess;
  cudaGetLastError(); // that there is none is no error of the next launch
  return found;
}

} // namespace fused_resnet
