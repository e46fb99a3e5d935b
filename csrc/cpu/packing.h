// Weights as the inner loops read them, in panels of output channels.
#pragma once

#include "arguments.h"
#include "gather.h"
#include "matrix_engine.h"

namespace fused_resnet {

// floats: [panels][depth][panel width]; pairs: bf16 for matrix hardware, [panels][depth/2][panel width][2], every tap's
// channels filled up to an even number with zeros.
enum class Packing { floats, pairs };

// What products of activations stored as T take.
template <class T>
Packing packing() {
  return std::is_same_v<T, BFloat16> && matrix_engine() ? Packing::pairs : Packing::floats;
}

// weight [K, C, R, S] for a product over (tap row, tap column, C).
Tensor pack_filters(const Tensor& weight, Packing packing = Packing::floats);

// The same for winograd.h, 3x3 filters: [panels][positions][C][panel width].
Tensor pack_winograd(const Tensor& weight);

// Either of them, kept while the weight stays as it is (pack_cache.h).
Tensor packed_filters(const Tensor& weight, bool winograd = false, Packing packing = Packing::floats);

// The same for the gradient of the input: output channels are C, the product is over (tap row, tap column, K).
Tensor pack_transposed(const Tensor& weight, const Lattice& lattice, Packing packing);

// The same for winograd.h, of a 3x3 filter at stride 1.
Tensor pack_winograd_transposed(const Tensor& weight);

// A matrix [depth, channels].
Tensor pack_matrix(const Tensor& matrix, Packing packing);

} // namespace fused_resnet
