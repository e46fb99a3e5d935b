#include "convolution.h"

namespace fused_resnet {

Convolution convolution(at::IntArrayRef input, at::IntArrayRef weight, Pair stride, Pair padding, Pair dilation,
                        int64_t groups) {
  TORCH_CHECK(groups == 1, "groups: expected 1, got ", groups);
  TORCH_CHECK(input.size() == 4 && weight.size() == 4 && input[1] == weight[1],
              "weight: expected [K, C, R, S] for an input of sizes ", input, ", got ", weight);
  Convolution conv{};
  conv.images = input[0];
  conv.channels = input[1];
  conv.filters = weight[0];
  for (int d = 0; d < 2; ++d) {
    conv.in[d] = input[2 + d];
    conv.kernel[d] = weight[2 + d];
    conv.stride[d] = stride[d];
    conv.padding[d] = padding[d];
    conv.dilation[d] = dilation[d];
    TORCH_CHECK(stride[d] >= 1 && padding[d] >= 0 && dilation[d] >= 1, "stride, padding, dilation: got ", stride[d],
                ", ", padding[d], ", ", dilation[d]);
    const int64_t span = conv.in[d] + 2 * padding[d] - dilation[d] * (conv.kernel[d] - 1) - 1;
    TORCH_CHECK(span >= 0, "input: expected height and width to fit the kernel, got sizes ", input);
    conv.out[d] = span / stride[d] + 1;
  }
  return conv;
}

Affines epilogue_affine(const OptionalTensor& norm, const OptionalTensor& bias, int64_t filters) {
  Tensor vectors = at::empty({2, filters}, at::kFloat);
  float *scale = vectors.mutable_data_ptr<float>(), *shift = scale + filters;
  const Tensor n = norm ? check_vectors<float>(*norm, 4, filters, "norm") : Tensor();
  const Tensor b = bias ? check_vectors<float>(*bias, 1, filters, "bias") : Tensor();
  for (int64_t k = 0; k < filters; ++k) {
    scale[k] = norm ? row(n, 2)[k] : 1.0f;
    shift[k] = (norm ? row(n, 3)[k] : 0.0f) + (bias ? scale[k] * row(b, 0)[k] : 0.0f);
  }
  return {vectors, norm || bias};
}

} // namespace fused_resnet
