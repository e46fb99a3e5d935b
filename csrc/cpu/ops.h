// The CPU ops. Signatures and semantics are those of fused_resnet/backends/reference; activations are dense NHWC.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

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

// Convolutions and matrix products: fp32 and bf16, ungrouped.

Tensor conv_fprop(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& x_norm,
                  const std::string& x_act, Pair stride, Pair padding, Pair dilation, int64_t groups,
                  const OptionalTensor& norm, const OptionalTensor& residual, const std::string& act);

Tensor conv_fprop_dual(const Tensor& x, const Tensor& weight, const OptionalTensor& x_norm, const std::string& x_act,
                       const Tensor& norm, const Tensor& shortcut_x, const Tensor& shortcut_weight,
                       Pair shortcut_stride, const Tensor& shortcut_norm, const std::string& act);

std::tuple<Tensor, Tensor, Tensor> conv_fprop_stats(const Tensor& x, const Tensor& weight, const OptionalTensor& x_norm,
                                                    const std::string& x_act, Pair stride, Pair padding, Pair dilation,
                                                    int64_t groups);

Tensor conv_dgrad(const Tensor& g, const Tensor& weight, std::vector<int64_t> input_size, Pair stride, Pair padding,
                  Pair dilation, int64_t groups, const OptionalTensor& y, const OptionalTensor& dnorm,
                  const OptionalTensor& residual);

std::tuple<Tensor, Tensor> conv_dgrad_reduce(const Tensor& g, const Tensor& weight, Pair stride, Pair padding,
                                             Pair dilation, int64_t groups, const OptionalTensor& y,
                                             const OptionalTensor& dnorm, const Tensor& x, const Tensor& x_norm,
                                             const std::string& x_act);

Tensor conv_wgrad(const Tensor& g, const Tensor& x, const OptionalTensor& x_norm, const std::string& x_act,
                  std::array<int64_t, 4> weight_size, Pair stride, Pair padding, Pair dilation, int64_t groups,
                  const OptionalTensor& y, const OptionalTensor& dnorm);

std::tuple<Tensor, Tensor, Tensor> conv_wgrad_masked(const Tensor& dout, const Tensor& out, const Tensor& x,
                                                     const OptionalTensor& x_norm, const std::string& x_act,
                                                     std::array<int64_t, 4> weight_size, Pair stride);

std::tuple<Tensor, Tensor> gram(const Tensor& x, const OptionalTensor& x_norm, const std::string& x_act, Pair stride);

Tensor folded_dgrad(const Tensor& g, const Tensor& weight_g, const Tensor& x, const OptionalTensor& x_norm,
                    const std::string& x_act, const Tensor& weight_x, const Tensor& bias, Pair stride,
                    const OptionalTensor& residual);

std::tuple<Tensor, Tensor> folded_dgrad_reduce(const Tensor& g, const Tensor& weight_g, const Tensor& x,
                                               const Tensor& x_norm, const std::string& x_act, const Tensor& weight_x,
                                               const Tensor& bias);

// Of Gram-folded units, on vectors and small matrices.

std::tuple<Tensor, Tensor> folded_stats(const Tensor& weight, const Tensor& mean, const Tensor& gram, double count);

Tensor folded_sums(const Tensor& p, const Tensor& sums, const Tensor& weight, const Tensor& norm, const Tensor& mean);

Tensor folded_wgrad(const Tensor& p, const Tensor& sums, const Tensor& dnorm, const Tensor& weight, const Tensor& mean,
                    const Tensor& gram);

std::tuple<Tensor, Tensor, Tensor> folded_matrices(const Tensor& weight, const Tensor& sums, const Tensor& dnorm,
                                                   const Tensor& mean, double count);

// A block of convolutions, depth first where that is faster.
Tensor conv_chain_fprop(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<OptionalTensor>& biases,
                        const std::vector<OptionalTensor>& norms, const std::vector<int64_t>& strides,
                        const std::vector<int64_t>& paddings, const std::vector<int64_t>& dilations,
                        const std::vector<int64_t>& groups, const OptionalTensor& projection_weight,
                        const OptionalTensor& projection_norm, Pair projection_stride, const OptionalTensor& residual,
                        const std::string& act);

// The same cut as told: depth first with `rows` output rows at a time, each image in `parts` tasks; rows 0: not so.
Tensor conv_chain_fprop_cut(const Tensor& x, const std::vector<Tensor>& weights,
                            const std::vector<OptionalTensor>& biases, const std::vector<OptionalTensor>& norms,
                            const std::vector<int64_t>& strides, const std::vector<int64_t>& paddings,
                            const std::vector<int64_t>& dilations, const std::vector<int64_t>& groups,
                            const OptionalTensor& projection_weight, const OptionalTensor& projection_norm,
                            Pair projection_stride, const OptionalTensor& residual, const std::string& act,
                            int64_t rows, int64_t parts);

} // namespace fused_resnet
