// What the convolution ops share: checked sizes, operands and results.
#pragma once

#include "arguments.h"
#include "product.h"

namespace fused_resnet {

// Sizes of a convolution; raises where they do not fit.
Convolution convolution(at::IntArrayRef input, at::IntArrayRef weight, Pair stride, Pair padding, Pair dilation,
                        int64_t groups);

inline void check_sizes(const Tensor& t, at::IntArrayRef sizes, const Tensor& like, const char* name) {
  check_activation(t, name);
  TORCH_CHECK(t.sizes() == sizes && t.scalar_type() == like.scalar_type(), name, ": expected ", like.scalar_type(),
              " of sizes ", sizes, ", got ", t.scalar_type(), " of sizes ", t.sizes());
}

inline const float* row(const Tensor& vectors, int64_t index) {
  return vectors.const_data_ptr<float>() + index * vectors.size(-1);
}

// An operand of a product with the vectors that it points to.
template <class T>
struct Read {
  Operand<T> operand;
  Tensor vectors;
};

// act(BN(x)), or x where there is no BN.
template <class T>
Read<T> read_activation(const Tensor& x, const OptionalTensor& norm, const std::string& act) {
  Read<T> read{{data<T>(x)}, {}};
  if (!norm) return read;
  read.vectors = check_vectors<float>(*norm, 4, x.size(1), "x_norm");
  read.operand.affine = {row(read.vectors, 2), row(read.vectors, 3)};
  read.operand.floor = activation_floor<float>(act);
  return read;
}

// BN's backward a*g + b*y + c, or g where there is none.
template <class T>
Read<T> read_gradient(const Tensor& g, const OptionalTensor& y, const OptionalTensor& dnorm) {
  Read<T> read{{data<T>(g)}, {}};
  if (!dnorm) return read;
  read.vectors = check_vectors<float>(*dnorm, 3, g.size(1), "dnorm");
  read.operand.a = row(read.vectors, 0);
  if (!y) return read;
  check_like(*y, g, "y");
  read.operand.y = data<T>(*y);
  read.operand.b = row(read.vectors, 1);
  read.operand.c = row(read.vectors, 2);
  return read;
}

// Per-channel factors and summands of an epilogue, if there are `any`.
struct Affines {
  Tensor vectors; // [2, K]: scale, shift
  bool any;
};

// scale*(y + bias) + shift as one affine map of y.
Affines epilogue_affine(const OptionalTensor& norm, const OptionalTensor& bias, int64_t filters);

// Where the outputs of a gather lie in an activation [.., height, width, channels].
inline Placement placement_of(const Gather& gather, int64_t height, int64_t width, int64_t channels) {
  return gather.cols.out == width && gather.rows.out == height ? dense_placement(height, width, channels)
                                                               : Placement{0, 0, channels, 0};
}

} // namespace fused_resnet
