// The C interface by which Python steers kernels that are emulated inside its own process (cuda/extensions.py).
#pragma once
#include <dlfcn.h>

#include "buffers.h"
#include "driver.h"

namespace emu {

// Called at every portable::launch with the place of the kernel in its shared library, the extents of grid and block,
// the dynamic shared memory, and the bytes of its parameter. Returns a cudaError_t, or RUN_IT_HERE, on which the kernel
// runs in fibers.
using LaunchHandler = int (*)(size_t kernel, const unsigned* grid, const unsigned* block, size_t dynamic_shared, const void* params, size_t bytes);
constexpr int RUN_IT_HERE = -1;
inline LaunchHandler launch_handler = nullptr;

inline size_t offset_in_library(const void* function) {
  Dl_info found;
  if (!dladdr(function, &found)) die("launch: not the address of a kernel");
  return static_cast<const char*>(function) - static_cast<const char*>(found.dli_fbase);
}

}  // namespace emu

extern "C" {
void gpu_on_cpu_launch_handler(emu::LaunchHandler handler) { emu::launch_handler = handler; }
void gpu_on_cpu_seed(int seed) { emu::seed = seed; }

// For a process whose end somebody else reports.
void gpu_on_cpu_report_faults() { emu::report_faults(); }
}
