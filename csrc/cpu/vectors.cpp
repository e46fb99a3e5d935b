// Ops on per-channel vectors: each replaces a handful of ATen calls that would cost more than their arithmetic.
#include <cmath>

#include "arguments.h"

namespace fused_resnet {

namespace {

template <class F>
auto dispatch_accumulator(const Tensor& t, const char* name, F&& f) {
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble, name,
              ": expected fp32 or fp64, got ", t.scalar_type());
  return t.scalar_type() == at::kDouble ? f(double{}) : f(float{});
}

} // namespace

Tensor bn_finalize(const Tensor& mean, const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
                   double eps) {
  return dispatch_accumulator(mean, "mean", [&](auto zero) {
    using A = decltype(zero);
    const int64_t channels = mean.numel();
    const Tensor m = check_vectors<A>(mean, 1, channels, "mean"), v = check_vectors<A>(var, 1, channels, "var");
    const Tensor w = weight ? check_vectors<A>(*weight, 1, channels, "weight") : Tensor();
    const Tensor b = bias ? check_vectors<A>(*bias, 1, channels, "bias") : Tensor();
    const A *mean_in = data<A>(m), *var_in = data<A>(v);
    const A* weight_in = weight ? data<A>(w) : nullptr;
    const A* bias_in = bias ? data<A>(b) : nullptr;
    Tensor norm = at::empty({4, channels}, m.options());
    A* out = norm.mutable_data_ptr<A>();
    for (int64_t c = 0; c < channels; ++c) {
      const A invstd = A(1) / std::sqrt(var_in[c] + static_cast<A>(eps));
      const A scale = weight_in ? weight_in[c] * invstd : invstd;
      out[c] = mean_in[c];
      out[channels + c] = invstd;
      out[2 * channels + c] = scale;
      out[3 * channels + c] = (bias_in ? bias_in[c] : A(0)) - mean_in[c] * scale;
    }
    return norm;
  });
}

void bn_update_running(const Tensor& running_mean, const Tensor& running_var, const Tensor& mean, const Tensor& var,
                       double momentum, double correction) {
  dispatch_accumulator(mean, "mean", [&](auto zero) {
    using A = decltype(zero);
    const int64_t channels = mean.numel();
    const auto update = [&](const Tensor& running, const Tensor& batch, A factor, const char* name) {
      TORCH_CHECK(running.device().is_cpu() && running.scalar_type() == mean.scalar_type() &&
                      running.numel() == channels && running.is_contiguous(),
                  name, ": expected a contiguous CPU vector of ", mean.scalar_type(), " and length ", channels);
      const Tensor b = check_vectors<A>(batch, 1, channels, "batch statistics");
      A* old = data<A>(running);
      const A* values = data<A>(b);
      const A w = static_cast<A>(momentum);
      for (int64_t c = 0; c < channels; ++c) { // as torch.lerp: exact at both ends
        const A value = values[c] * factor, step = value - old[c];
        old[c] = w < A(0.5) ? old[c] + w * step : value - step * (A(1) - w);
      }
      running.unsafeGetTensorImpl()->bump_version(); // autograd cannot see a write through a raw pointer
    };
    update(running_mean, mean, A(1), "running_mean");
    update(running_var, var, static_cast<A>(correction), "running_var");
  });
}

Tensor bn_bwd_finalize(const Tensor& sums, const Tensor& norm, double count) {
  return dispatch_accumulator(norm, "norm", [&](auto zero) {
    using A = decltype(zero);
    const int64_t channels = norm.size(-1);
    const Tensor s = check_vectors<A>(sums, 2, channels, "sums"), n = check_vectors<A>(norm, 4, channels, "norm");
    const A *sum = data<A>(s), *coefficients = data<A>(n);
    const A inverse = static_cast<A>(1 / count);
    Tensor dnorm = at::empty({3, channels}, n.options());
    A* out = dnorm.mutable_data_ptr<A>();
    for (int64_t c = 0; c < channels; ++c) {
      const A mean = coefficients[c], invstd = coefficients[channels + c], a = coefficients[2 * channels + c];
      const A b = -a * invstd * sum[channels + c] * inverse;
      out[c] = a;
      out[channels + c] = b;
      out[2 * channels + c] = -a * sum[c] * inverse - b * mean;
    }
    return dnorm;
  });
}

} // namespace fused_resnet
