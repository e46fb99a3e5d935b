#include "elementwise.h"

#include "ops.h"

namespace fused_resnet::cuda {

namespace {

constexpr int64_t MOST_ROWS = 8; // of a thread: reading the coefficients weighs little then

Tensor norm_act(const Tensor& y, const Tensor& norm, const OptionalTensor& residual,
                const OptionalTensor& residual_norm, const std::string& act, const char* op) {
  check_activation(y, "y");
  const int64_t channels = y.size(1);
  if (residual) check_like(*residual, y, "residual");
  Tensor out = at::empty_like(y);
  BnAct p{data(y),
          check_vectors(norm, 4, channels, "norm"),
          data(residual),
          check_vectors(residual_norm, 4, channels, "residual_norm"),
          out.mutable_data_ptr(),
          {},
          is_relu(act, "act")};
  const Storage storage = storage_of(y, "y");
  const int numbers = numbers_per_access(storage, channels, {p.y, p.norm, p.residual, p.residual_norm, p.out});
  p.rows = streamed_rows(pixels(y), channels, numbers, MOST_ROWS);
  const Device device(y);
  check_launch(launch_bn_act(p, storage, numbers, device.stream), op);
  return out;
}

} // namespace

Tensor bn_act(const Tensor& y, const Tensor& norm, const std::string& act) {
  return norm_act(y, norm, std::nullopt, std::nullopt, act, "bn_act");
}

Tensor bn_add_act(const Tensor& y, const Tensor& norm, const Tensor& residual, const OptionalTensor& residual_norm,
                  const std::string& act) {
  return norm_act(y, norm, residual, residual_norm, act, "bn_add_act");
}

Tensor bn_act_bwd_apply(const Tensor& g, const OptionalTensor& y, const Tensor& dnorm) {
  check_activation(g, "g");
  if (y) check_like(*y, g, "y");
  const int64_t channels = g.size(1);
  Tensor dy = at::empty_like(g);
  BnBackwardApply p{data(g), data(y), check_vectors(dnorm, 3, channels, "dnorm"), dy.mutable_data_ptr(), {}};
  const Storage storage = storage_of(g, "g");
  const int numbers = numbers_per_access(storage, channels, {p.g, p.y, p.dnorm, p.dy});
  p.rows = streamed_rows(pixels(g), channels, numbers, MOST_ROWS);
  const Device device(g);
  check_launch(launch_bn_act_bwd_apply(p, storage, numbers, device.stream), "bn_act_bwd_apply");
  return dy;
}

} // namespace fused_resnet::cuda
