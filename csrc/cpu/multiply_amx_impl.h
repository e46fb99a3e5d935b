// Products of matrices in tiles of 16 rows by 64 bytes. Included by multiply_amx*.cpp alone, each with its own Tiles,
// inside an anonymous namespace, for the reason given in number_impl.h.
//
// Sums of up to 32 rows and 32 columns, or 16 rows and 64 columns, stay in four tiles; a tile of a and one of b are
// loaded for two, or four, tiles of products. Tiles are numbered as in the instructions: 0 to 3 sums, 4 up operands.

constexpr int64_t tile_rows = 16, tile_depth = 32, tile_columns = 16, columns = engine_columns;
constexpr int64_t longest_part = 640; // elements of a row

// The last elements of a segment that fill no tile, with zeros behind them.
struct Tail {
  BFloat16 a[2 * tile_rows][tile_depth], b[tile_depth / 2][2 * columns];

  Tail(const BFloat16* from, int64_t lda, int64_t rows, const BFloat16* pairs, int64_t depth) {
    __builtin_memset(this, 0, sizeof *this);
    const size_t bytes = static_cast<size_t>(depth) * sizeof(BFloat16);
    for (int64_t i = 0; i < rows; ++i) __builtin_memcpy(a[i], from + i * lda, bytes);
    __builtin_memcpy(b, pairs, bytes * columns);
  }
};

// step(a, its rows' distance, b) for every tile's depth.
template <class Step>
void for_steps(const MatrixProduct& product, const BFloat16* a, int64_t lda, int64_t rows, const Step& step) {
  const BFloat16* b = product.b;
  for (const Segment* segment = product.segments; segment != product.segments + product.segment_count; ++segment) {
    const BFloat16* at = a + segment->offset;
    const int64_t whole = segment->depth / tile_depth * tile_depth;
    for (int64_t d = 0; d < whole; d += tile_depth) step(at + d, lda, b + d * columns);
    if (whole < segment->depth) {
      const Tail tail(at + whole, lda, rows, b + whole * columns, segment->depth - whole);
      step(tail.a[0], tile_depth, tail.b[0]);
    }
    b += segment->depth * columns;
  }
}

template <class Tiles, int tile>
void start(bool add, const float* c, int64_t ldc) {
  if (add) Tiles::template load<tile>(c, ldc * sizeof(float));
  else Tiles::template zero<tile>();
}

constexpr int64_t pair_bytes = 2 * columns * sizeof(BFloat16); // from one pair of rows of b to the next

// 17 to 32 rows.
template <class Tiles>
void high_block(const MatrixProduct& product, const BFloat16* a, int64_t lda, int64_t rows, float* c) {
  const int64_t ldc = product.ldc;
  for (int64_t column = 0; column < columns; column += 2 * tile_columns) {
    float *upper = c + column, *lower = upper + tile_rows * ldc;
    start<Tiles, 0>(product.add, upper, ldc);
    start<Tiles, 1>(product.add, upper + tile_columns, ldc);
    start<Tiles, 2>(product.add, lower, ldc);
    start<Tiles, 3>(product.add, lower + tile_columns, ldc);
    for_steps(product, a, lda, rows, [&](const BFloat16* at, int64_t step, const BFloat16* b) {
      Tiles::template load<4>(at, step * sizeof(BFloat16));
      Tiles::template load<6>(b + 2 * column, pair_bytes);
      Tiles::template multiply<0, 4, 6>();
      Tiles::template load<7>(b + 2 * (column + tile_columns), pair_bytes);
      Tiles::template multiply<1, 4, 7>();
      Tiles::template load<5>(at + tile_rows * step, step * sizeof(BFloat16));
      Tiles::template multiply<2, 5, 6>();
      Tiles::template multiply<3, 5, 7>();
    });
    Tiles::template store<0>(upper, ldc * sizeof(float));
    Tiles::template store<1>(upper + tile_columns, ldc * sizeof(float));
    Tiles::template store<2>(lower, ldc * sizeof(float));
    Tiles::template store<3>(lower + tile_columns, ldc * sizeof(float));
  }
}

// 1 to 16 rows.
template <class Tiles>
void low_block(const MatrixProduct& product, const BFloat16* a, int64_t lda, int64_t rows, float* c) {
  const int64_t ldc = product.ldc;
  start<Tiles, 0>(product.add, c, ldc);
  start<Tiles, 1>(product.add, c + tile_columns, ldc);
  start<Tiles, 2>(product.add, c + 2 * tile_columns, ldc);
  start<Tiles, 3>(product.add, c + 3 * tile_columns, ldc);
  for_steps(product, a, lda, rows, [&](const BFloat16* at, int64_t step, const BFloat16* b) {
    Tiles::template load<4>(at, step * sizeof(BFloat16));
    Tiles::template load<6>(b, pair_bytes);
    Tiles::template multiply<0, 4, 6>();
    Tiles::template load<7>(b + 2 * tile_columns, pair_bytes);
    Tiles::template multiply<1, 4, 7>();
    Tiles::template load<6>(b + 4 * tile_columns, pair_bytes);
    Tiles::template multiply<2, 4, 6>();
    Tiles::template load<7>(b + 6 * tile_columns, pair_bytes);
    Tiles::template multiply<3, 4, 7>();
  });
  Tiles::template store<0>(c, ldc * sizeof(float));
  Tiles::template store<1>(c + tile_columns, ldc * sizeof(float));
  Tiles::template store<2>(c + 2 * tile_columns, ldc * sizeof(float));
  Tiles::template store<3>(c + 3 * tile_columns, ldc * sizeof(float));
}

template <class Tiles>
void multiply_part(const MatrixProduct& product, const BFloat16* a, int64_t lda) {
  for (int64_t row = 0; row < product.m; row += 2 * tile_rows) {
    const int64_t left = product.m - row, rows = left < 2 * tile_rows ? left : 2 * tile_rows;
    const BFloat16* from = a + row * lda;
    float* to = product.c + row * product.ldc;
    if (rows > tile_rows) {
      Tiles::configure_high(static_cast<int>(rows - tile_rows));
      high_block<Tiles>(product, from, lda, rows, to);
    } else {
      Tiles::configure_low(static_cast<int>(rows));
      low_block<Tiles>(product, from, lda, rows, to);
    }
  }
}

template <class Tiles>
void multiply_in_tiles(const MatrixProduct& product, const BFloat16* a, int64_t lda) {
  check_columns(product);
  for_parts(product, longest_part, [=](const MatrixProduct& part, bool) { multiply_part<Tiles>(part, a, lda); });
}
