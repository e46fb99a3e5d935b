// The instances of products: one for each storage and tile.
#pragma once

#include <type_traits>

#include "dtypes.h"
#include "gemm.cuh"
#include "tiles.h"

namespace fused_resnet::cuda {

using Large = Tile<128, 128, 2, 4>;
using Narrow = Tile<128, 64, 2, 2>;
using Small = Tile<64, 64, 2, 2>;
using Slim = Tile<128, 32, 4, 1>;
static_assert(Large::M == tile_rows(LARGE) && Narrow::M == tile_rows(NARROW) && Small::M == tile_rows(SMALL) &&
              Slim::M == tile_rows(SLIM));

// A tile and its number.
template <class Tile_, int64_t NUMBER_>
struct Choice {
  using Tile = Tile_;
  static constexpr int64_t NUMBER = NUMBER_;
};

// f(T{}, Tile{}, aligned) with the chosen tile, for storage T; cudaErrorInvalidValue if it is not among the choices.
// Operands that are read element by element have the small tile only.
template <class T, class... Choices, class F>
cudaError_t with_tile(bool aligned, int64_t tile, const F& f) {
  if (!aligned) return tile == SMALL ? f(T{}, Small{}, std::false_type{}) : cudaErrorInvalidValue;
  cudaError_t error = cudaErrorInvalidValue;
  ((tile == Choices::NUMBER ? void(error = f(T{}, typename Choices::Tile{}, std::true_type{})) : void()), ...);
  return error;
}

// The same for whole GEMMs. Products of fp32 have no large tile: with twice the bytes, it would leave room for one block
// on a multiprocessor.
template <class F>
cudaError_t with_gemm_tile(Storage storage, bool aligned, int64_t tile, const F& f) {
  using N = Choice<Narrow, NARROW>;
  using S = Choice<Small, SMALL>;
  using G = Choice<Slim, SLIM>;
  switch (storage) {
    case Storage::bf16: return with_tile<__nv_bfloat16, Choice<Large, LARGE>, N, S, G>(aligned, tile, f);
    case Storage::fp16: return with_tile<__half, Choice<Large, LARGE>, N, S, G>(aligned, tile, f);
    default: return with_tile<float, N, S, G>(aligned, tile, f);
  }
}

} // namespace fused_resnet::cuda
