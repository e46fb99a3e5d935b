// Which activations the CPU kernels take, asked before every op.
#pragma once

#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>

namespace fused_resnet {

// Why the kernels cannot take these arguments of an op, or nothing. `positions`: which of them are activations, the
// first one always. `layout`: the one whose layout the op's result gets, -1 for every one. `ambiguous`: are activations
// taken that are dense in both layouts?
std::optional<std::string> refuses_activations(const pybind11::tuple& args, const pybind11::tuple& positions,
                                               int64_t layout, bool ambiguous);

} // namespace fused_resnet
