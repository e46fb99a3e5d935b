// Forward products: convolutions whose BN is known beforehand, and those whose statistics are taken on the way.
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>

#include "convolution.h"
#include "packing.h"

namespace fused_resnet {

namespace {

template <class T>
Source<T> forward_source(const Convolution& conv, const Operand<T>& operand, const Tensor& weight) {
  const Gather gather = fprop_gather(conv);
  const bool winograd = packing<T>() == Packing::floats && winograd_pays(gather, conv.filters);
  return {gather, operand, packed_filters(weight, winograd, packing<T>()), winograd};
}

template <class T>
void forward_product(const std::vector<Source<T>>& sources, const Tensor& out, const Affines& affine,
                     const OptionalTensor& residual, const std::string& act) {
  const int64_t filters = out.size(1);
  int64_t depth = 0;
  for (const Source<T>& source : sources) depth += source.gather.depth();
  const Cut cut(sources[0].gather, depth, filters, sources[0].winograd);
  const Placement placement = placement_of(sources[0].gather, out.size(2), out.size(3), filters);
  ForwardEpilogue<T> epilogue{nullptr, nullptr, nullptr, activation_floor<float>(act)};
  if (affine.any) {
    epilogue.scale = row(affine.vectors, 0);
    epilogue.shift = row(affine.vectors, 1);
  }
  if (residual) epilogue.residual = data<T>(*residual);
  product(sources, placement, cut, ForwardStore<T>{data<T>(out), epilogue, cut});
}

} // namespace

Tensor conv_fprop(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& x_norm,
                  const std::string& x_act, Pair stride, Pair padding, Pair dilation, int64_t groups,
                  const OptionalTensor& norm, const OptionalTensor& residual, const std::string& act) {
  check_activation(x, "x");
  const Convolution conv = convolution(x.sizes(), weight.sizes(), stride, padding, dilation, groups);
  Tensor out = empty_activation({conv.images, conv.filters, conv.out[0], conv.out[1]}, x);
  if (residual) check_like(*residual, out, "residual");
  dispatch_products(x, "x", [&](auto storage) {
    using T = decltype(storage);
    const Read<T> read = read_activation<T>(x, x_norm, x_act);
    forward_product<T>({forward_source(conv, read.operand, weight)}, out, epilogue_affine(norm, bias, conv.filters),
                       residual, act);
  });
  return out;
}

Tensor conv_fprop_dual(const Tensor& x, const Tensor& weight, const OptionalTensor& x_norm, const std::string& x_act,
                       const Tensor& norm, const Tensor& shortcut_x, const Tensor& shortcut_weight,
                       Pair shortcut_stride, const Tensor& shortcut_norm, const std::string& act) {
  check_activation(x, "x");
  check_activation(shortcut_x, "shortcut_x");
  TORCH_CHECK(shortcut_x.scalar_type() == x.scalar_type(), "shortcut_x: expected ", x.scalar_type(), ", got ",
              shortcut_x.scalar_type());
  const Convolution conv = convolution(x.sizes(), weight.sizes(), {1, 1}, {0, 0}, {1, 1}, 1);
  const Convolution added =
      convolution(shortcut_x.sizes(), shortcut_weight.sizes(), shortcut_stride, {0, 0}, {1, 1}, 1);
  TORCH_CHECK(conv.pointwise() && added.pointwise() && conv.filters == added.filters && conv.images == added.images &&
                  conv.out[0] == added.out[0] && conv.out[1] == added.out[1],
              "shortcut_x: expected a 1x1 projection onto the main path's output, got sizes ", shortcut_x.sizes());
  Tensor out = empty_activation({conv.images, conv.filters, conv.out[0], conv.out[1]}, x);
  dispatch_products(x, "x", [&](auto storage) {
    using T = decltype(storage);
    const Tensor n = check_vectors<float>(norm, 4, conv.filters, "norm");
    const Tensor m = check_vectors<float>(shortcut_norm, 4, conv.filters, "shortcut_norm");
    const Read<T> read = read_activation<T>(x, x_norm, x_act);
    const Affines shifts{at::stack({at::ones_like(n[3]), n[3] + m[3]}), true};
    const auto scaled = [](const Convolution& c, const Operand<T>& operand, const Tensor& w, const float* scale) {
      return Source<T>{fprop_gather(c), operand, packed_filters(w, false, packing<T>()), false, scale};
    };
    std::vector<Source<T>> sources{scaled(conv, read.operand, weight, row(n, 2)),
                                   scaled(added, {data<T>(shortcut_x)}, shortcut_weight, row(m, 2))};
    if (sources[0].gather.cols.out != sources[1].gather.cols.out) { // both in images: a strip is of the same pixels
      sources[0].gather = sources[1].gather;
      sources[0].gather.channels = conv.channels;
      for (int d = 0; d < 2; ++d) {
        Axis& axis = d == 0 ? sources[0].gather.rows : sources[0].gather.cols;
        axis = {conv.out[d], conv.out[d], 1, {0}};
      }
    }
    forward_product<T>(sources, out, shifts, std::nullopt, act);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> conv_fprop_stats(const Tensor& x, const Tensor& weight, const OptionalTensor& x_norm,
                                                    const std::string& x_act, Pair stride, Pair padding, Pair dilation,
                                                    int64_t groups) {
  check_activation(x, "x");
  const Convolution conv = convolution(x.sizes(), weight.sizes(), stride, padding, dilation, groups);
  const int64_t filters = conv.filters;
  Tensor y = empty_activation({conv.images, filters, conv.out[0], conv.out[1]}, x);
  Tensor mean = at::empty({filters}, at::kFloat), var = at::empty({filters}, at::kFloat);
  dispatch_products(x, "x", [&](auto storage) {
    using T = decltype(storage);
    const Read<T> read = read_activation<T>(x, x_norm, x_act);
    const Source<T> source = forward_source(conv, read.operand, weight);
    const Cut cut(source.gather, source.gather.depth(), filters, source.winograd);
    Tensor partial = at::empty({cut.strips, 2, filters}, at::kDouble);
    double* moments = partial.mutable_data_ptr<double>();
    product<T>({source}, placement_of(source.gather, conv.out[0], conv.out[1], filters), cut,
               [&](int64_t strip, int64_t panel, float* sums, const int64_t* offsets) {
                 const int64_t first = panel * cut.width;
                 double* strip_mean = moments + strip * 2 * filters + first;
                 operand_kernels<T>().store_moments(
                     sums, {data<T>(y) + first, offsets, cut.pixels(strip), cut.columns_of(panel)}, strip_mean,
                     strip_mean + filters);
               });
    double count = static_cast<double>(cut.pixels(0));
    for (int64_t strip = 1; strip < cut.strips; ++strip) {
      const double more = static_cast<double>(cut.pixels(strip));
      const double* strip_mean = moments + strip * 2 * filters;
      kernels<T>().merge_moments(moments, moments + filters, count, strip_mean, strip_mean + filters, more, filters);
      count += more;
    }
    for (int64_t k = 0; k < filters; ++k) {
      mean.mutable_data_ptr<float>()[k] = static_cast<float>(moments[k]);
      var.mutable_data_ptr<float>()[k] = static_cast<float>(moments[filters + k] / count);
    }
  });
  return {y, mean, var};
}

} // namespace fused_resnet
