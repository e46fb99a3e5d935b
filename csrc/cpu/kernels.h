// The inner loops, on raw pointers and without torch, compiled once per instruction set.
//
// An NHWC activation is a matrix of pixels by channels, dense in memory. The kernels see it as rows of `width` lanes
// with a possibly shorter last row; lane l belongs to channel l % C. `width` is C, or a multiple of it where C is so
// small that a loop over it would be all overhead (see rows.h).
#pragma once

#include <cstdint>
#include <string>

namespace fused_resnet {

// Storage of a bfloat16; arithmetic happens in float. An enumeration, because compilers leave loops scalar that copy
// structures.
enum class BFloat16 : uint16_t {};

template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulator<T>::type;

// y -> scale*y + shift per lane.
template <class T>
struct Affine {
  const Acc<T>* scale = nullptr;
  const Acc<T>* shift = nullptr;
};

// What stops the gradient where it is <= 0 (so NaN lets it pass, as in ReLU's backward): nothing, the activation's
// output, or BN's output computed once more from its input.
enum class Mask { none, output, affine };

// One of the sums of BN's backward: Σ g*(y - mean).
template <class T>
struct Projection {
  const T* y = nullptr;
  const Acc<T>* mean = nullptr;
};

template <class T>
struct BackwardReduce {
  const T* dout = nullptr;
  T* g = nullptr;
  Mask mask = Mask::none;
  const T* mask_source = nullptr; // the activation's output, or BN's input
  Affine<T> affine{};             // for Mask::affine
  Projection<T> projections[2]{};
  int projection_count = 0;
};

struct PoolShape {
  int64_t channels, height, width, out_height, out_width;
  int64_t kernel[2], stride[2], padding[2];
};

template <class T>
struct Pool {
  const T* y;
  Affine<T> affine;
  Acc<T> floor;
  T* out;
  uint8_t* argmax;
};

template <class T>
struct PoolBackward {
  const T* dout;
  const uint8_t* argmax;
  BackwardReduce<T> reduce; // its dout is set tile by tile
};

// Sizes and offsets count elements. `floor` is the activation's lower bound: 0 for ReLU, -inf for identity.
template <class T>
struct Kernels {
  using A = Acc<T>;

  void (*affine_act)(const T* y, Affine<T> affine, A floor, T* out, int64_t size, int64_t width);

  // `r_affine.scale` null: the residual is added as it is.
  void (*add_act)(const T* y, Affine<T> affine, const T* r, Affine<T> r_affine, A floor, T* out, int64_t size,
                  int64_t width);

  // dy = a*g + b*y + c; y null: a*g.
  void (*backward_apply)(const T* g, const A* a, const T* y, const A* b, const A* c, T* dy, int64_t size,
                         int64_t width);

  // Mean and sum of squared deviations per lane; scratch holds 3*width.
  void (*moments)(const T* y, int64_t size, int64_t width, double* mean, double* m2, A* scratch);

  // Merges group b into group a (Chan, Golub & LeVeque 1979); both have the same count in every lane.
  void (*merge_moments)(double* mean, double* m2, double count, const double* mean_b, const double* m2_b,
                        double count_b, int64_t width);

  // Elements [begin, end): writes g and sums [1 + projections][width]; scratch holds 3*width.
  void (*backward_reduce)(const BackwardReduce<T>& op, int64_t begin, int64_t end, int64_t width, double* sums,
                          A* scratch);

  // One output row (of all N*P); scratch holds channels, positions as many integers.
  void (*pool_row)(const Pool<T>& op, const PoolShape& shape, int64_t row, A* scratch, int32_t* positions);

  // Input pixels [begin, end) of all N*H*W; scratch holds 4*channels, tile pool_tile*channels.
  void (*pool_backward)(const PoolBackward<T>& op, const PoolShape& shape, int64_t begin, int64_t end, double* sums,
                        A* scratch, T* tile);
};

// Rows whose values may be summed in fp32 before the sum moves to fp64.
constexpr int64_t tile_rows = 64;
constexpr int64_t pool_tile = 32;

// The best table for this processor.
template <class T>
const Kernels<T>& kernels();

// The name of its instruction set.
const char* instruction_set();

// For tests: the products' loops of another table, "baseline" or "wide", from now on; "auto": the best one again.
void use_product_kernels(const std::string& name);

} // namespace fused_resnet
