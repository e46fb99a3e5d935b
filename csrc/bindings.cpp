// The Python module. Its functions are the ops themselves, with the signatures of fused_resnet/backends/reference.
#include <torch/version.h>

#include "bind.h"
#include "cpu/acceptance.h"
#include "cpu/kernels.h"
#include "cpu/matrix_engine.h"
#include "cpu/ops.h"
#include "cpu/pack_cache.h"
#include "cpu/pool_of_buffers.h"
#include "cpu/replay.h"
#include "cpu/rows.h"
#include "cpu/snapshot.h"
#ifdef FUSED_RESNET_WITH_CUDA
#include "cuda/build_info.h"
#endif

namespace py = pybind11;
using py::arg;

namespace {

py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
#ifdef __clang__
  info["compiler"] = __VERSION__;
#else
  info["compiler"] = "GCC " __VERSION__;
#endif
  info["cpu_instruction_set"] = fused_resnet::instruction_set();
  info["matrix_engine"] = fused_resnet::matrix_engine_name();
#ifdef FUSED_RESNET_WITH_CUDA
  info["cuda"] = fused_resnet::cuda_version();
  info["cuda_architectures"] = fused_resnet::cuda_architectures();
#else
  info["cuda"] = py::none();
  info["cuda_architectures"] = py::none();
#endif
  return info;
}

// Rows and element offsets of each chunk, for the tests of index arithmetic.
std::vector<int64_t> chunk_offsets(int64_t pixels, int64_t channels) {
  const fused_resnet::Rows rows(pixels, channels);
  const fused_resnet::Chunks chunks(rows.count, rows.width);
  std::vector<int64_t> offsets;
  for (int64_t chunk = 0; chunk <= chunks.count; ++chunk) offsets.push_back(rows.offset(chunks.begin(chunk)));
  return offsets;
}

void bind_recording(py::module_& m) {
  using fused_resnet::Recording;
  py::class_<Recording>(m, "Recording", py::module_local())
      .def(py::init<const py::tuple&>(), arg("inputs"))
      .def("add", &Recording::add, arg("name"), arg("arguments"), arg("result"), arg("written"))
      .def("finish", &Recording::finish, arg("outputs"))
      .def("takes", &Recording::takes, arg("inputs"))
      .def("replay", &Recording::replay, arg("inputs"));
}

void bind_snapshot(py::module_& m) {
  using fused_resnet::Snapshot;
  py::class_<Snapshot>(m, "Snapshot", py::module_local())
      .def(py::init<const py::tuple&, const py::tuple&>(), arg("modules"), arg("names"))
      .def("possible", &Snapshot::possible)
      .def("tensors", &Snapshot::tensors, arg("modules"));
}

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace fused_resnet;
  m.def("build_info", &build_info);
  m.def("refuses_activations", &refuses_activations, arg("args"), arg("positions"), arg("layout"), arg("ambiguous"));
  m.def("packed_bytes", &packed_bytes);
  m.def("idle_bytes", &idle_bytes);
  m.def("empty_pool", &empty_pool);
  m.def("use_matrix_engine", &use_matrix_engine, arg("name"));
  m.def("use_product_kernels", &use_product_kernels, arg("name"));
  m.def("chunk_offsets", &chunk_offsets, arg("pixels"), arg("channels"));
  fused_resnet::op(m, "kept_cast", &kept_cast, arg("weight"), arg("dtype"));
  const auto op = [](py::module_& module, const char* name, auto function, auto... args) {
    fused_resnet::op(module, name, function, args...);
    recordable_ops()[name] = recordable(function);
  };
  op(m, "bn_stats", &bn_stats, arg("y"));
  op(m, "bn_finalize", &bn_finalize, arg("mean"), arg("var"), arg("weight"), arg("bias"), arg("eps"));
  op(m, "bn_update_running", &bn_update_running, arg("running_mean"), arg("running_var"), arg("mean"), arg("var"),
     arg("momentum"), arg("correction"));
  op(m, "bn_act", &bn_act, arg("y"), arg("norm"), arg("act"));
  op(m, "bn_add_act", &bn_add_act, arg("y"), arg("norm"), arg("residual"), arg("residual_norm"), arg("act"));
  op(m, "bn_act_bwd_reduce", &bn_act_bwd_reduce, arg("dout"), arg("y"), arg("norm"), arg("out"), arg("dual_y"),
     arg("dual_norm"), arg("act"));
  op(m, "bn_bwd_finalize", &bn_bwd_finalize, arg("sums"), arg("norm"), arg("count"));
  op(m, "bn_act_bwd_apply", &bn_act_bwd_apply, arg("g"), arg("y"), arg("dnorm"));
  op(m, "bn_act_maxpool", &bn_act_maxpool, arg("y"), arg("norm"), arg("act"), arg("kernel_size"), arg("stride"),
     arg("padding"));
  op(m, "bn_act_maxpool_bwd_reduce", &bn_act_maxpool_bwd_reduce, arg("dout"), arg("argmax"), arg("y"), arg("norm"),
     arg("act"), arg("kernel_size"), arg("stride"), arg("padding"));
  op(m, "conv_fprop", &conv_fprop, arg("x"), arg("weight"), arg("bias"), arg("x_norm"), arg("x_act"), arg("stride"),
     arg("padding"), arg("dilation"), arg("groups"), arg("norm"), arg("residual"), arg("act"));
  op(m, "conv_fprop_dual", &conv_fprop_dual, arg("x"), arg("weight"), arg("x_norm"), arg("x_act"), arg("norm"),
     arg("shortcut_x"), arg("shortcut_weight"), arg("shortcut_stride"), arg("shortcut_norm"), arg("act"));
  op(m, "conv_fprop_stats", &conv_fprop_stats, arg("x"), arg("weight"), arg("x_norm"), arg("x_act"), arg("stride"),
     arg("padding"), arg("dilation"), arg("groups"));
  op(m, "conv_dgrad", &conv_dgrad, arg("g"), arg("weight"), arg("input_size"), arg("stride"), arg("padding"),
     arg("dilation"), arg("groups"), arg("y"), arg("dnorm"), arg("residual"));
  op(m, "conv_dgrad_reduce", &conv_dgrad_reduce, arg("g"), arg("weight"), arg("stride"), arg("padding"),
     arg("dilation"), arg("groups"), arg("y"), arg("dnorm"), arg("x"), arg("x_norm"), arg("x_act"));
  op(m, "conv_wgrad", &conv_wgrad, arg("g"), arg("x"), arg("x_norm"), arg("x_act"), arg("weight_size"), arg("stride"),
     arg("padding"), arg("dilation"), arg("groups"), arg("y"), arg("dnorm"));
  op(m, "conv_wgrad_masked", &conv_wgrad_masked, arg("dout"), arg("out"), arg("x"), arg("x_norm"), arg("x_act"),
     arg("weight_size"), arg("stride"));
  op(m, "gram", &gram, arg("x"), arg("x_norm"), arg("x_act"), arg("stride"));
  op(m, "folded_dgrad", &folded_dgrad, arg("g"), arg("weight_g"), arg("x"), arg("x_norm"), arg("x_act"),
     arg("weight_x"), arg("bias"), arg("stride"), arg("residual"));
  op(m, "folded_dgrad_reduce", &folded_dgrad_reduce, arg("g"), arg("weight_g"), arg("x"), arg("x_norm"), arg("x_act"),
     arg("weight_x"), arg("bias"));
  op(m, "folded_stats", &folded_stats, arg("weight"), arg("mean"), arg("gram"), arg("count"));
  op(m, "folded_sums", &folded_sums, arg("p"), arg("sums"), arg("weight"), arg("norm"), arg("mean"));
  op(m, "folded_wgrad", &folded_wgrad, arg("p"), arg("sums"), arg("dnorm"), arg("weight"), arg("mean"),
     arg("gram"));
  op(m, "folded_matrices", &folded_matrices, arg("weight"), arg("sums"), arg("dnorm"), arg("mean"), arg("count"));
  op(m, "conv_chain_fprop", &conv_chain_fprop, arg("x"), arg("weights"), arg("biases"), arg("norms"), arg("strides"),
     arg("paddings"), arg("dilations"), arg("groups"), arg("projection_weight"), arg("projection_norm"),
     arg("projection_stride"), arg("residual"), arg("act"));
  fused_resnet::op(m, "conv_chain_fprop_cut", &conv_chain_fprop_cut, arg("x"), arg("weights"), arg("biases"),
                   arg("norms"), arg("strides"), arg("paddings"), arg("dilations"), arg("groups"),
                   arg("projection_weight"), arg("projection_norm"), arg("projection_stride"), arg("residual"),
                   arg("act"), arg("rows"), arg("parts"));
  bind_recording(m);
  bind_snapshot(m);
#ifdef FUSED_RESNET_WITH_CUDA
  py::module_ on_gpu = m.def_submodule("cuda");
  m.def("has_cuda_code", &has_cuda_code);
  cuda::bind_cuda(on_gpu);
#endif
}
