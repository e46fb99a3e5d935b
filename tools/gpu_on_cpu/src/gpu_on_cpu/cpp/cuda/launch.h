// The emulated side of portable::launch: runs the kernel in fibers, or hands the launch to whoever executes its PTX.
#pragma once
#include "language.h"

namespace portable {

template <class Params>
cudaError_t launch(void (*kernel)(Params), dim3 grid, dim3 block, size_t dynamic_shared, cudaStream_t, const Params& params) {
  static_assert(std::is_trivially_copyable_v<Params>, "the parameters of a kernel are copied as bytes");
  auto call = [&] { kernel(params); };
  const emu::PortableLaunch wanted{reinterpret_cast<const void*>(kernel), emu::from_dim3(grid), emu::from_dim3(block), dynamic_shared, &params, sizeof params};
  return static_cast<cudaError_t>(emu::launch(wanted, [](void* c) { (*static_cast<decltype(call)*>(c))(); }, &call));
}

}  // namespace portable
