// The stem's max-pool and its backward.
#include "reduce.h"

namespace fused_resnet {

namespace {

PoolShape pool_shape(const Tensor& y, Pair kernel, Pair stride, Pair padding) {
  PoolShape shape{};
  shape.channels = y.size(1);
  const int64_t size[2] = {shape.height = y.size(2), shape.width = y.size(3)};
  int64_t out[2];
  for (int d = 0; d < 2; ++d) {
    TORCH_CHECK(kernel[d] >= 1 && stride[d] >= 1 && padding[d] >= 0 && 2 * padding[d] <= kernel[d],
                "kernel_size, stride, padding: got ", kernel[d], ", ", stride[d], ", ", padding[d]);
    shape.kernel[d] = kernel[d];
    shape.stride[d] = stride[d];
    shape.padding[d] = padding[d];
    TORCH_CHECK(size[d] + 2 * padding[d] >= kernel[d], "y: expected height and width to fit the window, got sizes ",
                y.sizes());
    out[d] = (size[d] + 2 * padding[d] - kernel[d]) / stride[d] + 1;
  }
  TORCH_CHECK(kernel[0] * kernel[1] <= 256, "kernel_size: expected at most 256 positions (the argmax is one byte)");
  shape.out_height = out[0];
  shape.out_width = out[1];
  return shape;
}

} // namespace

std::tuple<Tensor, Tensor> bn_act_maxpool(const Tensor& y, const Tensor& norm, const std::string& act,
                                          Pair kernel_size, Pair stride, Pair padding) {
  check_activation(y, "y");
  const PoolShape shape = pool_shape(y, kernel_size, stride, padding);
  const std::array<int64_t, 4> sizes{y.size(0), shape.channels, shape.out_height, shape.out_width};
  Tensor out = empty_activation(sizes, y);
  // Where one pixel makes the layout ambiguous, ATen's index arithmetic falls back to the default strides.
  Tensor argmax = empty_recycled(
      sizes, at::kByte, out.is_contiguous() ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast);
  dispatch(y, "y", [&](auto storage) {
    using T = decltype(storage);
    using A = Acc<T>;
    const Tensor coefficients = check_vectors<A>(norm, 4, shape.channels, "norm");
    const A* vectors = coefficients.const_data_ptr<A>();
    const Pool<T> op{data<T>(y),
                     {vectors + 2 * shape.channels, vectors + 3 * shape.channels},
                     activation_floor<A>(act),
                     data<T>(out),
                     data<uint8_t>(argmax)};
    const int64_t row_reads = shape.out_width * shape.channels * shape.kernel[0] * shape.kernel[1];
    const int64_t grain = std::max<int64_t>(1, min_task / row_reads);
    at::parallel_for(0, y.size(0) * shape.out_height, grain, [&](int64_t begin, int64_t end) {
      std::vector<A> scratch(shape.channels);
      std::vector<int32_t> positions(shape.channels);
      for (int64_t row = begin; row < end; ++row)
        kernels<T>().pool_row(op, shape, row, scratch.data(), positions.data());
    });
  });
  return {out, argmax};
}

std::tuple<Tensor, Tensor> bn_act_maxpool_bwd_reduce(const Tensor& dout, const Tensor& argmax, const Tensor& y,
                                                     const Tensor& norm, const std::string& act, Pair kernel_size,
                                                     Pair stride, Pair padding) {
  check_activation(y, "y");
  check_activation(dout, "dout");
  check_activation(argmax, "argmax");
  const PoolShape shape = pool_shape(y, kernel_size, stride, padding);
  TORCH_CHECK(dout.scalar_type() == y.scalar_type() && argmax.scalar_type() == at::kByte &&
                  dout.sizes() == argmax.sizes() &&
                  dout.sizes() == at::IntArrayRef({y.size(0), shape.channels, shape.out_height, shape.out_width}),
              "dout, argmax: expected the sizes of the pool's output, got ", dout.sizes(), " and ", argmax.sizes());
  return dispatch(y, "y", [&](auto storage) -> std::tuple<Tensor, Tensor> {
    using T = decltype(storage);
    using A = Acc<T>;
    const Tensor coefficients = check_vectors<A>(norm, 4, shape.channels, "norm");
    const A* vectors = coefficients.const_data_ptr<A>();
    Tensor g = empty_activation_like(y);
    PoolBackward<T> op{data<T>(dout), data<uint8_t>(argmax), {}};
    op.reduce.g = data<T>(g);
    op.reduce.mask = activation_floor<A>(act) == 0 ? Mask::affine : Mask::none;
    op.reduce.mask_source = data<T>(y);
    op.reduce.affine = {vectors + 2 * shape.channels, vectors + 3 * shape.channels};
    op.reduce.projections[0] = {data<T>(y), vectors};
    op.reduce.projection_count = 1;

    const Chunks chunks(y.numel() / shape.channels, shape.channels);
    Tensor partial = at::empty({chunks.count, 2, shape.channels}, at::kDouble);
    at::parallel_for(0, chunks.count, 1, [&](int64_t begin, int64_t end) {
      std::vector<A> scratch(4 * shape.channels);
      std::vector<T> tile(pool_tile * shape.channels);
      for (int64_t chunk = begin; chunk < end; ++chunk)
        kernels<T>().pool_backward(op, shape, chunks.begin(chunk), chunks.begin(chunk + 1),
                                   partial.mutable_data_ptr<double>() + chunk * 2 * shape.channels, scratch.data(),
                                   tile.data());
    });
    return {g, finish_sums<A>(partial, shape.channels, {vectors + shape.channels})};
  });
}

} // namespace fused_resnet
