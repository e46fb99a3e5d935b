// Matrix products of convolutions: what their inner loops are told. No torch here.
//
// A product is cut into strips of output pixels and panels of output channels. Operands come to the loops as floats:
// a strip's pixels, normalised or differentiated while they are read, and weights packed panel by panel.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace fused_resnet {

// Consecutive floats that a pixel contributes, seen from its pointer: the channels of one tap or of a row of taps.
struct Segment {
  int64_t offset, depth;
};

constexpr int64_t tile_pixels = 6;  // rows of a register tile of `multiply`
constexpr int64_t tile_filters = 6; // rows of a register tile of `correlate`

// How a tensor's pixels are read: as they are, act(scale*x + shift), or BN's backward a*x + b*y + c (y null: a*x);
// less `origin` where it is not null. Vectors are per channel of the tensor.
template <class T>
struct Operand {
  const T* x = nullptr;
  Affine<T> affine{};
  Acc<T> floor = 0;
  const Acc<T>*a = nullptr, *b = nullptr, *c = nullptr;
  const T* y = nullptr;
  const float* origin = nullptr;

  bool plain() const { return !affine.scale && !a && !origin; }
};

// Pixels `first + i*step` of a tensor, `channels` from `channel` on.
struct Pixels {
  int64_t first, count, step, channel, channels;
};

// A tile's sum over pixels of g (filters) times z (columns), lines of pixels at constant distances.
struct Correlation {
  const float *g, *z;
  int64_t g_step, g_line, z_step, z_line, lines, pixels;
};

// What becomes of a panel `sums [count][panel width]`: pixel i goes to element offsets[i] of the tensors, which are
// given from the panel's first channel on, as are the vectors. Only `columns` of the panel exist.
template <class T>
struct Output {
  T* out;
  const int64_t* offsets;
  int64_t count, columns;
};

// act(scale*s + shift + residual)
template <class T>
struct ForwardEpilogue {
  const float *scale, *shift; // null: 1, 0
  const T* residual;          // may be null
  float floor;
};

// s + bias + residual; where x is given masked by act(BN(x)), with the sums of BN's backward.
template <class T>
struct GradientEpilogue {
  const float* bias;  // may be null
  const T* residual;  // may be null
  const T* x;         // may be null
  Affine<T> affine;
  const float* mean;
  bool relu;
};

// Loops that know floats alone.
struct ProductKernels {
  int64_t panel; // width of a panel

  // out [count][panel] = (accumulate: +=) the products of the pixels' segments with weights [Σ depth][panel]. Behind
  // `columns`, rounded up to whole vectors, out keeps what it has.
  void (*multiply)(const float* const* pixels, int64_t count, const Segment* segments, int64_t segment_count,
                   const float* weights, int64_t columns, float* out, bool accumulate);

  // out [filters][panel] = (accumulate: +=) op, rows of out `step` apart; filters <= tile_filters; columns as in
  // `multiply`.
  void (*correlate)(const Correlation& op, int64_t filters, int64_t columns, float* out, int64_t step,
                    bool accumulate);

  // Winograd's transforms. Tiles of 4x4 pixels, lines `line` and pixels `step` floats apart, to their 16 positions:
  // out[position*plane + tile*row + c]; channels are rounded up to whole vectors.
  void (*winograd_input)(const float* const* tiles, int64_t count, int64_t line, int64_t step, int64_t channels,
                         float* out, int64_t row, int64_t plane);
  // products[position*plane + tile*panel + c] to the 2x2 pixels of a tile, rows of sums [..][panel]; -1: none. Columns
  // as in `multiply`.
  void (*winograd_output)(const float* products, int64_t plane, const int32_t* pixels, int64_t tiles, int64_t columns,
                          float* sums);

  // For gradients of weights: tiles of 2x2 pixels to 16 positions, as winograd_input.
  void (*winograd_gradient)(const float* const* pixels, int64_t count, int64_t channels, float* out, int64_t row,
                            int64_t plane);
  // sums[position*plane + c] to the 3x3 taps of a filter, out[tap*step + c]; channels are whole vectors.
  void (*winograd_filter)(const float* sums, int64_t plane, int64_t channels, float* out, int64_t step);

  // sums[c] += Σ over pixels of a strip
  void (*column_sums)(const float* strip, int64_t pixels, int64_t step, int64_t channels, double* sums);

  // What matrix hardware multiplies (matrix_engine.h) has an even depth, filled up with zeros.
  // `count` rows of `depth`, `step` apart -> out [depth/2][panel][2], absent rows as zeros.
  void (*pair_columns)(const BFloat16* rows, int64_t count, int64_t step, int64_t depth, BFloat16* out);

  // `columns` of a line of pixels, `step` apart -> out [pixels/2][panel][2].
  void (*pair_pixels)(const BFloat16* line, int64_t pixels, int64_t step, int64_t columns, BFloat16* out);

  // The channels of a line of pixels -> rows of out, `out_step` apart.
  void (*transpose)(const BFloat16* line, int64_t pixels, int64_t step, int64_t channels, BFloat16* out,
                    int64_t out_step);
};

// Loops that know how activations are stored.
template <class T>
struct OperandKernels {
  // Reads pixels into out, `step` floats apart.
  void (*read)(const Operand<T>& operand, const Pixels& pixels, float* out, int64_t step);

  // The same, rounded to how activations are stored.
  void (*read_stored)(const Operand<T>& operand, const Pixels& pixels, T* out, int64_t step);

  void (*store_forward)(float* sums, const Output<T>& to, const ForwardEpilogue<T>& epilogue);

  // The raw values; mean and summed squared deviations of what was stored, per column.
  void (*store_moments)(float* sums, const Output<T>& to, double* mean, double* m2);

  // reduced [2][panel]: Σg and Σ g*(x - mean) of what was stored, where x is given.
  void (*store_gradient)(float* sums, const Output<T>& to, const GradientEpilogue<T>& epilogue, double* reduced);
};

const ProductKernels& product_kernels();
template <class T>
const OperandKernels<T>& operand_kernels();

} // namespace fused_resnet
