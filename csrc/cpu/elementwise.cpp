// Ops that read each element once and write one.
#include "arguments.h"

namespace fused_resnet {

Tensor bn_act(const Tensor& y, const Tensor& norm, const std::string& act) {
  check_activation(y, "y");
  Tensor out = empty_activation_like(y);
  dispatch(y, "y", [&](auto storage) {
    using T = decltype(storage);
    const Rows rows = rows_of(y);
    const Lanes<Acc<T>> coefficients(norm, 4, rows, "norm");
    const auto floor = activation_floor<Acc<T>>(act);
    for_rows(rows, [&](int64_t first, int64_t size) {
      kernels<T>().affine_act(data<T>(y) + first, affine_of<T>(coefficients), floor, data<T>(out) + first, size,
                              rows.width);
    });
  });
  return out;
}

Tensor bn_add_act(const Tensor& y, const Tensor& norm, const Tensor& residual, const OptionalTensor& residual_norm,
                  const std::string& act) {
  check_activation(y, "y");
  check_like(residual, y, "residual");
  Tensor out = empty_activation_like(y);
  dispatch(y, "y", [&](auto storage) {
    using T = decltype(storage);
    const Rows rows = rows_of(y);
    const Lanes<Acc<T>> coefficients(norm, 4, rows, "norm");
    std::optional<Lanes<Acc<T>>> residual_coefficients;
    if (residual_norm) residual_coefficients.emplace(*residual_norm, 4, rows, "residual_norm");
    const Affine<T> residual_affine = residual_norm ? affine_of<T>(*residual_coefficients) : Affine<T>{};
    const auto floor = activation_floor<Acc<T>>(act);
    for_rows(rows, [&](int64_t first, int64_t size) {
      kernels<T>().add_act(data<T>(y) + first, affine_of<T>(coefficients), data<T>(residual) + first, residual_affine,
                           floor, data<T>(out) + first, size, rows.width);
    });
  });
  return out;
}

Tensor bn_act_bwd_apply(const Tensor& g, const OptionalTensor& y, const Tensor& dnorm) {
  check_activation(g, "g");
  if (y) check_like(*y, g, "y");
  Tensor dy = empty_activation_like(g);
  dispatch(g, "g", [&](auto storage) {
    using T = decltype(storage);
    const Rows rows = rows_of(g);
    const Lanes<Acc<T>> abc(dnorm, 3, rows, "dnorm");
    for_rows(rows, [&](int64_t first, int64_t size) {
      kernels<T>().backward_apply(data<T>(g) + first, abc[0], y ? data<T>(*y) + first : nullptr, abc[1], abc[2],
                                  data<T>(dy) + first, size, rows.width);
    });
  });
  return dy;
}

} // namespace fused_resnet
