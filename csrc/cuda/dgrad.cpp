// Input gradients of convolutions.
#include "dgrad.h"

#include <numeric>

#include "convolution.h"
#include "merge.h"
#include "ops.h"
#include "tiles.h"

namespace fused_resnet::cuda {

namespace {

// Along one axis: the taps that reach the pixels first, first + stride, ... of the input, and the output that the first
// of these reads through the first tap.
struct Reach {
  int64_t first_tap, step, taps, output;

  Reach(int64_t first, int64_t size, int64_t stride, int64_t padding, int64_t dilation)
      : first_tap(0), step(stride / std::gcd(stride, dilation)) {
    while (first_tap < size && (first + padding - first_tap * dilation) % stride != 0) ++first_tap;
    taps = cdiv(size - first_tap, step);
    output = (first + padding - first_tap * dilation) / stride;
  }
};

Lattice lattice_of(const Convolution& conv, int64_t number) {
  Lattice found;
  found.pixels = conv.lattice(number);
  const Reach down(found.pixels.first_h, conv.r, conv.stride[0], conv.padding[0], conv.dilation[0]);
  const Reach right(found.pixels.first_w, conv.s, conv.stride[1], conv.padding[1], conv.dilation[1]);
  found.window.taps_h = static_cast<int>(down.taps), found.window.taps_w = static_cast<int>(right.taps);
  found.window.padding_h = static_cast<int>(-down.output), found.window.padding_w = static_cast<int>(-right.output);
  // the next tap that reaches a pixel reads an output further up
  found.window.dilation_h = static_cast<int>(-down.step * conv.dilation[0] / conv.stride[0]);
  found.window.dilation_w = static_cast<int>(-right.step * conv.dilation[1] / conv.stride[1]);
  found.taps_w = Divider(std::max<int64_t>(right.taps, 1));
  found.first_r = static_cast<int>(down.first_tap), found.first_s = static_cast<int>(right.first_tap);
  return found;
}

Dgrad problem(const Convolution& conv, const Tensor& g, const Tensor& weight, const OptionalTensor& y,
              const OptionalTensor& dnorm, Tensor& out) {
  check_size(g, g, {conv.n, conv.k, conv.p, conv.q}, "g");
  if (y) check_like(*y, g, "y");
  Dgrad p{};
  p.g = data(g), p.weight = data(weight), p.out = out.mutable_data_ptr();
  p.dnorm = check_vectors(dnorm, 3, conv.k, "dnorm");
  p.y = dnorm ? data(y) : nullptr;
  p.group_filters = Divider(conv.k / conv.groups);
  p.height = static_cast<int>(conv.p), p.width = static_cast<int>(conv.q);
  p.taps_of_row = static_cast<int>(conv.s), p.taps = static_cast<int>(conv.r * conv.s);
  p.step_r = static_cast<int>(conv.stride[0] / std::gcd(conv.stride[0], conv.dilation[0]));
  p.step_s = static_cast<int>(conv.stride[1] / std::gcd(conv.stride[1], conv.dilation[1]));
  p.channels = static_cast<int>(conv.c), p.filters = static_cast<int>(conv.k);
  p.groups = static_cast<int>(conv.groups);
  return p;
}

// All lattices, LATTICES at a time.
void launch(Dgrad& p, const Convolution& conv, const Tensor& g, int64_t tile, const Device& device, const char* op) {
  p.tiles = static_cast<int>(cdiv(conv.lattice_size(), tile_rows(tile)));
  for (int64_t first = 0; first < conv.lattices(); first += LATTICES) {
    p.first = static_cast<int>(first), p.count = static_cast<int>(std::min<int64_t>(LATTICES, conv.lattices() - first));
    for (int i = 0; i < p.count; ++i) p.lattices[i] = lattice_of(conv, first + i);
    check_launch(launch_dgrad(p, storage_of(g, "g"), conv.aligned(g), tile, device.stream), op);
  }
}

} // namespace

Tensor conv_dgrad(const Tensor& g, const Tensor& weight, const Size& input_size, Pair stride, Pair padding,
                  Pair dilation, int64_t groups, const OptionalTensor& y, const OptionalTensor& dnorm,
                  const OptionalTensor& residual, int64_t tile) {
  check_activation(g, "g");
  const Device device(g);
  const Convolution conv(input_size, weight.sizes(), stride, padding, dilation, groups);
  const Tensor filters = check_weight(weight, g, "weight");
  Tensor dx = new_activation(g, conv.n, conv.c, conv.h, conv.w);
  Dgrad p = problem(conv, g, filters, y, dnorm, dx);
  if (residual) check_size(*residual, g, dx.sizes(), "residual");
  p.residual = data(residual);
  launch(p, conv, g, tile, device, "conv_dgrad");
  return dx;
}

std::tuple<Tensor, Tensor> conv_dgrad_reduce(const Tensor& g, const Tensor& weight, Pair stride, Pair padding,
                                             Pair dilation, int64_t groups, const OptionalTensor& y,
                                             const OptionalTensor& dnorm, const Tensor& x, const Tensor& x_norm,
                                             const std::string& x_act, int64_t tile) {
  check_activation(g, "g");
  const Device device(g);
  const Convolution conv(x.sizes(), weight.sizes(), stride, padding, dilation, groups);
  const Tensor filters = check_weight(weight, g, "weight");
  Tensor dx = new_activation(g, conv.n, conv.c, conv.h, conv.w);
  Dgrad p = problem(conv, g, filters, y, dnorm, dx);
  check_size(x, g, dx.sizes(), "x");
  p.x = data(x), p.x_relu = is_relu(x_act, "x_act");
  p.x_norm = check_vectors(x_norm, 4, conv.c, "x_norm");
  Tensor sums = new_vectors(g, {conv.lattices() * cdiv(conv.lattice_size(), tile_rows(tile)), 2, conv.c});
  p.sums = floats(sums);
  launch(p, conv, g, tile, device, "conv_dgrad_reduce");
  return {dx, merged_sums(sums, device)};
}

} // namespace fused_resnet::cuda
