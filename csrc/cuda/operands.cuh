// Operands of a product: where the elements of a tile are in global memory (gathers), and what becomes of them on the
// way (prologues).
//
// An operand is a matrix of rows and columns of which neither need be stored as such. Every thread copies 16-byte chunks
// of it to shared memory, and once they have arrived applies the prologue to those same chunks, before the block's
// barrier: no further barrier, no registers held while the copies are under way.
#pragma once

#include "gemm.cuh"
#include "geometry.h"

namespace fused_resnet::cuda {

// ---- gathers ----
// A gather tells of row `i` and of column `j` separately; together they give an element's offset, and whether there is
// such an element. `channel` is the column's, for the prologue. COSTLY_ROWS: rows that are read in every step are kept.

// Rows of a dense matrix, or a block of its columns.
struct Dense {
  static constexpr bool COSTLY_ROWS = false;
  int64_t pitch = 0; // from row to row
  int rows = 0, columns = 0;
  int first_channel = 0; // of column 0

  struct Column {
    int offset, channel;
    bool valid;
  };
  using Row = int;
  __device__ static Row row(int i) { return i; }
  __device__ Column column(int j) const { return {j, first_channel + j, j < columns}; }
  __device__ bool valid(Row row, const Column& column) const { return row < rows && column.valid; }
  __device__ int64_t offset(Row row, const Column& column) const { return row * pitch + column.offset; }
};

// Rows are pixels, columns what a convolution reads around them: (tap, channel), as the weight has them.
struct Patches {
  static constexpr bool COSTLY_ROWS = true;
  Pixels pixels; // counted ones are the rows; `height` and `width` are of the image that is read
  Window window;
  Divider group_channels, taps_w;
  int rows = 0, columns = 0; // columns = taps * group_channels
  int64_t pitch = 0;         // channels of a pixel
  int first_channel = 0;     // of the group

  struct Row {
    int pixel, corner; // of the window's first tap: its number; top and left, 16 bits each
  };
  struct Column {
    int pixels, down, right, channel; // from the first tap
    bool valid;
  };
  static constexpr int NOWHERE = static_cast<int>(0x80008000u); // further up and left than any window reaches

  __device__ Row row(int i) const {
    if (i >= rows) return {0, NOWHERE};
    const int image = pixels.per_image.divide(i), inside = i - image * static_cast<int>(pixels.per_image.divisor);
    const int h = pixels.per_row.divide(inside), w = inside - h * static_cast<int>(pixels.per_row.divisor);
    const int top = h * window.step_h - window.padding_h, left = w * window.step_w - window.padding_w;
    return {(image * pixels.height + top) * pixels.width + left,
            static_cast<int>(static_cast<uint32_t>(top) << 16 | (left & 0xffff))};
  }
  __device__ Column column(int j) const {
    const int tap = group_channels.divide(j), c = j - tap * static_cast<int>(group_channels.divisor);
    const int r = taps_w.divide(tap), s = tap - r * static_cast<int>(taps_w.divisor);
    const int down = r * window.dilation_h, right = s * window.dilation_w;
    return {down * pixels.width + right, down, right, first_channel + c, j < columns};
  }
  __device__ bool valid(const Row& row, const Column& column) const {
    const int h = (row.corner >> 16) + column.down, w = static_cast<int16_t>(row.corner & 0xffff) + column.right;
    return column.valid && static_cast<unsigned>(h) < static_cast<unsigned>(pixels.height) &&
           static_cast<unsigned>(w) < static_cast<unsigned>(pixels.width);
  }
  __device__ int64_t offset(const Row& row, const Column& column) const {
    return (row.pixel + column.pixels) * pitch + column.channel;
  }
};

// Filters [K, taps, C/groups] with rows (tap, filter) and columns c: some taps of them, `step` apart, as a lattice of
// the input gradient uses them.
struct FilterRows {
  static constexpr bool COSTLY_ROWS = false;
  Divider group_filters, taps_w;
  int rows = 0, columns = 0; // rows = used taps * group_filters, columns = C/groups
  int taps_of_row = 1, taps = 1; // of the whole filter: in a row of it, in all
  int first_r = 0, first_s = 0, step_r = 1, step_s = 1;
  int first_filter = 0; // of the group

  struct Row {
    int filter_and_tap; // counted tap by tap
    bool valid;
  };
  struct Column {
    int offset, channel;
    bool valid;
  };
  __device__ Row row(int i) const {
    const int used = group_filters.divide(i), filter = i - used * static_cast<int>(group_filters.divisor);
    const int r = taps_w.divide(used), s = used - r * static_cast<int>(taps_w.divisor);
    const int tap = (first_r + r * step_r) * taps_of_row + first_s + s * step_s;
    return {(first_filter + filter) * taps + tap, i < rows};
  }
  __device__ Column column(int j) const { return {j, j, j < columns}; }
  __device__ static bool valid(const Row& row, const Column& column) { return row.valid && column.valid; }
  __device__ int64_t offset(const Row& row, const Column& column) const {
    return static_cast<int64_t>(row.filter_and_tap) * columns + column.offset;
  }
};

// ---- prologues ----
// AUX: a second tensor of the same shape is read along. active(): is there anything to do? `apply` turns N neighbours in a
// row into what the product reads, given the COEFFICIENTS of their channels; it may keep sums of its columns, of which
// the first one's place is `at`. NOTES: `note` sees the finished numbers.

// Nothing.
struct Plain {
  static constexpr bool AUX = false, NOTES = false;
  static constexpr int COEFFICIENTS = 0;
  __device__ static bool active() { return false; }
};

// act(scale*x + shift), unless norm is null.
struct NormAct {
  static constexpr bool AUX = false, NOTES = false;
  static constexpr int COEFFICIENTS = 2;
  const float* norm = nullptr; // [4, channels]
  int channels = 0;
  bool with_relu = false;

  __device__ bool active() const { return norm != nullptr; }
  __device__ const float* coefficients(int i) const { return norm + (2 + i) * channels; }
  template <class T, int N>
  __device__ void apply(float (&x)[N], const Vector<T, N>&, const float (&c)[2][N], int) const {
    for (int i = 0; i < N; ++i) x[i] = norm_act(x[i], c[0][i], c[1][i], with_relu);
  }
};

// BN's backward a*g + b*y + c, without y a*g; nothing if dnorm is null.
struct NormBackward {
  static constexpr bool AUX = true, NOTES = false; // y
  static constexpr int COEFFICIENTS = 3;
  const float* dnorm = nullptr; // [3, channels]
  int channels = 0;
  bool with_y = false;

  __device__ bool active() const { return dnorm != nullptr; }
  __device__ bool reads_aux() const { return with_y; }
  __device__ const float* coefficients(int i) const { return dnorm + i * channels; }
  template <class T, int N>
  __device__ void apply(float (&g)[N], const Vector<T, N>& y, const float (&c)[3][N], int) const {
    for (int i = 0; i < N; ++i)
      g[i] = with_y ? norm_backward(g[i], to_float(y.at[i]), c[0][i], c[1][i], c[2][i]) : c[0][i] * g[i];
  }
};

// g where out > 0 (NaN lets it pass), written to `masked` if that is given, and its sums.
template <class T, int COLUMNS>
struct Masked {
  static constexpr bool AUX = true, NOTES = true; // out
  static constexpr int COEFFICIENTS = 0;
  T* masked = nullptr;
  float sum[COLUMNS] = {}; // of this thread's columns

  __device__ static bool active() { return true; }
  __device__ static bool reads_aux() { return true; }
  template <int N>
  __device__ void apply(float (&g)[N], const Vector<T, N>& out, const float (&)[1][N], int at) {
    for (int i = 0; i < N; ++i) {
      if (to_float(out.at[i]) <= 0.f) g[i] = 0.f;
      sum[at + i] += g[i];
    }
  }
  template <int N>
  __device__ void note(int64_t offset, const Vector<T, N>& g) const {
    if (masked) store(masked + offset, g);
  }
};

// ---- the operand ----

// Rows of `Shared` are the matrix's rows where depth is inner, and its columns' index is the depth; with depth outer the
// rows are the depth. ALIGNED: chunks of 16 bytes lie in one tap and start at multiples of 16 bytes.
template <class T_, bool ALIGNED, class Shared_, int THREADS, class Gather, class Prologue>
struct Operand {
  using T = T_;
  using Shared = Shared_;
  static constexpr bool INNER = Shared::ORDER == Order::depth_inner;
  static constexpr bool KEEPS_ROWS = INNER && ALIGNED && Gather::COSTLY_ROWS;
  static constexpr bool REMEMBERS = Gather::COSTLY_ROWS && !KEEPS_ROWS; // which chunks there are
  static constexpr int STAGE_SIZE = Shared::SIZE * (Prologue::AUX ? 2 : 1);
  static constexpr int CHUNK = Shared::CHUNK;
  static constexpr int ROW_STEP = THREADS / Shared::CHUNKS; // rows that all threads copy at once
  static constexpr int COUNT = (Shared::ROWS + ROW_STEP - 1) / ROW_STEP;
  static constexpr int COEFFICIENTS = Prologue::COEFFICIENTS > 0 ? Prologue::COEFFICIENTS : 1;
  static constexpr bool PLAIN = std::is_same_v<Prologue, Plain>;

  // row, column: of the tile's first element in the matrix.
  __device__ Operand(const T* data, const T* aux, const Gather& gather, const Prologue& prologue, int row, int column)
      : data(data), aux(aux), gather(gather), prologue(prologue), first_row(row), first_column(column) {
    if constexpr (KEEPS_ROWS)
      for (int i = 0; i < COUNT; ++i) rows[i] = gather.row(first_row + chunk_row(i));
  }

  // Starts to copy this thread's chunks of tile `step`.
  __device__ void fetch(int step, T* tile) {
    if constexpr (ALIGNED) {
      const auto column = gather.column(chunk_column(step));
      uint32_t found = 0;
      for_rows(step, [&](int i, const auto& row) {
        const bool valid = gather.valid(row, column);
        if constexpr (REMEMBERS) found |= static_cast<uint32_t>(valid) << i;
        const int64_t offset = valid ? gather.offset(row, column) : 0;
        T* const to = tile + Shared::at(chunk_row(i), chunk());
        portable::cp_async<16>(to, data + offset, valid ? 16 : 0);
        if constexpr (Prologue::AUX)
          if (prologue.reads_aux()) portable::cp_async<16>(to + Shared::SIZE, aux + offset, valid ? 16 : 0);
      });
      if constexpr (REMEMBERS) {
        const int slot = step % STAGES * COUNT;
        exists = (exists & ~(((1u << COUNT) - 1) << slot)) | found << slot;
      }
    } else {
      fetch_elements(step, tile);
    }
  }

  // Applies the prologue to them, after they have arrived.
  __device__ void finish(int step, T* tile) {
    if constexpr (ALIGNED && !PLAIN) {
      if (!prologue.active()) return;
      const auto column = gather.column(chunk_column(step));
      if (!column.valid) return;
      float c[COEFFICIENTS][CHUNK];
      if constexpr (Prologue::COEFFICIENTS > 0)
        for (int k = 0; k < COEFFICIENTS; ++k) load_floats(c[k], prologue.coefficients(k) + column.channel);
#pragma unroll(KEEPS_ROWS ? COUNT : 1) // several rows at once would cost registers
      for (int i = 0; i < COUNT; ++i) {
        if (!was_valid(i, step, column)) continue; // zero padding comes after the prologue
        T* const at = tile + Shared::at(chunk_row(i), chunk());
        const auto x = load<CHUNK>(at);
        auto second = x;
        if constexpr (Prologue::AUX)
          if (prologue.reads_aux()) second = load<CHUNK>(at + Shared::SIZE);
        float v[CHUNK];
        for (int e = 0; e < CHUNK; ++e) v[e] = to_float(x.at[e]);
        prologue.apply(v, second, c, 0);
        const auto made = rounded<T>(v);
        store(at, made);
        if constexpr (Prologue::NOTES) prologue.note(gather.offset(row_of(i, step), column), made);
      }
    }
  }

  __device__ const Prologue& state() const { return prologue; }
  __device__ static int chunk() { return threadIdx.x % Shared::CHUNKS; }

 private:
  __device__ static int chunk_row(int i) { return threadIdx.x / Shared::CHUNKS + i * ROW_STEP; }
  __device__ int chunk_column(int step) const {
    return first_column + (INNER ? step * Shared::DEPTH : 0) + chunk() * CHUNK;
  }

  template <class Column>
  __device__ bool was_valid(int i, int step, const Column& column) const {
    if constexpr (REMEMBERS)
      return exists >> (step % STAGES * COUNT + i) & 1;
    else
      return (Shared::ROWS % ROW_STEP == 0 || chunk_row(i) < Shared::ROWS) && gather.valid(row_of(i, step), column);
  }

  __device__ typename Gather::Row row_of(int i, int step) const {
    if constexpr (KEEPS_ROWS)
      return rows[i];
    else
      return gather.row(first_row + (INNER ? 0 : step * Shared::DEPTH) + chunk_row(i));
  }

  // f(i, row) for this thread's rows.
  template <class F>
  __device__ void for_rows(int step, const F& f) const {
#pragma unroll(ALIGNED ? COUNT : 1)
    for (int i = 0; i < COUNT; ++i)
      if (Shared::ROWS % ROW_STEP == 0 || chunk_row(i) < Shared::ROWS) f(i, row_of(i, step));
  }

  // Element by element, the prologue included: neighbours may lie in different taps, at any address.
  __device__ void fetch_elements(int step, T* tile) {
    for (int e = 0; e < CHUNK; ++e) {
      const auto column = gather.column(chunk_column(step) + e);
      float c[COEFFICIENTS][1];
      if constexpr (Prologue::COEFFICIENTS > 0)
        if (prologue.active() && column.valid)
          for (int k = 0; k < COEFFICIENTS; ++k) c[k][0] = prologue.coefficients(k)[column.channel];
      for_rows(step, [&](int i, const auto& row) {
        Vector<T, 1> x{{from_float<T>(0.f)}};
        if (gather.valid(row, column)) x = read_element(gather.offset(row, column), c, e);
        tile[Shared::at(chunk_row(i), chunk()) + e] = x.at[0];
      });
    }
  }

  __device__ Vector<T, 1> read_element(int64_t offset, const float (&c)[COEFFICIENTS][1], int e) {
    const auto x = load<1>(data + offset);
    if constexpr (PLAIN) {
      return x;
    } else {
      if (!prologue.active()) return x;
      auto second = x;
      if constexpr (Prologue::AUX)
        if (prologue.reads_aux()) second = load<1>(aux + offset);
      float v[1] = {to_float(x.at[0])};
      prologue.apply(v, second, c, e);
      const auto made = rounded<T>(v);
      if constexpr (Prologue::NOTES) prologue.note(offset, made);
      return made;
    }
  }

  const T* data;
  const T* aux;
  const Gather& gather;
  Prologue prologue;
  int first_row, first_column;
  uint32_t exists = 0; // a bit for each chunk on its way
  typename Gather::Row rows[KEEPS_ROWS ? COUNT : 1];
};

// Sums that threads kept of their columns of a tile with depth outer, all rows together: sums [columns]. The memory is
// free again when it returns.
template <class Operand>
__device__ inline void store_row_sums(const float (&sum)[Operand::CHUNK], float* memory, float* sums, int columns) {
  using Shared = typename Operand::Shared;
  for (int e = 0; e < Operand::CHUNK; ++e) memory[threadIdx.x * Operand::CHUNK + e] = sum[e];
  __syncthreads();
  // in the order of the threads that had the column: every CHUNKS-th
  for (int column = threadIdx.x; column < min(columns, Shared::WIDTH); column += blockDim.x) {
    float total = 0.f;
    for (int i = 0; i < Operand::ROW_STEP; ++i) total += memory[i * Shared::WIDTH + column];
    sums[column] = total;
  }
  __syncthreads();
}

} // namespace fused_resnet::cuda
