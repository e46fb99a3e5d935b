// 3x3 convolutions at stride 1 with 16 instead of 36 multiplications per 2x2 outputs and channel.
#pragma once

#include "cut.h"

namespace fused_resnet {

// A 3x3 filter at stride 1 with enough channels for the transforms to be little beside the products, and enough pixels.
bool winograd_fits(const Gather& gather, int64_t channels);

// Whether it pays for a product: enough pixels, too, for the transformed weights, 16/9 of the weights, to be read for.
bool winograd_pays(const Gather& gather, int64_t channels);

constexpr int winograd_positions = 16;

// Tiles of 2x2 outputs: where each one's 4x4 inputs begin, and which pixels it makes, counted over all that were added.
struct WinogradTiles {
  // Those of `rows` rows of an image; pixel(i, j): what output pixel (i, j) of these reads.
  template <class F>
  void add(int64_t rows, int64_t columns, const F& pixel) {
    for (int64_t i = 0; i < rows; i += 2)
      for (int64_t j = 0; j < columns; j += 2) {
        inputs.push_back(pixel(i, j));
        for (int64_t di = 0; di < 2; ++di)
          for (int64_t dj = 0; dj < 2; ++dj) {
            const bool exists = i + di < rows && j + dj < columns;
            pixels.push_back(exists ? static_cast<int32_t>(before + (i + di) * columns + j + dj) : -1);
          }
      }
    before += rows * columns;
  }
  int64_t count() const { return static_cast<int64_t>(inputs.size()); }

  std::vector<const float*> inputs;
  std::vector<int32_t> pixels;
  int64_t before = 0;
};

// Tiles after winograd_input, rows of channels [positions][tiles].
class TransformedTiles {
 public:
  static int64_t row(int64_t channels) { return divide_up(channels, 16) * 16; }
  // Floats that `inputs` and a panel's `products` need.
  static int64_t inputs(int64_t tiles, int64_t channels) { return winograd_positions * tiles * row(channels) + 16; }
  static int64_t products(int64_t tiles) { return winograd_positions * tiles * product_kernels().panel; }

  void transform(const WinogradTiles& tiles, int64_t line, int64_t step, int64_t channels, float* inputs) {
    count_ = tiles.count();
    channels_ = channels;
    product_kernels().winograd_input(tiles.inputs.data(), count_, line, step, channels, inputs, row(channels),
                                     count_ * row(channels));
    rows_.clear();
    for (int64_t i = 0; i < winograd_positions * count_; ++i) rows_.push_back(inputs + i * row(channels));
  }

  // sums [pixels][width] of a panel, of which `columns` exist, and whose weights are [positions][channels][width].
  void multiply(const float* weights, const WinogradTiles& tiles, int64_t columns, float* products,
                float* sums) const {
    const ProductKernels& kernels = product_kernels();
    const int64_t plane = count_ * kernels.panel;
    const Segment segment{0, channels_};
    for (int position = 0; position < winograd_positions; ++position)
      kernels.multiply(rows_.data() + position * count_, count_, &segment, 1,
                       weights + position * channels_ * kernels.panel, columns, products + position * plane, false);
    kernels.winograd_output(products, plane, tiles.pixels.data(), count_, columns, sums);
  }

 private:
  int64_t count_ = 0, channels_ = 0;
  std::vector<const float*> rows_;
};

// A strip's tiles, transformed; tasks of one strip that a thread takes in turn transform it once.
template <class T>
class TransformedStrip {
 public:
  TransformedStrip(const Source<T>& source, const Placement& placement, const Cut& cut)
      : placement_(placement), cut_(cut), channels_(source.gather.channels),
        strip_(source.gather, source.operand, 0, channels_, 0, 1, false) {}

  void load(int64_t number) {
    if (number == loaded_) return;
    strip_.load(cut_.begin(number), cut_.begin(number + 1));
    tiles_ = {};
    for (const Piece& piece : strip_.pieces)
      tiles_.add(piece.count, cut_.columns, [&](int64_t i, int64_t j) { return strip_.pixel(piece, i, j); });
    offsets = offsets_of(strip_.pieces, placement_, cut_.columns);
    transformed_.transform(tiles_, strip_.layout.line, strip_.layout.step, channels_,
                           scratch(2, TransformedTiles::inputs(tiles_.count(), channels_)));
    loaded_ = number;
  }

  // sums [pixels][width] of a panel, of which `columns` exist, and whose weights are [positions][depth][width].
  void multiply(const float* weights, int64_t columns, float* sums) const {
    transformed_.multiply(weights, tiles_, columns, scratch(3, TransformedTiles::products(tiles_.count())), sums);
  }

  std::vector<int64_t> offsets;

 private:
  const Placement& placement_;
  const Cut& cut_;
  int64_t channels_;
  Strip<T> strip_;
  WinogradTiles tiles_;
  TransformedTiles transformed_;
  int64_t loaded_ = -1;
};

// `product` of one source whose weights are packed by pack_winograd: [panels][positions][depth][panel width].
template <class T, class Store>
void winograd_product(const Source<T>& source, const Placement& placement, const Cut& cut, const Store& store) {
  const int64_t panel_floats = winograd_positions * source.gather.channels * cut.width;
  const float* weights = source.weights.template const_data_ptr<float>();
  const auto keep = [&] { return TransformedStrip<T>(source, placement, cut); };
  for_tasks(cut.strips * cut.groups, cut.parallel, keep, [&](int64_t task, TransformedStrip<T>& strip) {
    const int64_t number = task / cut.groups, group = task % cut.groups;
    strip.load(number);
    float* sums = scratch(0, static_cast<int64_t>(strip.offsets.size()) * cut.width);
    for (int64_t panel = cut.panels * group / cut.groups; panel < cut.panels * (group + 1) / cut.groups; ++panel) {
      strip.multiply(weights + panel * panel_floats, cut.columns_of(panel), sums);
      store(number, panel, sums, strip.offsets.data());
    }
  });
}

} // namespace fused_resnet
