// Tiles of plain arrays, for tests on any processor.
#include <c10/util/BFloat16.h>

#include <algorithm>

#include "multiply_amx.h"

namespace fused_resnet {

namespace {

#include "multiply_amx_impl.h"

struct Tile {
  int64_t rows = 0;
  alignas(64) unsigned char bytes[16][64];
};
thread_local Tile tiles[8];

template <class E>
E element(const Tile& tile, int64_t row, int64_t column) {
  E value;
  __builtin_memcpy(&value, tile.bytes[row] + static_cast<size_t>(column) * sizeof(E), sizeof value);
  return value;
}

struct Tiles {
  static void configure_high(int lower) { configure(16, lower); }
  static void configure_low(int rows) { configure(rows, rows); }

  template <int tile>
  static void zero() {
    std::fill_n(tiles[tile].bytes[0], sizeof tiles[tile].bytes, static_cast<unsigned char>(0));
  }
  template <int tile>
  static void load(const void* from, size_t step) {
    zero<tile>();
    for (int64_t row = 0; row < tiles[tile].rows; ++row)
      std::copy_n(static_cast<const unsigned char*>(from) + static_cast<size_t>(row) * step, 64, tiles[tile].bytes[row]);
  }
  template <int tile>
  static void store(float* to, size_t step) {
    for (int64_t row = 0; row < tiles[tile].rows; ++row)
      std::copy_n(tiles[tile].bytes[row], 64, reinterpret_cast<unsigned char*>(to) + static_cast<size_t>(row) * step);
  }
  template <int sums, int a, int b>
  static void multiply() {
    for (int64_t row = 0; row < tiles[sums].rows; ++row)
      for (int64_t column = 0; column < tile_columns; ++column) {
        float sum = element<float>(tiles[sums], row, column);
        for (int64_t d = 0; d < tile_depth; ++d)
          sum += static_cast<float>(element<c10::BFloat16>(tiles[a], row, d)) *
              static_cast<float>(element<c10::BFloat16>(tiles[b], d / 2, 2 * column + d % 2));
        __builtin_memcpy(tiles[sums].bytes[row] + static_cast<size_t>(column) * sizeof sum, &sum, sizeof sum);
      }
  }

 private:
  static void configure(int64_t upper, int64_t lower) {
    for (const int tile : {0, 1, 4}) tiles[tile].rows = upper;
    for (const int tile : {2, 3, 5}) tiles[tile].rows = lower;
    for (const int tile : {6, 7}) tiles[tile].rows = 16;
  }
};

} // namespace

void multiply_emulated_tiles(const MatrixProduct& product, const BFloat16* a, int64_t lda) {
  multiply_in_tiles<Tiles>(product, a, lda);
}

} // namespace fused_resnet
