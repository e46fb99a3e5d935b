// Gradients of 3x3 weights with 16 instead of 36 multiplications per 2x2 pixels of dy, filter and channel.
#pragma once

#include "correlated.h"
#include "winograd.h"

namespace fused_resnet {

constexpr int64_t winograd_sums = 32768;          // per position, of a part: more would not stay near the processor
constexpr int64_t winograd_strip_tiles = 56;      // the more are added up at a time, the less often sums are read
constexpr int64_t winograd_strip_floats = 262144; // of transformed tiles: 1 MiB

// The lines of all images in pairs, of which tiles are made.
class LinePairs {
 public:
  explicit LinePairs(const Gather& gather)
      : count(gather.images * divide_up(gather.rows.out, 2)),
        lines_(gather.rows.out),
        per_image_(divide_up(lines_, 2)) {}
  int64_t first_line(int64_t pair) const { return pair / per_image_ * lines_ + pair % per_image_ * 2; }

  int64_t count;

 private:
  int64_t lines_, per_image_;
};

// One task's sums [positions][filters][padded channels], over strip after strip.
template <class T>
class WinogradSums {
 public:
  WinogradSums(const Correlated<T>& op, const Share& share)
      : share_(share),
        padded_(divide_up(share.channels, product_kernels().panel) * product_kernels().panel),
        g_row_(divide_up(share.filters, 16) * 16),
        z_row_(padded_ + 16), // a distance of a power of two would put all tiles into a few lines of a cache
        g_(op.g_gather, op.g, share.first_filter, share.filters, 16, 1, false),
        z_(op.z_gather, op.z, share.first_channel, share.channels, 16, 2, false),
        nothing_(static_cast<size_t>(g_row_)) {
    sums_ = scratch(0, winograd_positions * plane());
  }

  // Pairs of lines of a strip.
  int64_t pairs_per_strip() const {
    const int64_t tiles = divide_up(columns(), 2), floats = winograd_positions * (g_row_ + z_row_);
    return std::max<int64_t>(1, std::min(winograd_strip_tiles, winograd_strip_floats / floats) / tiles);
  }

  void add(int64_t begin, int64_t end, bool first) {
    const ProductKernels& kernels = product_kernels();
    g_.load(begin, end);
    z_.load(begin, end, true);
    const WinogradTiles tiles = find_tiles();
    const int64_t count = tiles.count();
    float* g = scratch(3, winograd_positions * count * (g_row_ + z_row_) + 256);
    float* z = g + winograd_positions * count * g_row_;
    kernels.winograd_gradient(g_pixels_.data(), count, share_.filters, g, g_row_, count * g_row_);
    kernels.winograd_input(tiles.inputs.data(), count, z_.layout.line, z_.layout.step, share_.channels, z, z_row_,
                           count * z_row_);
    Correlation tile{nullptr, nullptr, g_row_, 0, z_row_, 0, 1, count};
    for (int64_t position = 0; position < winograd_positions; ++position)
      for (int64_t column = 0; column < padded_; column += kernels.panel) {
        tile.z = z + position * count * z_row_ + column;
        for (int64_t k = 0; k < share_.filters; k += tile_filters) {
          tile.g = g + position * count * g_row_ + k;
          kernels.correlate(tile, std::min(tile_filters, share_.filters - k), share_.channels - column,
                            sums_ + position * plane() + k * padded_ + column, padded_, !first);
        }
      }
  }

  // Rows of `to` are filters, [taps][channels].
  void store(float* to, int64_t channels) const {
    for (int64_t k = 0; k < share_.filters; ++k)
      product_kernels().winograd_filter(sums_ + k * padded_, plane(), padded_,
                                        to + (share_.first_filter + k) * 9 * channels + share_.first_channel, channels);
  }

 private:
  int64_t plane() const { return share_.filters * padded_; }
  int64_t columns() const { return g_.layout.gather.cols.out; }

  // z's tiles, and of each the pixels of g, `nothing_` for those that do not exist.
  WinogradTiles find_tiles() {
    WinogradTiles tiles;
    for (const Piece& piece : z_.pieces)
      tiles.add(piece.count, columns(), [&](int64_t i, int64_t j) { return z_.pixel(piece, i, j); });
    g_.pixels(pixels_);
    g_pixels_.clear();
    for (const int32_t pixel : tiles.pixels)
      g_pixels_.push_back(pixel < 0 ? nothing_.data() : pixels_[static_cast<size_t>(pixel)]);
    return tiles;
  }

  Share share_;
  int64_t padded_, g_row_, z_row_;
  Strip<T> g_, z_;
  std::vector<float> nothing_;
  std::vector<const float*> pixels_, g_pixels_;
  float* sums_;
};

// sums [filters][9][channels]
template <class T>
Tensor winograd_correlate(const Correlated<T>& op, const Columns& columns) {
  const int64_t filters = op.g_gather.channels, channels = op.z_gather.channels;
  const LinePairs pairs(op.g_gather);
  const int64_t work = 2 * pairs.count * op.g_gather.cols.out * filters * columns.taps * columns.width_of_tap;
  const Split split(columns, filters, channels, pairs.count, work, false, winograd_sums);
  Tensor sums = at::empty({split.copies, filters * columns.taps * columns.padded}, at::kFloat);
  for_tasks(split.copies * split.parts, true, [&](int64_t task) {
    const int64_t copy = task / split.parts;
    const Share share = split.share(task, filters, channels, pairs.count);
    WinogradSums<T> own(op, share);
    const int64_t step = own.pairs_per_strip();
    for (int64_t pair = share.begin; pair < share.end; pair += step)
      own.add(pairs.first_line(pair), pairs.first_line(std::min(pair + step, share.end)), pair == share.begin);
    own.store(sums.mutable_data_ptr<float>() + copy * sums.size(1), columns.padded);
  });
  return added_up(sums, columns, filters);
}

} // namespace fused_resnet
