// The tiles that products are cut into, by their numbers in fused_resnet/backends/cuda/tiles.py.
#pragma once

#include <cstdint>

namespace fused_resnet::cuda {

enum TileNumber : int64_t { LARGE, NARROW, SMALL, SLIM };

// Rows of results in a tile.
constexpr int64_t tile_rows(int64_t tile) { return tile == SMALL ? 64 : 128; }

// Warps of a block that computes one.
constexpr int64_t tile_warps(int64_t tile) { return tile == LARGE ? 8 : 4; }

} // namespace fused_resnet::cuda
