// Weights as the inner loops read them: panels of output channels, [panels][depth][panel width], in floats.
#pragma once

#include "arguments.h"
#include "gather.h"

namespace fused_resnet {

// weight [K, C, R, S] for a product over (tap row, tap column, C); rows multiplied by `scale` [K] where it is not null.
Tensor pack_filters(const Tensor& weight, const float* scale = nullptr);

// The same for the gradient of the input: output channels are C, the product is over (tap row, tap column, K).
Tensor pack_transposed(const Tensor& weight, const Lattice& lattice);

// A matrix [depth, channels].
Tensor pack_matrix(const Tensor& matrix);

} // namespace fused_resnet
