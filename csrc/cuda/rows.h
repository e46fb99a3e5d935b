// How blocks share an activation, or another matrix, of `count` rows of `channels` numbers. A thread has a chunk of
// neighbouring channels, always the same, and goes down the rows: coefficients and sums of its channels stay in
// registers. Everything here follows from sizes alone, never from the GPU: so does the order of every sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "dtypes.h"
#include "limits.h"

namespace fused_resnet::cuda {

constexpr int BLOCK = 256; // threads
constexpr int WIDE = 64;   // chunks that a block reads side by side, so that the threads of a warp read whole lines

// Enough to keep every multiprocessor busy, several times over; more are not made without need.
inline int64_t most_blocks() { return limit(2048, 8); }

struct Rows {
  int64_t count, per_block; // rows
  int channels;
  int width, height; // chunks that a block reads side by side, and rows that it reads at once
  int tiles;         // blocks side by side

  int64_t parts() const { return cdiv(count, per_block); }
  unsigned blocks() const { return static_cast<unsigned>(parts() * tiles); }
};

// `numbers` in a chunk; blocks are at most `widest` chunks wide, and as equally wide as can be.
inline Rows rows_of(int64_t count, int64_t channels, int numbers, int widest) {
  const int64_t chunks = channels / numbers, tiles = cdiv(chunks, std::min(widest, BLOCK));
  const int width = static_cast<int>(cdiv(chunks, tiles));
  return {count, count, static_cast<int>(channels), width, BLOCK / width, static_cast<int>(tiles)};
}

// For kernels that read and write each element once: up to `most` rows for a thread, if there are enough.
inline Rows streamed_rows(int64_t count, int64_t channels, int numbers, int64_t most) {
  Rows rows = rows_of(count, channels, numbers, WIDE);
  rows.per_block = rows.height * std::clamp<int64_t>(cdiv(count, rows.height) * rows.tiles / most_blocks(), 1, most);
  return rows;
}

// For reductions over the rows; `bytes` in a chunk. Where 64 bytes side by side (whole sectors, if not whole lines) leave
// every thread at most 8 rows, one launch reduces the matrix; else a second one merges the results of blocks, whose
// threads have at least 8 rows each.
inline Rows reduced_rows(int64_t count, int64_t channels, int numbers, int bytes) {
  Rows rows = rows_of(count, channels, numbers, 64 / bytes);
  if (count <= rows.height * limit(8, 2)) return rows;
  rows = rows_of(count, channels, numbers, WIDE);
  rows.per_block = rows.height * std::max(limit(8, 5), cdiv(cdiv(count, rows.height) * rows.tiles, most_blocks()));
  return rows;
}

// Numbers in 16 bytes, or 1 where rows or pointers (null ones are) are no multiples of 16 bytes.
inline int numbers_per_access(Storage storage, int64_t channels, std::initializer_list<const void*> pointers) {
  const int numbers = storage == Storage::fp32 ? 4 : 8;
  uintptr_t bits = static_cast<uintptr_t>(channels % numbers);
  for (const void* p : pointers) bits |= reinterpret_cast<uintptr_t>(p) % 16;
  return bits ? 1 : numbers;
}

} // namespace fused_resnet::cuda
