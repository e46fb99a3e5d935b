// Tiles of the processor.
#include "multiply_amx.h"

#include "tables.h"

#ifdef FUSED_RESNET_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC target("amx-tile,amx-bf16")
#endif

namespace fused_resnet {

namespace {

#include "multiply_amx_impl.h"

// As LDTILECFG reads it.
struct alignas(64) Palette {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int count) {
    row_bytes[tile] = 64;
    rows[tile] = static_cast<uint8_t>(count);
  }
};

thread_local int configured = 0; // rows of a block; 0: this thread holds no tiles

struct Tiles {
  static void configure_high(int lower) { configure(16, lower, 16 + lower); }
  static void configure_low(int rows) { configure(rows, rows, rows); }

  template <int tile>
  static void zero();
  template <int tile>
  static void load(const void* from, size_t step);
  template <int tile>
  static void store(float* to, size_t step);
  template <int sums, int a, int b>
  static void multiply();

 private:
  static void configure(int upper, int lower, int shape) {
    if (configured == shape) return;
    Palette palette;
    for (const int tile : {0, 1, 4}) palette.set(tile, upper);
    for (const int tile : {2, 3, 5}) palette.set(tile, lower);
    for (const int tile : {6, 7}) palette.set(tile, 16);
    __asm__ volatile("" : : "r"(&palette) : "memory"); // the intrinsic names the first bytes of the palette alone
    _tile_loadconfig(&palette);
    configured = shape;
  }
};

// The intrinsics take literal numbers. A load's does not tell the compiler that it reads memory.
#define FUSED_RESNET_TILE(tile)                                     \
  template <>                                                       \
  inline void Tiles::load<tile>(const void* from, size_t step) {    \
    __asm__ volatile("" : : "r"(from) : "memory");                  \
    _tile_loadd(tile, from, step);                                  \
  }
#define FUSED_RESNET_SUMS(tile)                                     \
  FUSED_RESNET_TILE(tile)                                           \
  template <>                                                       \
  inline void Tiles::zero<tile>() {                                 \
    _tile_zero(tile);                                               \
  }                                                                 \
  template <>                                                       \
  inline void Tiles::store<tile>(float* to, size_t step) {          \
    _tile_stored(tile, to, step);                                   \
  }
#define FUSED_RESNET_PRODUCT(sums, a, b)                            \
  template <>                                                       \
  inline void Tiles::multiply<sums, a, b>() {                       \
    _tile_dpbf16ps(sums, a, b);                                     \
  }
FUSED_RESNET_SUMS(0)
FUSED_RESNET_SUMS(1)
FUSED_RESNET_SUMS(2)
FUSED_RESNET_SUMS(3)
FUSED_RESNET_TILE(4)
FUSED_RESNET_TILE(5)
FUSED_RESNET_TILE(6)
FUSED_RESNET_TILE(7)
FUSED_RESNET_PRODUCT(0, 4, 6)
FUSED_RESNET_PRODUCT(1, 4, 7)
FUSED_RESNET_PRODUCT(2, 5, 6)
FUSED_RESNET_PRODUCT(3, 5, 7)
FUSED_RESNET_PRODUCT(2, 4, 6)
FUSED_RESNET_PRODUCT(3, 4, 7)
#undef FUSED_RESNET_PRODUCT
#undef FUSED_RESNET_SUMS
#undef FUSED_RESNET_TILE

} // namespace

void multiply_amx(const MatrixProduct& product, const BFloat16* a, int64_t lda) {
  multiply_in_tiles<Tiles>(product, a, lda);
}

void release_amx() {
  if (configured == 0) return;
  _tile_release();
  configured = 0;
}

} // namespace fused_resnet
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
