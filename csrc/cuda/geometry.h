// Sizes of a convolution as kernels use them. Plain structs, made by the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fused_resnet::cuda {

// Division by a number that is known before the kernel starts, of numbers below 2^31 (Granlund & Montgomery 1994,
// "Division by invariant integers using multiplication").
struct Divider {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(static_cast<uint32_t>(d)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    const uint64_t rest = (uint64_t{1} << shift) - divisor;
    multiplier = static_cast<uint32_t>((rest << 32) / divisor + 1);
  }
  __host__ __device__ int divide(int n) const {
    const uint32_t high = static_cast<uint32_t>(static_cast<uint64_t>(multiplier) * static_cast<uint32_t>(n) >> 32);
    return static_cast<int>((high + static_cast<uint32_t>(n)) >> shift);
  }
};

// Pixels n, h, w of some images, counted row by row; with a stride, every so many of them.
struct Pixels {
  Divider per_image, per_row; // counted pixels
  int count = 0;              // in all images
  int height = 0, width = 0;  // of an image, all its pixels
  int stride_h = 1, stride_w = 1, first_h = 0, first_w = 0;

  Pixels() = default;
  Pixels(int64_t images, int64_t counted_h, int64_t counted_w, int64_t height, int64_t width)
      : per_image(counted_h * counted_w > 0 ? counted_h * counted_w : 1),
        per_row(counted_w > 0 ? counted_w : 1),
        count(static_cast<int>(images * counted_h * counted_w)),
        height(static_cast<int>(height)),
        width(static_cast<int>(width)) {}
  // The pixel that is counted i-th: its place among all of them.
  __host__ __device__ int64_t at(int i) const {
    const int image = per_image.divide(i), inside = i - image * static_cast<int>(per_image.divisor);
    const int h = per_row.divide(inside), w = inside - h * static_cast<int>(per_row.divisor);
    return (static_cast<int64_t>(image) * height + h * stride_h + first_h) * width + w * stride_w + first_w;
  }
};

// What a convolution reads around a pixel: taps_h x taps_w pixels, `dilation` apart, from `pixel*step - padding` on.
struct Window {
  int taps_h = 1, taps_w = 1, step_h = 1, step_w = 1, padding_h = 0, padding_w = 0, dilation_h = 1, dilation_w = 1;
};

// A stride leaves lattices of input pixels: (first_h + i*stride_h, first_w + j*stride_w). So many go into one launch.
constexpr int LATTICES = 4;

// Sizes of images and paddings and the extent of a window, so that coordinates fit 16 bits with room for a mark.
constexpr int64_t MAX_SPAN = 16383;

} // namespace fused_resnet::cuda
