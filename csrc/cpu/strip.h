// Strips: some output lines of a product, with their input pixels ready as floats for the inner loops.
#pragma once

#include <array>
#include <type_traits>
#include <vector>

#include "gather.h"
#include "products.h"

namespace fused_resnet {

// Memory that a thread keeps from one strip, and one op, to the next: asking the system for it again would cost more
// than to fill it.
float* scratch(int slot, int64_t floats);
template <class E>
E* scratch_of(int slot, int64_t count) {
  constexpr int64_t size = sizeof(E);
  return reinterpret_cast<E*>(scratch(slot, (count * size + 3) / 4));
}

// How one gather's pixels lie in a strip, whichever lines it is of.
class StripLayout {
 public:
  // `pad` floats keep neighbours apart: a distance of a power of two would put all pixels into a few lines of a cache.
  StripLayout(const Gather& gather, int64_t channels, int64_t pad, bool direct)
      : gather(gather), channels(channels), direct(direct), step(channels + (direct ? 0 : pad)) {
    rows = extent(gather.rows, direct);
    cols = extent(gather.cols, direct);
    width = direct ? gather.cols.in : (gather.cols.out - 1) * cols.step + cols.reach;
    line = width * step;
  }

  // Lines of the strip that `count` output lines of one image need.
  int64_t lines(int64_t count) const { return count ? (count - 1) * rows.step + rows.reach : 0; }

  // Where tap (r, s) of a pixel lies, seen from the pixel's pointer.
  int64_t tap(size_t r, size_t s) const {
    return (gather.rows.taps[r] - rows.least) * line + (gather.cols.taps[s] - cols.least) * step;
  }

  // What `multiply` walks through, none longer than `longest`; `merging` neighbouring taps into one where they touch.
  std::vector<Segment> segments(int64_t longest, bool merging = true) const {
    std::vector<Segment> found;
    const bool merge = merging && gather.cols.dense() && step == channels;
    const size_t taps = merge ? 1 : gather.cols.taps.size();
    const int64_t depth = merge ? static_cast<int64_t>(gather.cols.taps.size()) * channels : channels;
    for (size_t r = 0; r < gather.rows.taps.size(); ++r)
      for (size_t s = 0; s < taps; ++s)
        for (int64_t first = 0; first < depth; first += longest)
          found.push_back({tap(r, s) + first, std::min(longest, depth - first)});
    return found;
  }

  // Taps of one dimension: the input before the first of them (least), how far they reach, and the distance of the
  // inputs of neighbouring outputs. Where there is one tap only, the strip leaves out what no output reads.
  struct Extent {
    int64_t least, reach, step;
  };

  Gather gather;
  int64_t channels;
  bool direct;
  int64_t step; // of pixels
  Extent rows{}, cols{};
  int64_t width, line; // of the strip: pixels, floats

 private:
  static Extent extent(const Axis& axis, bool direct) {
    if (direct) return {0, 1, axis.step};
    if (axis.taps.size() <= 1) return {axis.least(), 1, 1};
    return {axis.least(), axis.greatest() - axis.least() + 1, axis.step};
  }
};

// Lines [begin, begin + count) of image `image`, from line `first` of the strip on.
struct Piece {
  int64_t image, begin, count, first;
};

// E: what the strip holds, float, or BFloat16 as an activation would be stored.
template <class T, class E = float>
class Strip {
 public:
  // Channels [channel, channel + channels) of what `operand` reads, filled up with zeros to a multiple.
  // `in_place`: elements may be used where they are.
  Strip(const Gather& gather, const Operand<T>& operand, int64_t channel, int64_t channels, int64_t pad, int slot,
        bool in_place, int64_t multiple = 1)
      : layout(gather, filled_up(channels, multiple), pad,
               in_place && usable_in_place(gather, operand, filled_up(channels, multiple))),
        operand_(operand),
        channel_(channel),
        channels_(channels),
        slot_(slot) {}

  static bool usable_in_place(const Gather& gather, const Operand<T>& operand, int64_t channels) {
    return std::is_same_v<T, E> && operand.plain() && channels == gather.channels && gather.rows.inside() &&
        gather.cols.inside();
  }

  // Output lines [begin, end), counted through all images.
  // clear: what lies behind the last pixel and line is zero.
  void load(int64_t begin, int64_t end, bool clear = false) {
    pieces.clear();
    const int64_t per_image = layout.gather.rows.out;
    int64_t first = 0;
    for (int64_t line = begin; line < end;) {
      const int64_t image = line / per_image, row = line % per_image;
      const int64_t count = std::min(per_image - row, end - line);
      pieces.push_back({image, row, count, first});
      first += layout.lines(count);
      line += count;
    }
    if (layout.direct) return;
    // The loops read whole panels and whole tiles: what lies behind the last pixel and line must be there, though it
    // is not used.
    const int64_t used = first * layout.line, behind = layout.line + 4 * layout.step + 256;
    data_ = scratch_of<E>(slot_, used + behind);
    if (clear) std::fill_n(data_ + used, behind, E{});
    for (const Piece& piece : pieces)
      for (int64_t l = 0; l < layout.lines(piece.count); ++l) read_line(piece, l);
  }

  // Output pixel (row `begin + i`, column j) of a piece.
  const E* pixel(const Piece& piece, int64_t i, int64_t j) const {
    const int64_t at = i * layout.rows.step * layout.line + j * layout.cols.step * layout.step;
    if constexpr (std::is_same_v<T, E>) {
      if (layout.direct) {
        const Gather& g = layout.gather;
        const int64_t first = (piece.image * g.rows.in + piece.begin * g.rows.step) * layout.line;
        return operand_.x + first + at;
      }
    }
    return data_ + piece.first * layout.line + at;
  }

  void pixels(std::vector<const E*>& found) const {
    found.clear();
    for (const Piece& piece : pieces)
      for (int64_t i = 0; i < piece.count; ++i)
        for (int64_t j = 0; j < layout.gather.cols.out; ++j) found.push_back(pixel(piece, i, j));
  }

  StripLayout layout;
  std::vector<Piece> pieces;

 private:
  static int64_t filled_up(int64_t channels, int64_t multiple) {
    return (channels + multiple - 1) / multiple * multiple;
  }

  void read_line(const Piece& piece, int64_t l) {
    const Gather& g = layout.gather;
    const bool sparse_rows = g.rows.taps.size() <= 1;
    const int64_t row = sparse_rows ? (piece.begin + l) * g.rows.step + layout.rows.least
                                    : piece.begin * g.rows.step + layout.rows.least + l;
    E* to = data_ + (piece.first + l) * layout.line;
    if (row < 0 || row >= g.rows.in) return fill(to, layout.width);
    const int64_t between = g.cols.taps.size() <= 1 ? g.cols.step : 1; // input columns from one of the strip to the next
    const int64_t least = layout.cols.least;
    // strip column w is input column least + w*between
    const int64_t left = std::clamp<int64_t>((-least + between - 1) / between, 0, layout.width);
    const int64_t right = std::clamp<int64_t>((g.cols.in - least + between - 1) / between, left, layout.width);
    fill(to, left);
    const int64_t first = ((piece.image * g.rows.in + row) * g.cols.in + least + left * between) * g.channels;
    read(first, right - left, between * g.channels, to + left * layout.step);
    fill(to + right * layout.step, layout.width - right);
  }

  void read(int64_t first, int64_t count, int64_t distance, E* to) const {
    const Pixels pixels{first, count, distance, channel_, channels_};
    if constexpr (std::is_same_v<E, float>) operand_kernels<T>().read(operand_, pixels, to, layout.step);
    else operand_kernels<T>().read_stored(operand_, pixels, to, layout.step);
    for (int64_t c = channels_; c < layout.channels; ++c)
      for (int64_t i = 0; i < count; ++i) to[i * layout.step + c] = E{};
  }

  void fill(E* to, int64_t pixels) const { std::fill_n(to, pixels * layout.step, E{}); }

  Operand<T> operand_;
  int64_t channel_, channels_;
  int slot_;
  E* data_ = nullptr;
};

} // namespace fused_resnet
