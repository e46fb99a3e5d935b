// The CUDA ops in Python: `cuda` of the extension; where kernels run on the CPU a module of its own.
#include "../bind.h"
#include "ops.h"

namespace fused_resnet::cuda {

void bind_cuda(pybind11::module_& module) {
  op(module, "bn_stats", &bn_stats);
  op(module, "bn_finalize", &bn_finalize);
  op(module, "bn_update_running", &bn_update_running);
  op(module, "bn_act", &bn_act);
  op(module, "bn_add_act", &bn_add_act);
  op(module, "bn_act_bwd_reduce", &bn_act_bwd_reduce);
  op(module, "bn_bwd_finalize", &bn_bwd_finalize);
  op(module, "bn_act_bwd_apply", &bn_act_bwd_apply);
  op(module, "bn_act_maxpool", &bn_act_maxpool);
  op(module, "bn_act_maxpool_bwd_reduce", &bn_act_maxpool_bwd_reduce);
  op(module, "conv_fprop", &conv_fprop);
  op(module, "conv_fprop_stats", &conv_fprop_stats);
  op(module, "conv_fprop_dual", &conv_fprop_dual);
  op(module, "conv_dgrad", &conv_dgrad);
  op(module, "conv_dgrad_reduce", &conv_dgrad_reduce);
  op(module, "conv_wgrad", &conv_wgrad);
  op(module, "conv_wgrad_masked", &conv_wgrad_masked);
  op(module, "gram", &gram);
  op(module, "folded_dgrad", &folded_dgrad);
  op(module, "folded_dgrad_reduce", &folded_dgrad_reduce);
}

} // namespace fused_resnet::cuda

#ifdef FUSED_RESNET_EMULATED
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { fused_resnet::cuda::bind_cuda(m); }
#endif
