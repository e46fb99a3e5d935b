// Input rows that wait for a convolution while the one before it, which makes them, goes on. No torch here.
#pragma once

#include <cstring>

#include "strip.h"

namespace fused_resnet {

// Rows [begin, end) of an image.
struct RowRange {
  int64_t begin, end;

  int64_t count() const { return end - begin; }
};

// Rows as floats, with the zeros that the convolution pads with. They slide on as its output rows do: what it reads
// again stays, and every pixel that the convolution before gives has its place, read or not.
class Window {
 public:
  explicit Window(const Gather& gather) : layout_(gather, gather.channels, 0, false) {
    layout_.width = std::max(layout_.width, gather.cols.in - layout_.cols.least);
    layout_.line = layout_.width * layout_.step;
  }

  // Of a kernel of one row or column at a stride, a strip leaves out what no output reads; a window has all.
  static bool possible(const Gather& gather) {
    const auto skips = [](const Axis& axis) { return axis.taps.size() <= 1 && axis.step > 1; };
    return !skips(gather.rows) && !skips(gather.cols);
  }

  // Rows, and floats of them, that `count` output rows read.
  int64_t lines(int64_t count) const { return layout_.lines(count); }
  int64_t floats(int64_t count) const { return lines(count) * layout_.line; }

  // What a tile of 4x4 inputs may reach behind them.
  int64_t spare() const { return layout_.line + 4 * layout_.step + 256; }

  // Empty, in memory for `count` output rows at a time.
  void start(float* data, int64_t count) {
    data_ = data;
    held_ = {layout_.rows.least, layout_.rows.least};
    std::fill_n(data, floats(count), 0.0f); // columns that are padding stay 0 from now on
  }

  // Makes room for what the output rows `out` read, which never go back. Returns the rows that are missing.
  RowRange slide(RowRange out) {
    const int64_t begin = out.begin * layout_.rows.step + layout_.rows.least, end = begin + lines(out.count());
    const int64_t kept = std::max<int64_t>(held_.end - begin, 0), height = layout_.gather.rows.in;
    if (kept > 0 && begin > held_.begin)
      std::memmove(data_, line(begin), static_cast<size_t>(kept * layout_.line) * sizeof(float));
    held_ = {begin, end};
    for (int64_t row = begin + kept; row < end; ++row)
      if (row < 0 || row >= height) std::fill_n(line(row), layout_.line, 0.0f);
    return {std::clamp<int64_t>(begin + kept, 0, height), std::clamp<int64_t>(end, 0, height)};
  }

  // What output pixel (row, col) reads.
  const float* pixel(int64_t row, int64_t col) const {
    return line(row * layout_.rows.step + layout_.rows.least) + col * layout_.cols.step * layout_.step;
  }

  // Where the pixels of input row `row` belong, seen from data().
  void places(int64_t row, std::vector<int64_t>& found) const {
    const int64_t first = (line(row) - data_) - layout_.cols.least * layout_.step;
    for (int64_t col = 0; col < layout_.gather.cols.in; ++col) found.push_back(first + col * layout_.step);
  }

  float* data() const { return data_; }
  const StripLayout& layout() const { return layout_; }

 private:
  float* line(int64_t row) const { return data_ + (row - held_.begin) * layout_.line; }

  StripLayout layout_;
  float* data_ = nullptr;
  RowRange held_{0, 0};
};

} // namespace fused_resnet
