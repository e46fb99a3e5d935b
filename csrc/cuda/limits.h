// Sizes from which on the host works in another way.
#pragma once

#include <cstdint>
#ifdef FUSED_RESNET_EMULATED
#include <cstdlib>
#endif

namespace fused_resnet::cuda {

// `real` on a GPU. Where kernels run on the CPU, problems are small and take the ways of large ones by `small`, unless the
// environment's FUSED_RESNET_REAL_LIMITS asks for what a GPU does.
inline int64_t limit(int64_t real, [[maybe_unused]] int64_t small) {
#ifdef FUSED_RESNET_EMULATED
  if (std::getenv("FUSED_RESNET_REAL_LIMITS") == nullptr) return small;
#endif
  return real;
}

} // namespace fused_resnet::cuda
