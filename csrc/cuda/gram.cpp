// Moments of what a 1x1 convolution reads.
#include "gram.h"

#include "convolution.h"
#include "merge.h"
#include "ops.h"
#include "tiles.h"

namespace fused_resnet::cuda {

std::tuple<Tensor, Tensor> gram(const Tensor& x, const OptionalTensor& x_norm, const std::string& x_act, Pair stride,
                                int64_t tile) {
  check_activation(x, "x");
  const Device device(x);
  const Convolution conv = pointwise(x, x.size(1), stride);
  const int64_t side = cdiv(conv.c, gram_channels(tile)), rows = conv.n * conv.p * conv.q;
  const Split split = split_rows(rows, GRAM_ROWS, side * (side + 1) / 2, tile_warps(tile));
  Tensor parts = new_vectors(x, {split.count, conv.c + 2, conv.c});
  Gram p{};
  p.x = data(x), p.x_norm = check_vectors(x_norm, 4, conv.c, "x_norm"), p.x_relu = is_relu(x_act, "x_act");
  p.parts = floats(parts);
  p.pixels = conv.outputs(), p.window = conv.window(), p.all_channels = Divider(conv.c);
  p.channels = static_cast<int>(conv.c);
  p.splits = static_cast<int>(split.count), p.rows_per_split = static_cast<int>(split.rows);
  const Storage storage = storage_of(x, "x");
  check_launch(launch_gram(p, storage, conv.aligned(x), tile, device.stream), "gram");

  const Tensor merged = merged_sums(parts, device);
  const float* const products = merged.const_data_ptr<float>();
  Tensor mean = new_vectors(x, {conv.c}), moments = new_vectors(x, {conv.c, conv.c});
  const GramFinish finish{p.x,         p.x_norm,        products,   products + conv.c * conv.c,
                          floats(mean), floats(moments), p.channels, p.pixels.count,
                          p.x_relu};
  check_launch(launch_gram_finish(finish, storage, device.stream), "gram");
  return {mean, moments};
}

} // namespace fused_resnet::cuda
