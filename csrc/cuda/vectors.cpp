#include "vectors.h"

#include "ops.h"

namespace fused_resnet::cuda {

namespace {

StoredVector stored_vector(const OptionalTensor& t, int64_t channels, const char* name) {
  if (!t) return {nullptr, Storage::fp32};
  TORCH_CHECK(Device::has(*t) && t->is_contiguous() && t->numel() == channels, name,
              ": expected a contiguous vector of ", channels, " channels, got sizes ", t->sizes(), " on ", t->device());
  return {t->data_ptr(), storage_of(*t, name)};
}

} // namespace

Tensor bn_finalize(const Tensor& mean, const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
                   double eps) {
  const int64_t channels = mean.numel();
  Tensor norm = new_vectors(mean, {4, channels});
  const Finalize p{check_vectors(mean, 1, channels, "mean"),
                   check_vectors(var, 1, channels, "var"),
                   stored_vector(weight, channels, "weight"),
                   stored_vector(bias, channels, "bias"),
                   floats(norm),
                   static_cast<int>(channels),
                   static_cast<float>(eps)};
  const Device device(mean);
  check_launch(launch_bn_finalize(p, device.stream), "bn_finalize");
  return norm;
}

void bn_update_running(const Tensor& running_mean, const Tensor& running_var, const Tensor& mean, const Tensor& var,
                       double momentum, double correction) {
  const int64_t channels = mean.numel();
  const UpdateRunning p{stored_vector(running_mean, channels, "running_mean"),
                        stored_vector(running_var, channels, "running_var"),
                        check_vectors(mean, 1, channels, "mean"),
                        check_vectors(var, 1, channels, "var"),
                        static_cast<int>(channels),
                        static_cast<float>(momentum),
                        static_cast<float>(correction)};
  const Device device(mean);
  check_launch(launch_bn_update_running(p, device.stream), "bn_update_running");
}

Tensor bn_bwd_finalize(const Tensor& sums, const Tensor& norm, double count) {
  const int64_t channels = norm.size(-1);
  Tensor dnorm = new_vectors(norm, {3, channels});
  const BackwardFinalize p{check_vectors(sums, 2, channels, "sums"), check_vectors(norm, 4, channels, "norm"),
                           floats(dnorm), static_cast<int>(channels), static_cast<float>(count)};
  const Device device(norm);
  check_launch(launch_bn_bwd_finalize(p, device.stream), "bn_bwd_finalize");
  return dnorm;
}

} // namespace fused_resnet::cuda
