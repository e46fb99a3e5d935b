#include "chain_plan.h"

#include <unistd.h>

#include "tasks.h"
#include "window.h"
#include "winograd.h"

namespace fused_resnet {

namespace {

constexpr int64_t most_transformed = 131072; // bytes of Winograd's tiles, beside all else in the second-level cache

} // namespace

int64_t rows_at_once(const Convolution& conv, bool winograd) {
  if (!winograd) return std::max<int64_t>(1, strip_pixels / conv.out[1]);
  const int64_t tiles = (conv.out[1] + 1) / 2, tile_bytes = 16 * conv.channels * static_cast<int64_t>(sizeof(float));
  return 2 * std::max<int64_t>(1, most_transformed / (tiles * tile_bytes));
}

bool can_go_depth_first(const ChainShape& shape) {
  for (size_t i = 1; i < shape.convolutions.size(); ++i)
    if (!Window::possible(fprop_rows(shape.convolutions[i]))) return false;
  return true;
}

int64_t task_bytes(const ChainShape& shape, int64_t rows) {
  int64_t floats = 0;
  for (size_t i = shape.convolutions.size(); i-- > 1;) {
    const Window window(fprop_rows(shape.convolutions[i]));
    floats += window.floats(rows);
    rows = window.lines(rows);
  }
  const Gather gather = fprop_rows(shape.convolutions[0]);
  const StripLayout layout(gather, gather.channels, 0, false);
  return (floats + layout.lines(rows) * layout.line) * static_cast<int64_t>(sizeof(float));
}

namespace {

// Bytes of a core's own cache that a task may fill; the weights pass through the rest.
int64_t cache_budget() {
  constexpr long usual = 512 * 1024; // where the system does not say
#ifdef _SC_LEVEL2_CACHE_SIZE
  const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  const long size = 0;
#endif
  return (size > 0 ? size : usual) * 5 / 8;
}

// Depth first spares writing and reading what lies between the convolutions, but reads all weights once per strip of
// one image. It was measured to be faster in the 56x56 stages of ResNets and in the 28x28 stage of bottlenecks, whose
// images have 0.7 inner values per weight, and no faster where they have less than half as many, as basic blocks of
// 28x28 and all of 14x14. A 3x3 convolution next to a projection would lose Winograd's way.
bool depth_first_pays(const ChainShape& shape) {
  if (shape.on_matrices) return false;
  const size_t last = shape.convolutions.size() - 1;
  int64_t inner = 0, weights = 0;
  for (size_t i = 0; i <= last; ++i) {
    const Convolution& conv = shape.convolutions[i];
    weights += conv.filters * conv.channels * conv.kernel[0] * conv.kernel[1];
    if (i < last) inner += conv.filters * conv.out[0] * conv.out[1];
  }
  if (shape.projection) {
    weights += shape.projection->filters * shape.projection->channels;
    const Convolution& tail = shape.convolutions[last];
    if (winograd_pays(fprop_rows(tail), tail.filters)) return false;
  }
  return 3 * inner >= 2 * weights;
}

// Tasks per image: no more than keep all threads busy, as each computes the rows at its edges once more.
int64_t parts_of(const Convolution& last, int64_t threads) {
  constexpr int64_t least_rows = 14;
  const int64_t wanted = (tasks_per_thread * threads + last.images - 1) / last.images;
  return std::clamp<int64_t>(last.out[0] / least_rows, 1, wanted);
}

} // namespace

ChainCut cut_chain(const ChainShape& shape, int64_t threads) {
  constexpr ChainCut unit_by_unit{0, 1};
  if (!can_go_depth_first(shape) || !depth_first_pays(shape)) return unit_by_unit;
  const Convolution& last = shape.convolutions.back();
  const int64_t parts = parts_of(last, threads), tasks = last.images * parts;
  // a thread that waits for the last task costs more than is gained
  const bool uneven = tasks < tasks_per_thread * threads && tasks % threads != 0;
  if (uneven) return unit_by_unit;
  int64_t rows = 2; // pairs, for Winograd's tiles
  while (rows + 2 <= last.out[0] && task_bytes(shape, rows + 2) <= cache_budget()) rows += 2;
  return task_bytes(shape, rows) <= 2 * cache_budget() ? ChainCut{rows, parts} : unit_by_unit;
}

} // namespace fused_resnet
