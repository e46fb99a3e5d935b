// The host side of kernels.cu in Python, as an extension for GPUs would have it.
#include <ATen/ATen.h>
#include <torch/csrc/utils/pybind.h>

#include "kernels.h"

namespace {

void check(cudaError_t error) { TORCH_CHECK(error == cudaSuccess, "the launch failed: ", static_cast<int>(error)); }

// The sums of the columns, times `factor`: two kernels, with a tensor between them that only C++ knows.
at::Tensor sums(const at::Tensor& x, double factor, bool skipped_barrier, int64_t excess) {
  const int rows = static_cast<int>(x.size(0)), columns = static_cast<int>(x.size(1));
  const at::Tensor parts = at::empty({2, columns}, x.options()), y = at::empty({columns}, x.options());
  float* second = parts.mutable_data_ptr<float>() + columns;
  check(sample::sum_columns({x.const_data_ptr<float>(), second, rows, columns, skipped_barrier, static_cast<int>(excess)}, nullptr));
  check(sample::scale({second, y.mutable_data_ptr(), columns, static_cast<float>(factor)}, sample::Type::FLOAT, 64, nullptr));
  return y;
}

at::Tensor scaled(const at::Tensor& x, double factor, int64_t threads, int64_t excess) {
  const at::Tensor y = at::empty_like(x);
  const auto type = x.scalar_type() == at::kHalf ? sample::Type::HALF : sample::Type::FLOAT;
  check(sample::scale({x.const_data_ptr(), y.mutable_data_ptr(), x.numel() + excess, static_cast<float>(factor)}, type,
                      static_cast<int>(threads), nullptr));
  return y;
}

void nothing(unsigned blocks, unsigned threads, int shared) { check(sample::nothing(blocks, threads, shared, nullptr)); }
void unnamed() { check(sample::unnamed(nullptr)); }

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  namespace py = pybind11;
  const auto released = py::call_guard<py::gil_scoped_release>();
  m.def("sums", &sums, py::arg("x"), py::arg("factor"), py::arg("skipped_barrier") = false, py::arg("excess") = 0, released);
  m.def("scaled", &scaled, py::arg("x"), py::arg("factor"), py::arg("threads") = 64, py::arg("excess") = 0, released);
  m.def("nothing", &nothing, released);
  m.def("unnamed", &unnamed, released);
}
