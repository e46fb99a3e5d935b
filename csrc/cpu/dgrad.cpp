// Gradients of a product's input: of convolutions, lattice by lattice, and of Gram-folded 1x1 convolutions.
#include "convolution.h"
#include "packing.h"
#include "reduce.h"

namespace fused_resnet {

namespace {

// What is added to the gradient, and what masks and sums it.
struct Finish {
  OptionalTensor bias{}, residual{}; // [C], like the result
  OptionalTensor x{};                // like the result; with x_norm [4, C]
  Tensor x_norm{};
  bool relu = false;
};

template <class T>
struct Part {
  std::vector<Source<T>> sources;
  Placement placement;
};

// dx, and the sums of BN's backward where `finish.x` is given.
template <class T>
std::tuple<Tensor, Tensor> gradient(const std::vector<Part<T>>& parts, at::IntArrayRef sizes, const Tensor& like,
                                    const Finish& finish) {
  Tensor dx = empty_activation(sizes, like);
  const int64_t channels = sizes[1];
  std::vector<Cut> cuts;
  std::vector<int64_t> before; // strips of the parts before
  int64_t strips = 0;
  for (const Part<T>& part : parts) {
    int64_t depth = 0;
    for (const Source<T>& source : part.sources) depth += source.gather.depth();
    cuts.emplace_back(part.sources[0].gather, depth, channels, part.sources[0].winograd);
    before.push_back(strips);
    strips += cuts.back().strips;
  }
  const bool reduce = finish.x.has_value();
  const int64_t width = product_kernels().panel, padded = (channels + width - 1) / width * width;
  Tensor partial = reduce ? at::empty({strips, padded / width, 2, width}, at::kDouble) : Tensor();
  double* reduced = reduce ? partial.mutable_data_ptr<double>() : nullptr;
  for (size_t p = 0; p < parts.size(); ++p) {
    const Cut& cut = cuts[p];
    product(parts[p].sources, parts[p].placement, cut,
            [&](int64_t strip, int64_t panel, float* sums, const int64_t* offsets) {
              const int64_t first = panel * width;
              GradientEpilogue<T> epilogue{};
              if (finish.bias) epilogue.bias = row(*finish.bias, 0) + first;
              if (finish.residual) epilogue.residual = data<T>(*finish.residual) + first;
              if (reduce) {
                epilogue.x = data<T>(*finish.x) + first;
                epilogue.mean = row(finish.x_norm, 0) + first;
                epilogue.affine = {row(finish.x_norm, 2) + first, row(finish.x_norm, 3) + first};
                epilogue.relu = finish.relu;
              }
              operand_kernels<T>().store_gradient(
                  sums, {data<T>(dx) + first, offsets, cut.pixels(strip), cut.columns_of(panel)}, epilogue,
                  reduce ? reduced + (before[p] + strip) * 2 * padded + 2 * first : nullptr);
            });
  }
  if (!reduce) return {dx, Tensor()};
  const Tensor sums = at::empty({strips, 2, channels}, at::kDouble);
  double* sum = sums.mutable_data_ptr<double>();
  for (int64_t strip = 0; strip < strips; ++strip, reduced += 2 * padded)
    for (int64_t vector = 0; vector < 2; ++vector)
      for (int64_t c = 0; c < channels; ++c) *sum++ = reduced[(2 * (c / width) + vector) * width + c % width];
  return {dx, finish_sums<float>(sums, channels, {row(finish.x_norm, 1)})};
}

template <class T>
std::vector<Part<T>> convolution_parts(const Convolution& conv, const Tensor& weight, const Operand<T>& dy) {
  std::vector<Part<T>> parts;
  for (const Lattice& lattice : dgrad_lattices(conv)) {
    const bool whole = conv.kernel[0] == 3 && conv.kernel[1] == 3; // not a part of a larger filter
    const bool winograd =
        whole && packing<T>() == Packing::floats && winograd_pays(lattice.gather, conv.channels);
    const Tensor packed =
        winograd ? pack_winograd_transposed(weight) : pack_transposed(weight, lattice, packing<T>());
    parts.push_back({{{lattice.gather, dy, packed, winograd}}, lattice.placement});
  }
  return parts;
}

Finish masked(const Tensor& x, const Tensor& x_norm, const std::string& x_act) {
  Finish finish;
  finish.x = x;
  finish.x_norm = check_vectors<float>(x_norm, 4, x.size(1), "x_norm");
  finish.relu = activation_floor<float>(x_act) == 0;
  return finish;
}

// g @ weight_g + z @ weight_x + bias at the pixels that a 1x1 convolution reads; the others get no product.
std::tuple<Tensor, Tensor> folded(const Tensor& g, const Tensor& weight_g, const Tensor& x,
                                  const OptionalTensor& x_norm, const std::string& x_act, const Tensor& weight_x,
                                  const Tensor& bias, Pair stride, Finish finish) {
  check_activation(g, "g");
  check_activation(x, "x");
  const int64_t channels = x.size(1), filters = g.size(1);
  const int64_t size[4] = {filters, channels, 1, 1};
  const Convolution conv = convolution(x.sizes(), size, stride, {0, 0}, {1, 1}, 1);
  check_sizes(g, {conv.images, filters, conv.out[0], conv.out[1]}, x, "g");
  TORCH_CHECK(weight_g.sizes() == at::IntArrayRef({filters, channels}) &&
                  weight_x.sizes() == at::IntArrayRef({channels, channels}),
              "weight_g, weight_x: expected [K, C] and [C, C], got ", weight_g.sizes(), " and ", weight_x.sizes());
  const bool dense = stride[0] == 1 && stride[1] == 1;
  finish.bias = check_vectors<float>(bias, 1, channels, "bias");
  return dispatch_products(x, "x", [&](auto storage) {
    using T = decltype(storage);
    const Read<T> z = read_activation<T>(x, x_norm, x_act);
    const Lattice lattice = dgrad_lattices(conv)[0];
    Gather of_x = fprop_gather(conv);
    if (!dense) of_x.rows.out = lattice.gather.rows.out, of_x.cols.out = lattice.gather.cols.out;
    const std::vector<Part<T>> parts{{{{lattice.gather, {data<T>(g)}, pack_matrix(weight_g, packing<T>())},
                                       {of_x, z.operand, pack_matrix(weight_x, packing<T>())}},
                                      lattice.placement}};
    return gradient<T>(parts, x.sizes(), x, finish);
  });
}

} // namespace

Tensor conv_dgrad(const Tensor& g, const Tensor& weight, std::vector<int64_t> input_size, Pair stride, Pair padding,
                  Pair dilation, int64_t groups, const OptionalTensor& y, const OptionalTensor& dnorm,
                  const OptionalTensor& residual) {
  check_activation(g, "g");
  const Convolution conv = convolution(input_size, weight.sizes(), stride, padding, dilation, groups);
  check_sizes(g, {conv.images, conv.filters, conv.out[0], conv.out[1]}, g, "g");
  if (residual) check_sizes(*residual, input_size, g, "residual");
  return dispatch_products(g, "g", [&](auto storage) {
    using T = decltype(storage);
    const Read<T> dy = read_gradient<T>(g, y, dnorm);
    Finish finish;
    finish.residual = residual;
    return std::get<0>(gradient<T>(convolution_parts<T>(conv, weight, dy.operand), input_size, g, finish));
  });
}

std::tuple<Tensor, Tensor> conv_dgrad_reduce(const Tensor& g, const Tensor& weight, Pair stride, Pair padding,
                                             Pair dilation, int64_t groups, const OptionalTensor& y,
                                             const OptionalTensor& dnorm, const Tensor& x, const Tensor& x_norm,
                                             const std::string& x_act) {
  check_activation(g, "g");
  check_sizes(x, x.sizes(), g, "x");
  const Convolution conv = convolution(x.sizes(), weight.sizes(), stride, padding, dilation, groups);
  check_sizes(g, {conv.images, conv.filters, conv.out[0], conv.out[1]}, g, "g");
  return dispatch_products(g, "g", [&](auto storage) {
    using T = decltype(storage);
    const Read<T> dy = read_gradient<T>(g, y, dnorm);
    return gradient<T>(convolution_parts<T>(conv, weight, dy.operand), x.sizes(), g, masked(x, x_norm, x_act));
  });
}

Tensor folded_dgrad(const Tensor& g, const Tensor& weight_g, const Tensor& x, const OptionalTensor& x_norm,
                    const std::string& x_act, const Tensor& weight_x, const Tensor& bias, Pair stride,
                    const OptionalTensor& residual) {
  Finish finish;
  if (residual) check_like(*residual, x, "residual");
  finish.residual = residual;
  Tensor dx = std::get<0>(folded(g, weight_g, x, x_norm, x_act, weight_x, bias, stride, finish));
  if (stride[0] == 1 && stride[1] == 1) return dx;
  // pixels that the stride skips get the residual alone
  for (int64_t row = 0; row < stride[0]; ++row)
    for (int64_t col = 0; col < stride[1]; ++col) {
      if (row == 0 && col == 0) continue;
      const auto skipped = [&](const Tensor& t) {
        return t.slice(2, row, c10::nullopt, stride[0]).slice(3, col, c10::nullopt, stride[1]);
      };
      if (residual) skipped(dx).copy_(skipped(*residual));
      else skipped(dx).zero_();
    }
  return dx;
}

std::tuple<Tensor, Tensor> folded_dgrad_reduce(const Tensor& g, const Tensor& weight_g, const Tensor& x,
                                               const Tensor& x_norm, const std::string& x_act, const Tensor& weight_x,
                                               const Tensor& bias) {
  return folded(g, weight_g, x, x_norm, x_act, weight_x, bias, {1, 1}, masked(x, x_norm, x_act));
}

} // namespace fused_resnet
