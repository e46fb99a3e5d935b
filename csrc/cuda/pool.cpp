#include "pool.h"

#include <limits>

#include "merge.h"
#include "ops.h"

namespace fused_resnet::cuda {

namespace {

constexpr int64_t MOST_WINDOWS = 4; // of a thread

int64_t outputs(const Tensor& y, int d, Pair kernel, Pair stride, Pair padding) {
  TORCH_CHECK(kernel[d] >= 1 && stride[d] >= 1 && padding[d] >= 0 && 2 * padding[d] <= kernel[d],
              "kernel_size, stride, padding: got ", kernel[d], ", ", stride[d], ", ", padding[d]);
  const int64_t room = y.size(2 + d) + 2 * padding[d] - kernel[d];
  TORCH_CHECK(room >= 0, "y: expected height and width to fit the window, got sizes ", y.sizes());
  return room / stride[d] + 1;
}

PoolShape pool_shape(const Tensor& y, Pair kernel, Pair stride, Pair padding) {
  constexpr int64_t limit = std::numeric_limits<int>::max();
  check_activation(y, "y");
  PoolShape s{};
  s.height = static_cast<int>(y.size(2));
  s.width = static_cast<int>(y.size(3));
  s.out_height = static_cast<int>(outputs(y, 0, kernel, stride, padding));
  s.out_width = static_cast<int>(outputs(y, 1, kernel, stride, padding));
  for (int d = 0; d < 2; ++d) {
    TORCH_CHECK(stride[d] <= limit, "stride: expected less than 2^31, got ", stride[d]);
    s.kernel[d] = static_cast<int>(kernel[d]);
    s.stride[d] = static_cast<int>(stride[d]);
    s.padding[d] = static_cast<int>(padding[d]);
    s.strides[d] = Divider(stride[d]);
  }
  TORCH_CHECK(kernel[0] * kernel[1] <= 256, "kernel_size: expected at most 256 positions (the argmax is one byte)");
  TORCH_CHECK(pixels(y) <= limit && y.size(0) * s.out_height * s.out_width <= limit,
              "y: expected less than 2^31 pixels, got sizes ", y.sizes());
  return s;
}

} // namespace

std::tuple<Tensor, Tensor> bn_act_maxpool(const Tensor& y, const Tensor& norm, const std::string& act,
                                          Pair kernel_size, Pair stride, Pair padding) {
  Pool p{};
  p.shape = pool_shape(y, kernel_size, stride, padding);
  p.shape.per_image = Divider(int64_t{p.shape.out_height} * p.shape.out_width);
  p.shape.per_row = Divider(p.shape.out_width);
  const int64_t images = y.size(0), channels = y.size(1);
  Tensor out = new_activation(y, images, channels, p.shape.out_height, p.shape.out_width);
  Tensor argmax = at::empty_like(out, out.options().dtype(at::kByte));
  p.y = data(y);
  p.norm = check_vectors(norm, 4, channels, "norm");
  p.out = out.mutable_data_ptr();
  p.argmax = argmax.mutable_data_ptr<uint8_t>();
  p.relu = is_relu(act, "act");
  const Storage storage = storage_of(y, "y");
  const int numbers = numbers_per_access(storage, channels, {p.y, p.norm, p.out, p.argmax});
  p.rows = streamed_rows(pixels(out), channels, numbers, MOST_WINDOWS);
  const Device device(y);
  check_launch(launch_bn_act_maxpool(p, storage, numbers, device.stream), "bn_act_maxpool");
  return {out, argmax};
}

std::tuple<Tensor, Tensor> bn_act_maxpool_bwd_reduce(const Tensor& dout, const Tensor& argmax, const Tensor& y,
                                                     const Tensor& norm, const std::string& act, Pair kernel_size,
                                                     Pair stride, Pair padding) {
  PoolBackward p{};
  p.shape = pool_shape(y, kernel_size, stride, padding);
  p.shape.per_image = Divider(y.size(2) * y.size(3));
  p.shape.per_row = Divider(y.size(3));
  check_activation(dout, "dout");
  check_activation(argmax, "argmax");
  const int64_t channels = y.size(1);
  TORCH_CHECK(dout.scalar_type() == y.scalar_type() && argmax.scalar_type() == at::kByte &&
                  dout.sizes() == argmax.sizes() &&
                  dout.sizes() == at::IntArrayRef({y.size(0), channels, p.shape.out_height, p.shape.out_width}),
              "dout, argmax: expected the sizes of the pool's output, got ", dout.sizes(), " and ", argmax.sizes());
  Tensor g = at::empty_like(y);
  p.dout = data(dout);
  p.argmax = argmax.const_data_ptr<uint8_t>();
  p.y = data(y);
  p.norm[0] = check_vectors(norm, 4, channels, "norm");
  p.g = g.mutable_data_ptr();
  p.relu = is_relu(act, "act");
  const Storage storage = storage_of(y, "y");
  const int numbers = numbers_per_access(storage, channels, {p.dout, p.argmax, p.y, p.norm[0], p.g});
  p.rows = reduced_rows(pixels(y), channels, numbers, numbers * static_cast<int>(y.element_size()));
  const Device device(y);
  Tensor sums = new_vectors(y, {p.rows.parts(), 2, channels});
  p.sums = floats(sums);
  check_launch(launch_bn_act_maxpool_bwd_reduce(p, storage, numbers, device.stream), "bn_act_maxpool_bwd_reduce");
  return {g, merged_sums(sums, device)};
}

} // namespace fused_resnet::cuda
