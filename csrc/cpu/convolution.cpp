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

} // namespace fused_resnet
