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

// `product` of one source whose weights are packed by pack_winograd: [panels][positions][depth][panel width].
template <class T, class Store>
void winograd_product(const Source<T>& source, const Placement& placement, const Cut& cut, const Store& store) {
  const ProductKernels& kernels = product_kernels();
  const int64_t channels = source.gather.channels, row = (channels + 15) / 16 * 16;
  const auto task = [&](int64_t index) {
    const int64_t number = index / cut.groups, group = index % cut.groups;
    Strip<T> strip(source.gather, source.operand, 0, channels, 0, 1, false);
    strip.load(cut.begin(number), cut.begin(number + 1));
    WinogradTiles tiles;
    for (const Piece& piece : strip.pieces)
      tiles.add(piece.count, cut.columns, [&](int64_t i, int64_t j) { return strip.pixel(piece, i, j); });
    const std::vector<int64_t> offsets = offsets_of(strip.pieces, placement, cut.columns);
    const int64_t count = tiles.count(), plane = count * row, product_plane = count * cut.width;
    float* inputs = scratch(2, winograd_positions * plane + 16);
    kernels.winograd_input(tiles.inputs.data(), count, strip.layout.line, strip.layout.step, channels, inputs, row,
                           plane);
    std::vector<const float*> rows(static_cast<size_t>(count));
    float* sums = scratch(0, static_cast<int64_t>(offsets.size()) * cut.width);
    float* products = scratch(3, winograd_positions * product_plane);
    const Segment segment{0, channels};
    for (int64_t panel = cut.panels * group / cut.groups; panel < cut.panels * (group + 1) / cut.groups; ++panel) {
      const float* weights =
          source.weights.template const_data_ptr<float>() + panel * winograd_positions * channels * cut.width;
      for (int position = 0; position < winograd_positions; ++position) {
        for (int64_t t = 0; t < count; ++t) rows[static_cast<size_t>(t)] = inputs + position * plane + t * row;
        kernels.multiply(rows.data(), count, &segment, 1, weights + position * channels * cut.width,
                         products + position * product_plane, false);
      }
      kernels.winograd_output(products, product_plane, tiles.pixels.data(), count, sums);
      store(number, panel, sums, offsets.data());
    }
  };
  for_tasks(cut.strips * cut.groups, cut.parallel, task);
}

} // namespace fused_resnet
