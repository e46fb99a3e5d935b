// Layouts that matrix hardware multiplies: pairs of rows, and rows turned into columns; see number_impl.h for how this
// file is included.

constexpr int64_t block = 16; // rows and columns of pairs that are turned at a time

// A pair as one number, the first one in its lower half: so compilers make vectors of them.
typedef uint32_t Word __attribute__((may_alias, aligned(2)));

inline void join(const BFloat16* __restrict even, const BFloat16* __restrict odd, int64_t count,
                 BFloat16* __restrict out) {
  Word* __restrict words = reinterpret_cast<Word*>(out);
  for (int64_t i = 0; i < count; ++i) words[i] = static_cast<uint32_t>(even[i]) | static_cast<uint32_t>(odd[i]) << 16;
}

// Two rows of `columns`, the second of which may be absent, in pairs; up to `width` zeros.
template <int64_t width>
inline void pair(const BFloat16* even, const BFloat16* odd, int64_t columns, BFloat16* out) {
  static constexpr BFloat16 zeros[width] = {};
  if (!odd) odd = zeros;
  if (columns >= width) return join(even, odd, width, out);
  join(even, odd, columns, out);
  for (int64_t i = 2 * columns; i < 2 * width; ++i) out[i] = BFloat16{};
}

inline void pair_pixels(const BFloat16* line, int64_t pixels, int64_t step, int64_t columns, BFloat16* out) {
  for (int64_t p = 0; p < pixels; p += 2, line += 2 * step, out += 2 * panel_width)
    pair<panel_width>(line, p + 1 < pixels ? line + step : nullptr, columns, out);
}

// out = a and b by turns.
inline void interleave(const uint32_t* __restrict a, const uint32_t* __restrict b, int64_t count,
                       uint32_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) {
    out[2 * i] = a[i];
    out[2 * i + 1] = b[i];
  }
}

// words[i][j] -> words[j][i]. To deal both halves of all words out by turns moves the bits of a word's place, those of
// i before those of j, round by one; after four times i and j have changed places.
inline void turn(uint32_t* words, uint32_t* other) {
  constexpr int64_t half = block * block / 2;
  interleave(words, words + half, half, other);
  interleave(other, other + half, half, words);
  interleave(words, words + half, half, other);
  interleave(other, other + half, half, words);
}

inline void transpose_block(const BFloat16* first, int64_t pixels, int64_t step, int64_t channels, BFloat16* out,
                            int64_t out_step) {
  BFloat16 pairs[block][2 * block];
  for (int64_t p = 0; p < 2 * block; p += 2, first += 2 * step) {
    BFloat16* to = pairs[p / 2];
    if (p < pixels) pair<block>(first, p + 1 < pixels ? first + step : nullptr, channels, to);
    else for (int64_t i = 0; i < 2 * block; ++i) to[i] = BFloat16{};
  }
  uint32_t words[block * block], other[block * block];
  __builtin_memcpy(words, pairs, sizeof words);
  turn(words, other);
  const size_t bytes = static_cast<size_t>((pixels + 1) / 2) * sizeof(uint32_t);
  for (int64_t c = 0; c < channels; ++c)
    if (pixels >= 2 * block - 1) __builtin_memcpy(out + c * out_step, words + c * block, block * sizeof(uint32_t));
    else __builtin_memcpy(out + c * out_step, words + c * block, bytes);
}

inline void transpose(const BFloat16* line, int64_t pixels, int64_t step, int64_t channels, BFloat16* out,
                      int64_t out_step) {
  for (int64_t p = 0; p < pixels; p += 2 * block)
    for (int64_t c = 0; c < channels; c += block)
      transpose_block(line + p * step + c, smaller(2 * block, pixels - p), step, smaller(block, channels - c),
                      out + c * out_step + p, out_step);
}

// Panels are made of columns here: a pair is of neighbours in a row.
inline void pair_columns(const BFloat16* rows, int64_t count, int64_t step, int64_t depth, BFloat16* out) {
  uint32_t words[block * block], other[block * block];
  for (int64_t first = 0; first < panel_width; first += block)
    for (int64_t d = 0; d < depth; d += 2 * block) {
      const int64_t columns = smaller(2 * block, depth - d);
      for (int64_t i = 0; i < block; ++i) {
        if (first + i < count && columns == 2 * block) {
          __builtin_memcpy(words + i * block, rows + (first + i) * step + d, block * sizeof(uint32_t));
          continue;
        }
        BFloat16 row[2 * block] = {};
        for (int64_t c = 0; first + i < count && c < columns; ++c) row[c] = rows[(first + i) * step + d + c];
        __builtin_memcpy(words + i * block, row, sizeof row);
      }
      turn(words, other);
      for (int64_t pair = 0; 2 * pair < columns; ++pair)
        __builtin_memcpy(out + 2 * ((d / 2 + pair) * panel_width + first), words + pair * block,
                         block * sizeof(uint32_t));
    }
}
