"""Inference engines of others: OpenVINO and ONNX Runtime, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .cases import Ready, Task, problem

__all__ = ["onnx_runtime", "openvino"]


class _Engine:
    """Runs something that gives a numpy array; it has no gradients."""

    def __init__(self, run: Callable[[], Any], keep: Any = None) -> None:
        """keep: what has to live as long."""
        self._run, self._keep = run, keep

    def __call__(self) -> Tensor:
        return torch.from_numpy(self._run())

    def gradients(self) -> None:
        return None


def openvino(task: Task) -> tuple[Ready, str]:
    """Fixed shape, an input in NHWC that is not copied."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    model, input, _ = problem(task)
    with warnings.catch_warnings():  # the tracer's, about Python numbers: the shape is fixed
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(model.eval(), example_input=input, input=[input.shape])
    layouts = PrePostProcessor(converted)
    layouts.input().tensor().set_layout(openvino.Layout("NHWC"))
    layouts.input().model().set_layout(openvino.Layout("NCHW"))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[task.setting.dtype],
    }
    compiled = openvino.compile_model(layouts.build(), "CPU", options)
    request = compiled.create_infer_request()
    nhwc = input.permute(0, 2, 3, 1).contiguous().numpy()
    request.set_input_tensor(openvino.Tensor(nhwc, shared_memory=True))

    def run() -> Any:
        request.infer(share_outputs=True)
        return request.get_output_tensor().data

    # the tensor does not keep the array's memory alive
    return _Engine(run, nhwc), f"in {_openvino_precision(compiled)}"


def _openvino_precision(compiled: Any) -> str:
    """What its convolutions compute in: the hint is only a wish."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    used = {
        str(i["runtimePrecision"].astype(str)) for i in infos if i["layerType"].astype(str) == "Convolution"
    }
    return " and ".join(sorted(used))


def onnx_runtime(task: Task) -> tuple[Ready, str]:
    """In fp32."""
    import onnxruntime

    model, input, _ = problem(task)
    with warnings.catch_warnings():  # deprecations inside the exporter
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model.eval(), (input,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: input.numpy()}
    return _Engine(lambda: session.run(None, feed)[0]), ""
