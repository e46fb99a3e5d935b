#include "reduce.h"

#include "merge.h"
#include "ops.h"

namespace fused_resnet::cuda {

std::tuple<Tensor, Tensor> bn_stats(const Tensor& y) {
  check_activation(y, "y");
  const int64_t channels = y.size(1);
  const Storage storage = storage_of(y, "y");
  const int numbers = numbers_per_access(storage, channels, {data(y)});
  const Rows rows = reduced_rows(pixels(y), channels, numbers, numbers * static_cast<int>(y.element_size()));
  const Device device(y);
  Tensor mean = new_vectors(y, {rows.parts(), channels}), m2 = new_vectors(y, {rows.parts(), channels});
  const Statistics p{data(y), floats(mean), floats(m2), rows};
  check_launch(launch_bn_stats(p, storage, numbers, device.stream), "bn_stats");
  if (rows.parts() == 1) return {mean.select(0, 0), m2.select(0, 0)};
  return merged_moments(mean, m2, rows.per_block, rows.count, device);
}

std::tuple<Tensor, Tensor> bn_act_bwd_reduce(const Tensor& dout, const OptionalTensor& y, const OptionalTensor& norm,
                                             const OptionalTensor& out, const OptionalTensor& dual_y,
                                             const OptionalTensor& dual_norm, const std::string& act) {
  check_activation(dout, "dout");
  const int64_t channels = dout.size(1);
  if (y) check_like(*y, dout, "y");
  if (out) check_like(*out, dout, "out");
  if (dual_y) check_like(*dual_y, dout, "dual_y");
  TORCH_CHECK(y.has_value() == norm.has_value() && dual_y.has_value() == dual_norm.has_value(),
              "norm, dual_norm: expected exactly when their activations are given");
  const bool relu = is_relu(act, "act");
  TORCH_CHECK(!relu || y || out, "out: expected a tensor to take the ReLU mask from, as y is None");

  Tensor g = at::empty_like(dout);
  BackwardReduce p{};
  int units = 0;
  auto add_unit = [&](const OptionalTensor& of, const OptionalTensor& of_norm, const char* name) {
    if (!of) return;
    p.y[units] = data(of);
    p.norm[units++] = check_vectors(*of_norm, 4, channels, name);
  };
  add_unit(y, norm, "norm");
  add_unit(dual_y, dual_norm, "dual_norm");
  p.dout = data(dout);
  p.out = relu ? data(out) : nullptr;
  p.g = g.mutable_data_ptr();
  p.relu = relu;

  const Storage storage = storage_of(dout, "dout");
  const int numbers =
      numbers_per_access(storage, channels, {p.dout, p.out, p.y[0], p.y[1], p.norm[0], p.norm[1], p.g});
  p.rows = reduced_rows(pixels(dout), channels, numbers, numbers * static_cast<int>(dout.element_size()));
  const Device device(dout);
  Tensor sums = new_vectors(dout, {p.rows.parts(), 1 + units, channels});
  p.sums = floats(sums);
  check_launch(launch_bn_act_bwd_reduce(p, storage, numbers, device.stream), "bn_act_bwd_reduce");
  return {g, merged_sums(sums, device)};
}

} // namespace fused_resnet::cuda
