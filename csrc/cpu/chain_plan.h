// How a block of convolutions is computed: unit by unit, or depth first, some output rows at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gather.h"

namespace fused_resnet {

struct ChainShape {
  std::vector<Convolution> convolutions; // the main path
  std::optional<Convolution> projection; // the shortcut's
  bool on_matrices;                      // unit by unit, matrix hardware multiplies; depth first, vectors do
};

// Depth first with `rows` output rows at a time and each image in `parts` tasks; rows 0: unit by unit.
struct ChainCut {
  int64_t rows, parts;
};

// Output rows of a convolution that are multiplied at a time: in pairs by Winograd's tiles.
int64_t rows_at_once(const Convolution& conv, bool winograd);

bool can_go_depth_first(const ChainShape& shape);

// Bytes that a task keeps in its core's cache for `rows` output rows: the block's input and what waits between units.
int64_t task_bytes(const ChainShape& shape, int64_t rows);

// The way that is expected to be faster.
ChainCut cut_chain(const ChainShape& shape, int64_t threads);

} // namespace fused_resnet
