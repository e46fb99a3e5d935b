// The CPU ops. Signatures and semantics are those of fused_resnet/backends/reference; activations are dense NHWC.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

namespace fused_resnet {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Pair = std::array<int64_t, 2>;

std::tuple<Tensor, Tensor> bn_stats(const Tensor& y);

Tensor bn_finalize(const Tensor& mean, const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
                   double eps);

void bn_update_running(const Tensor& running_mean, const Tensor& running_var, const Tensor& mean, const Tensor& var,
                       double momentum, double correction);

Tensor bn_act(const Tensor& y, const Tensor& norm, const std::string& act);

Tensor bn_add_act(const Tensor& y, const Tensor& norm, const Tensor& residual, const OptionalTensor& residual_norm,
                  const std::string& act);

std::tuple<Tensor, Tensor> bn_act_bwd_reduce(const Tensor& dout, const OptionalTensor& y, const OptionalTensor& norm,
                                             const OptionalTensor& out, const OptionalTensor& dual_y,
                                             const OptionalTensor& dual_norm, const std::string& act);

Tensor bn_bwd_finalize(const Tensor& sums, const Tensor& norm, double count);

Tensor bn_act_bwd_apply(const Tensor& g, const OptionalTensor& y, const Tensor& dnorm);

std::tuple<Tensor, Tensor> bn_act_maxpool(const Tensor& y, const Tensor& norm, const std::string& act,
                                          Pair kernel_size, Pair stride, Pair padding);

std::tuple<Tensor, Tensor> bn_act_maxpool_bwd_reduce(const Tensor& dout, const Tensor& argmax, const Tensor& y,
                                                     const Tensor& norm, const std::string& act, Pair kernel_size,
                                                     Pair stride, Pair padding);

} // namespace fused_resnet
