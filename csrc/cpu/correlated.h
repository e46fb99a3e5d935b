// Products over pixels, sums [filters][taps][channels], and how they are cut into tasks.
#pragma once

#include <ATen/ops/empty.h>

#include "arguments.h"
#include "cut.h"

namespace fused_resnet {

constexpr int64_t copied_floats = 1048576; // of all copies of the sums
constexpr int64_t part_sums = 65536;       // per tap: fewer stay in the second-level cache

// Σ over pixels of g [filters] times what the taps read of z [channels]: sums [filters][taps][channels].
template <class T>
struct Correlated {
  Gather g_gather, z_gather;
  Operand<T> g, z;
  bool symmetric; // g is z: only what lies on or below the diagonal is needed
};

// Which part of the sums a task computes, from which lines.
struct Share {
  int64_t first_filter, filters, first_channel, channels, begin, end;
};

// z's columns in memory: where taps of a row are neighbours and channels few, one run of both, if `merging`.
struct Columns {
  explicit Columns(const Gather& z, bool merging = true) {
    const int64_t width = product_kernels().panel;
    merged = merging && z.cols.dense() && z.channels < width && z.cols.taps.size() > 1;
    tap_columns = merged ? 1 : static_cast<int64_t>(z.cols.taps.size());
    width_of_tap = z.channels * static_cast<int64_t>(merged ? z.cols.taps.size() : 1);
    padded = divide_up(width_of_tap, width) * width;
    taps = static_cast<int64_t>(z.rows.taps.size()) * tap_columns;
  }
  bool merged;
  int64_t tap_columns, width_of_tap, padded, taps;
};

// How the work is split into tasks: by lines, whose sums are kept apart and added up at the end, and by channels (or
// filters) where sums are too many for that. Parts of a pixel's channels are the worse way: every part reads the whole
// other operand, and of its own more than it uses, as processors fetch ahead what lies between.
struct Split {
  // most_sums: of filters times channels of a part.
  Split(const Columns& columns, int64_t filters, int64_t channels, int64_t lines, int64_t work, bool symmetric,
        int64_t most_sums = part_sums) {
    const int64_t threads = at::get_num_threads(), tasks = work >= parallel_depth ? tasks_per_thread * threads : 1;
    by_channel = !columns.merged && channels >= filters;
    const int64_t all = by_channel ? channels : filters, unit = by_channel ? product_kernels().panel : tile_filters;
    const int64_t size = filters * columns.taps * columns.padded;
    const int64_t most_copies = std::clamp<int64_t>(copied_floats / size, 1, lines);
    const int64_t wanted = std::max(divide_up(filters * channels, most_sums), divide_up(threads, most_copies));
    per_part = symmetric ? all : divide_up(all, std::min(wanted, tasks));
    per_part = divide_up(per_part, unit) * unit;
    parts = divide_up(all, per_part);
    copies = std::min(most_copies, divide_up(tasks, parts));
    if (parts == 1 && copies > threads) copies -= copies % threads; // no thread waits for the last copy
  }

  // Of task `copy * parts + part`; `lines` are what all tasks share.
  Share share(int64_t task, int64_t filters, int64_t channels, int64_t lines) const {
    const int64_t copy = task / parts, first = task % parts * per_part;
    Share share{0, filters, 0, channels, lines * copy / copies, lines * (copy + 1) / copies};
    (by_channel ? share.first_channel : share.first_filter) = first;
    int64_t& count = by_channel ? share.channels : share.filters;
    count = std::min(per_part, count - first);
    return share;
  }

  int64_t copies, parts, per_part;
  bool by_channel;
};

// Are sums of so many copies already what `added_up` gives?
inline bool are_final(int64_t copies, const Columns& columns) {
  return copies == 1 && columns.padded == columns.width_of_tap;
}

// sums [copies][filters * taps * padded columns], the copies added in order, without the columns that only pad.
inline Tensor added_up(const Tensor& sums, const Columns& columns, int64_t filters) {
  const int64_t copies = sums.size(0), size = sums.size(1), rows = filters * columns.taps;
  if (are_final(copies, columns)) return sums.view({filters, columns.taps, columns.padded});
  Tensor total = at::empty({filters, columns.taps, columns.width_of_tap}, at::kFloat);
  const float* from = sums.const_data_ptr<float>();
  float* to = total.mutable_data_ptr<float>();
  at::parallel_for(0, rows, divide_up(min_task, columns.width_of_tap), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t copy = 0; copy < copies; ++copy)
        for (int64_t c = 0; c < columns.width_of_tap; ++c) {
          const float value = from[copy * size + row * columns.padded + c];
          float& sum = to[row * columns.width_of_tap + c];
          sum = copy ? sum + value : value;
        }
  });
  return total;
}

} // namespace fused_resnet
