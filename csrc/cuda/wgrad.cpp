// Weight gradients.
#include "wgrad.h"

#include "convolution.h"
#include "merge.h"
#include "ops.h"
#include "tiles.h"

namespace fused_resnet::cuda {

namespace {

Wgrad problem(const Convolution& conv, const Tensor& g, const Tensor& x, const OptionalTensor& x_norm,
              const std::string& x_act, int64_t tile) {
  check_size(g, x, {conv.n, conv.k, conv.p, conv.q}, "g");
  Wgrad p{};
  p.g = data(g), p.x = data(x);
  p.x_norm = check_vectors(x_norm, 4, conv.c, "x_norm");
  p.x_relu = is_relu(x_act, "x_act");
  p.pixels = conv.outputs(), p.window = conv.window();
  p.group_channels = Divider(conv.c / conv.groups), p.taps_w = Divider(conv.s);
  p.channels = static_cast<int>(conv.c), p.filters = static_cast<int>(conv.k);
  p.groups = static_cast<int>(conv.groups);
  const int64_t columns = conv.r * conv.s * conv.c / conv.groups, rows = p.pixels.count;
  const int64_t tiles = cdiv(conv.k / conv.groups, wgrad_filters(tile)) * cdiv(columns, wgrad_columns(tile));
  const Split split = split_rows(rows, WGRAD_ROWS, tiles * conv.groups, tile_warps(tile));
  p.splits = static_cast<int>(split.count), p.rows_per_split = static_cast<int>(split.rows);
  return p;
}

// The partial sums together, as [K, C/groups, R, S].
Tensor merged(const Wgrad& p, const Convolution& conv, const Tensor& parts, const Device& device) {
  const int64_t channels = conv.c / conv.groups;
  const Tensor single = parts.view({p.splits, conv.k, channels, -1});
  if (p.splits == 1 && conv.r * conv.s == 1) return single[0].view({conv.k, channels, 1, 1});
  Tensor weight = new_vectors(parts, {conv.k, channels, conv.r, conv.s});
  const WgradMerge merge{p.parts, floats(weight), p.splits, p.filters, static_cast<int>(conv.r * conv.s),
                         static_cast<int>(channels)};
  check_launch(launch_wgrad_merge(merge, device.stream), "conv_wgrad");
  return weight;
}

Tensor run(Wgrad& p, const Convolution& conv, const Tensor& x, int64_t tile, const Device& device, const char* op) {
  Tensor parts = new_vectors(x, {p.splits, conv.k, conv.r * conv.s, conv.c / conv.groups});
  p.parts = floats(parts);
  check_launch(launch_wgrad(p, storage_of(x, "x"), conv.aligned(x), tile, device.stream), op);
  return merged(p, conv, parts, device);
}

} // namespace

Tensor conv_wgrad(const Tensor& g, const Tensor& x, const OptionalTensor& x_norm, const std::string& x_act,
                  const Size& weight_size, Pair stride, Pair padding, Pair dilation, int64_t groups,
                  const OptionalTensor& y, const OptionalTensor& dnorm, int64_t tile) {
  check_activation(x, "x");
  const Device device(x);
  const Convolution conv(x.sizes(), weight_size, stride, padding, dilation, groups);
  Wgrad p = problem(conv, g, x, x_norm, x_act, tile);
  if (y) check_like(*y, g, "y");
  p.dnorm = check_vectors(dnorm, 3, conv.k, "dnorm");
  p.y = dnorm ? data(y) : nullptr;
  return run(p, conv, x, tile, device, "conv_wgrad");
}

std::tuple<Tensor, Tensor, Tensor> conv_wgrad_masked(const Tensor& dout, const Tensor& out, const Tensor& x,
                                                     const OptionalTensor& x_norm, const std::string& x_act,
                                                     const Size& weight_size, Pair stride, int64_t tile) {
  check_activation(x, "x");
  const Device device(x);
  const Convolution conv(x.sizes(), weight_size, stride, {0, 0}, {1, 1}, 1);
  Wgrad p = problem(conv, dout, x, x_norm, x_act, tile);
  check_like(out, dout, "out");
  Tensor g = at::empty_like(dout), sums = new_vectors(x, {p.splits, 1, conv.k});
  p.out = data(out), p.masked = g.mutable_data_ptr(), p.sums = floats(sums);
  Tensor weight = run(p, conv, x, tile, device, "conv_wgrad_masked");
  return {g, merged_sums(sums, device), weight};
}

} // namespace fused_resnet::cuda
