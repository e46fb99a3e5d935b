// How an activation is cut into rows and chunks.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fused_resnet {

// The NHWC matrix of `pixels` x `channels` as rows of `width` lanes, several pixels to a row where channels are few.
// The last row is shorter when the pixels do not divide.
struct Rows {
  static constexpr int64_t min_width = 64; // below it, the overhead of a loop over a row would show

  Rows(int64_t pixels, int64_t channels)
      : channels(channels),
        pixels_per_row(channels >= min_width ? 1 : (min_width + channels - 1) / channels),
        width(channels * pixels_per_row),
        size(pixels * channels),
        count((size + width - 1) / width) {}

  // The element offset of row `row`, or the end.
  int64_t offset(int64_t row) const { return std::min(row * width, size); }

  int64_t channels, pixels_per_row, width, size, count;
};

// A partition into chunks for a reduction. It depends on the shape alone, so that the order of summation, and with it
// every bit of the result, is the same for any number of threads.
struct Chunks {
  static constexpr int64_t max_count = 64;
  static constexpr int64_t min_size = 65536; // elements; less is not worth a thread

  Chunks(int64_t rows, int64_t width)
      : rows(rows),
        count(std::clamp<int64_t>(rows * width / min_size, 1, std::min(rows, max_count))) {}

  int64_t begin(int64_t chunk) const { return rows / count * chunk + std::min(chunk, rows % count); }

  int64_t rows, count;
};

} // namespace fused_resnet
