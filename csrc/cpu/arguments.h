// Argument checks and conversions that the ops share.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/Parallel.h>

#include <limits>
#include <string>
#include <type_traits>

#include "kernels.h"
#include "ops.h"
#include "pool_of_buffers.h"
#include "rows.h"

namespace fused_resnet {

// The Python side has checked everything; this guards the raw pointers against a direct call.
inline void check_activation(const Tensor& t, const char* name) {
  TORCH_CHECK(t.device().is_cpu() && t.dim() == 4 && t.is_contiguous(at::MemoryFormat::ChannelsLast), name,
              ": expected a dense channels_last CPU tensor, got sizes ", t.sizes(), ", strides ", t.strides(), " on ",
              t.device());
  TORCH_CHECK(t.numel() > 0, name, ": expected at least one element, got sizes ", t.sizes());
}

inline void check_like(const Tensor& t, const Tensor& other, const char* name) {
  check_activation(t, name);
  TORCH_CHECK(t.sizes() == other.sizes() && t.scalar_type() == other.scalar_type(), name, ": expected ",
              other.scalar_type(), " of sizes ", other.sizes(), ", got ", t.scalar_type(), " of sizes ", t.sizes());
}

// A new dense channels_last activation like `t`.
inline Tensor empty_activation(at::IntArrayRef sizes, const Tensor& t) {
  return empty_recycled(sizes, t.scalar_type(), at::MemoryFormat::ChannelsLast);
}

// A new activation that lies as `t` does, also where one pixel or one channel makes its layout ambiguous.
inline Tensor empty_activation_like(const Tensor& t) {
  return t.is_contiguous() ? at::empty_like(t) : empty_activation(t.sizes(), t);
}

// A per-channel tensor of `rows` rows, dense, in the accumulation dtype.
template <class A>
Tensor check_vectors(const Tensor& t, int64_t rows, int64_t channels, const char* name) {
  TORCH_CHECK(t.device().is_cpu() && t.numel() == rows * channels && t.size(-1) == channels, name, ": expected ",
              rows, " vectors of ", channels, " channels on the CPU, got sizes ", t.sizes(), " on ", t.device());
  constexpr at::ScalarType dtype = c10::CppTypeToScalarType<A>::value;
  return t.scalar_type() == dtype ? t.contiguous() : t.to(dtype).contiguous(); // a call of `to` takes its time
}

template <class A>
A activation_floor(const std::string& act) {
  TORCH_CHECK(act == "relu" || act == "identity", "act: expected relu or identity, got ", act);
  return act == "relu" ? A(0) : -std::numeric_limits<A>::infinity();
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

inline Rows rows_of(const Tensor& t) { return Rows(t.numel() / t.size(1), t.size(1)); }

// Per-channel vectors, repeated for every pixel of a row.
template <class A>
class Lanes {
 public:
  Lanes(const Tensor& t, int64_t vectors, const Rows& rows, const char* name)
      : width_(rows.width), tensor_(check_vectors<A>(t, vectors, rows.channels, name)) {
    if (rows.pixels_per_row == 1) return;
    const Tensor once = tensor_;
    tensor_ = at::empty({vectors, width_}, once.options());
    for (int64_t v = 0; v < vectors; ++v)
      for (int64_t lane = 0; lane < width_; lane += rows.channels)
        std::copy_n(data<A>(once) + v * rows.channels, rows.channels, data<A>(tensor_) + v * width_ + lane);
  }
  const A* operator[](int64_t vector) const { return tensor_.const_data_ptr<A>() + vector * width_; }

 private:
  int64_t width_;
  Tensor tensor_;
};

template <class T>
Affine<T> affine_of(const Lanes<Acc<T>>& norm) {
  return {norm[2], norm[3]};
}

// Calls f with a value of the storage type.
template <class F>
auto dispatch(const Tensor& t, const char* name, F&& f) {
  switch (t.scalar_type()) {
    case at::kFloat: return f(float{});
    case at::kDouble: return f(double{});
    case at::kBFloat16: return f(BFloat16{});
    default: TORCH_CHECK(false, name, ": expected fp32, fp64 or bf16, got ", t.scalar_type());
  }
}

// The same for matrix products, whose arithmetic is in float.
template <class F>
auto dispatch_products(const Tensor& t, const char* name, F&& f) {
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, name, ": expected fp32 or bf16, got ",
              t.scalar_type());
  return t.scalar_type() == at::kFloat ? f(float{}) : f(BFloat16{});
}

// Elements that are worth a thread.
constexpr int64_t min_task = 32768;

// f(first, size): the element offset and number of elements of a run of whole rows.
template <class F>
void for_rows(const Rows& rows, const F& f) {
  at::parallel_for(0, rows.count, std::max<int64_t>(1, min_task / rows.width), [&](int64_t begin, int64_t end) {
    f(rows.offset(begin), rows.offset(end) - rows.offset(begin));
  });
}

} // namespace fused_resnet
