// Which activations the CPU kernels take. In C++, because from Python a look at every tensor costs more than a kernel
// on a small one.
#include "acceptance.h"

#include <torch/csrc/autograd/python_variable.h>

namespace fused_resnet {

namespace {

// Whether a tensor that is dense in both layouts has the strides that ATen falls back to. With one channel or one
// pixel, how ATen lays out a result depends on the strides of dimensions of size 1. The kernels keep the argument's
// strides, which comes to the same only here.
bool default_strides(const at::Tensor& t) {
  const int64_t width = t.size(3), pixels = t.size(2) * width;
  return t.stride(0) == t.size(1) * pixels && t.stride(1) == pixels && t.stride(2) == width && t.stride(3) == 1;
}

// The tensor at a position of Python's arguments; undefined for None.
at::Tensor tensor_at(const pybind11::tuple& args, int64_t position) {
  PyObject* argument = PyTuple_GetItem(args.ptr(), position);
  if (!argument) throw pybind11::error_already_set();
  return THPVariable_Check(argument) ? THPVariable_Unpack(argument) : at::Tensor();
}

} // namespace

std::optional<std::string> refuses_activations(const pybind11::tuple& args, const pybind11::tuple& positions,
                                               int64_t layout, bool ambiguous) {
  const at::Tensor first = tensor_at(args, PyLong_AsLong(positions[0].ptr()));
  for (const pybind11::handle item : positions) {
    const int64_t position = PyLong_AsLong(item.ptr());
    const at::Tensor t = tensor_at(args, position);
    if (!t.defined()) continue;
    const std::string name = "argument " + std::to_string(position);
    if (t.scalar_type() != first.scalar_type() && t.scalar_type() != at::kByte) return name + " is of another dtype";
    if (!t.is_contiguous(at::MemoryFormat::ChannelsLast)) return name + " is not dense in channels_last";
    if (!t.is_contiguous()) continue;
    const bool takes = layout < 0 ? ambiguous && default_strides(t) : position != layout;
    if (!takes) return "the layout of " + name + " is ambiguous";
  }
  return std::nullopt;
}

} // namespace fused_resnet
