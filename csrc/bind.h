// What the Python modules' sources share.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace fused_resnet {

// Makes a function that takes tensors part of the module; others may run Python meanwhile.
template <class F, class... Args>
void op(pybind11::module_& module, const char* name, F function, Args... args) {
  module.def(name, function, args..., pybind11::call_guard<pybind11::gil_scoped_release>());
}

namespace cuda {

// Makes the CUDA ops part of the module.
void bind_cuda(pybind11::module_& module);

} // namespace cuda
} // namespace fused_resnet
