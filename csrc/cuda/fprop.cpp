// Forward convolutions.
#include "fprop.h"

#include "convolution.h"
#include "merge.h"
#include "ops.h"
#include "tiles.h"

namespace fused_resnet::cuda {

namespace {

Fprop problem(const Convolution& conv, const Tensor& x, const Tensor& weight, const OptionalTensor& x_norm,
              const std::string& x_act, Tensor& out) {
  Fprop p{};
  p.x = data(x), p.weight = data(weight), p.out = out.mutable_data_ptr();
  p.x_norm = check_vectors(x_norm, 4, conv.c, "x_norm");
  p.x_relu = is_relu(x_act, "x_act");
  p.pixels = conv.outputs(), p.window = conv.window();
  p.group_channels = Divider(conv.c / conv.groups), p.taps_w = Divider(conv.s);
  p.channels = static_cast<int>(conv.c), p.filters = static_cast<int>(conv.k);
  p.groups = static_cast<int>(conv.groups);
  return p;
}

} // namespace

Tensor conv_fprop(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& x_norm,
                  const std::string& x_act, Pair stride, Pair padding, Pair dilation, int64_t groups,
                  const OptionalTensor& norm, const OptionalTensor& residual, const std::string& act, int64_t tile) {
  check_activation(x, "x");
  const Device device(x);
  const Convolution conv(x.sizes(), weight.sizes(), stride, padding, dilation, groups);
  const Tensor filters = check_weight(weight, x, "weight");
  Tensor out = new_activation(x, conv.n, conv.k, conv.p, conv.q);
  Fprop p = problem(conv, x, filters, x_norm, x_act, out);
  if (residual) check_size(*residual, x, out.sizes(), "residual");
  const Tensor added = bias ? check_weight(*bias, x, "bias") : Tensor();
  p.bias = bias ? data(added) : nullptr, p.residual = data(residual);
  p.norm = check_vectors(norm, 4, conv.k, "norm");
  p.relu = is_relu(act, "act");
  check_launch(launch_fprop(p, storage_of(x, "x"), conv.aligned(x), tile, device.stream), "conv_fprop");
  return out;
}

std::tuple<Tensor, Tensor, Tensor> conv_fprop_stats(const Tensor& x, const Tensor& weight,
                                                    const OptionalTensor& x_norm, const std::string& x_act,
                                                    Pair stride, Pair padding, Pair dilation, int64_t groups,
                                                    int64_t tile) {
  check_activation(x, "x");
  const Device device(x);
  const Convolution conv(x.sizes(), weight.sizes(), stride, padding, dilation, groups);
  const Tensor filters = check_weight(weight, x, "weight");
  Tensor y = new_activation(x, conv.n, conv.k, conv.p, conv.q);
  Fprop p = problem(conv, x, filters, x_norm, x_act, y);
  const int64_t rows = tile_rows(tile), tiles = cdiv(p.pixels.count, rows);
  Tensor mean = new_vectors(x, {tiles, conv.k}), m2 = new_vectors(x, {tiles, conv.k});
  p.mean = floats(mean), p.m2 = floats(m2);
  check_launch(launch_fprop(p, storage_of(x, "x"), conv.aligned(x), tile, device.stream), "conv_fprop_stats");
  return std::tuple_cat(std::tuple(y), merged_moments(mean, m2, rows, p.pixels.count, device));
}

} // namespace fused_resnet::cuda
