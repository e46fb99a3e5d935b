// Folded 1x1 convolutions.
#include "folded.h"

#include "convolution.h"
#include "merge.h"
#include "ops.h"
#include "tiles.h"

namespace fused_resnet::cuda {

namespace {

FoldedDgrad problem(const Convolution& conv, const Tensor& g, const Tensor& weight_g, const Tensor& x,
                    const OptionalTensor& x_norm, const std::string& x_act, const Tensor& weight_x, const Tensor& bias,
                    Tensor& out) {
  check_size(g, x, {conv.n, conv.k, conv.p, conv.q}, "g");
  FoldedDgrad p{};
  p.g = data(g), p.weight_g = data(weight_g), p.x = data(x), p.weight_x = data(weight_x);
  p.out = out.mutable_data_ptr();
  p.x_norm = check_vectors(x_norm, 4, conv.c, "x_norm"), p.x_relu = is_relu(x_act, "x_act");
  p.bias = check_vectors(bias, 1, conv.c, "bias");
  p.window = conv.window(), p.all_channels = Divider(conv.c);
  p.channels = static_cast<int>(conv.c), p.filters = static_cast<int>(conv.k);
  return p;
}

// All lattices, LATTICES at a time.
void launch(FoldedDgrad& p, const Convolution& conv, const Tensor& x, int64_t tile, const Device& device,
            const char* op) {
  p.tiles = static_cast<int>(cdiv(conv.lattice_size(), tile_rows(tile)));
  for (int64_t first = 0; first < conv.lattices(); first += LATTICES) {
    p.first = static_cast<int>(first), p.count = static_cast<int>(std::min<int64_t>(LATTICES, conv.lattices() - first));
    for (int i = 0; i < p.count; ++i) p.lattices[i] = conv.lattice(first + i);
    check_launch(launch_folded_dgrad(p, storage_of(x, "x"), conv.aligned(x), tile, device.stream), op);
  }
}

} // namespace

Tensor folded_dgrad(const Tensor& g, const Tensor& weight_g, const Tensor& x, const OptionalTensor& x_norm,
                    const std::string& x_act, const Tensor& weight_x, const Tensor& bias, Pair stride,
                    const OptionalTensor& residual, int64_t tile) {
  check_activation(x, "x");
  const Device device(x);
  const Convolution conv = pointwise(x, g.size(1), stride);
  const Tensor of_g = check_weight(weight_g, x, "weight_g"), of_x = check_weight(weight_x, x, "weight_x");
  Tensor dx = new_activation(x, conv.n, conv.c, conv.h, conv.w);
  FoldedDgrad p = problem(conv, g, of_g, x, x_norm, x_act, of_x, bias, dx);
  if (residual) check_like(*residual, x, "residual");
  p.residual = data(residual);
  launch(p, conv, x, tile, device, "folded_dgrad");
  return dx;
}

std::tuple<Tensor, Tensor> folded_dgrad_reduce(const Tensor& g, const Tensor& weight_g, const Tensor& x,
                                               const OptionalTensor& x_norm, const std::string& x_act,
                                               const Tensor& weight_x, const Tensor& bias, int64_t tile) {
  check_activation(x, "x");
  TORCH_CHECK(x_norm, "x_norm: expected the BN of the unit that made x");
  const Device device(x);
  const Convolution conv = pointwise(x, g.size(1), {1, 1});
  const Tensor of_g = check_weight(weight_g, x, "weight_g"), of_x = check_weight(weight_x, x, "weight_x");
  Tensor dx = new_activation(x, conv.n, conv.c, conv.h, conv.w);
  FoldedDgrad p = problem(conv, g, of_g, x, x_norm, x_act, of_x, bias, dx);
  Tensor sums = new_vectors(x, {cdiv(conv.lattice_size(), tile_rows(tile)), 2, conv.c});
  p.sums = floats(sums);
  launch(p, conv, x, tile, device, "folded_dgrad_reduce");
  return {dx, merged_sums(sums, device)};
}

Tensor conv_fprop_dual(const Tensor& x, const Tensor& weight, const OptionalTensor& x_norm, const std::string& x_act,
                       const Tensor& norm, const Tensor& shortcut_x, const Tensor& shortcut_weight,
                       Pair shortcut_stride, const Tensor& shortcut_norm, const std::string& act, int64_t tile) {
  check_activation(x, "x");
  const Device device(x);
  const Convolution conv = pointwise(shortcut_x, weight.size(0), shortcut_stride);
  const int64_t channels = x.size(1);
  check_activation(shortcut_x, "shortcut_x");
  check_size(x, shortcut_x, {conv.n, channels, conv.p, conv.q}, "x");
  const Tensor main = check_weight(weight, x, "weight");
  const Tensor projection = check_weight(shortcut_weight, x, "shortcut_weight");
  Tensor out = new_activation(x, conv.n, conv.k, conv.p, conv.q);
  FpropDual p{};
  p.x = data(x), p.weight = data(main), p.out = out.mutable_data_ptr();
  p.shortcut_x = data(shortcut_x), p.shortcut_weight = data(projection);
  p.x_norm = check_vectors(x_norm, 4, channels, "x_norm"), p.x_relu = is_relu(x_act, "x_act");
  p.norm = check_vectors(norm, 4, conv.k, "norm");
  p.shortcut_norm = check_vectors(shortcut_norm, 4, conv.k, "shortcut_norm");
  p.pixels = conv.outputs(), p.window = conv.window();
  p.all_shortcut_channels = Divider(conv.c);
  p.channels = static_cast<int>(channels), p.shortcut_channels = static_cast<int>(conv.c);
  p.filters = static_cast<int>(conv.k), p.relu = is_relu(act, "act");
  const bool aligned = conv.aligned(x) && channels % (16 / x.element_size()) == 0;
  check_launch(launch_fprop_dual(p, storage_of(x, "x"), aligned, tile, device.stream), "conv_fprop_dual");
  return out;
}

} // namespace fused_resnet::cuda
