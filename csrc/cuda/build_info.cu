#include "build_info.h"

namespace fused_resnet {

std::vector<int> cuda_architectures() {
  std::vector<int> architectures{__CUDA_ARCH_LIST__};
  for (int& architecture : architectures) architecture /= 10;
  return architectures;
}

std::string cuda_version() {
  return std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__);
}

} // namespace fused_resnet
