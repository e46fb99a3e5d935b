"""Everyone who takes part in the figures: how each is prepared to run a case, and what it needs."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.cases import BASELINE, INFERENCE, Case, Setting, Variant, Work, problem


@dataclass(frozen=True)
class Task:
    """What everyone who is compared does."""

    case: Case
    mode: str
    setting: Setting


class Ready(Protocol):
    """Prepared: call it to run the task once; what the model gives is the result."""

    def __call__(self) -> Tensor: ...

    def gradients(self) -> Tensor | None:
        """Those of the last call for all parameters, in one vector; None without backward."""
        ...


@dataclass(frozen=True)
class Contestant:
    """Someone who runs tasks.

    prepare: from a task to what is timed and how that is done, where there is something to tell.
    needs: packages, by the names that pip and Python know.
    """

    name: str
    prepare: Callable[[Task], tuple[Ready, str]]
    needs: tuple[tuple[str, str], ...] = ()
    layout: str = "channels_last"

    def why_absent(self) -> str | None:
        """Why it cannot run here and how to change that, or None."""
        missing = [pip for pip, module in self.needs if importlib.util.find_spec(module) is None]
        return f"absent: pip install {' '.join(missing)}" if missing else None


def _torch(variant: Variant) -> Callable[[Task], tuple[Ready, str]]:
    return lambda task: (Work(task.case, variant, task.mode, task.setting), "")


def _compiled(task: Task) -> tuple[Ready, str]:
    """torch.compile, with the weights frozen into the code in inference; compiled when this returns."""
    from torch._inductor import config

    torch._dynamo.reset()  # its limit of recompilations counts over all models of one class
    work = Work(task.case, Variant("torch.compile", compiled=True), task.mode, task.setting)
    freezing = task.mode == INFERENCE
    with config.patch(freezing=freezing):
        work()
    return work, "freezing" if freezing else ""


class _Engine:
    """An inference engine: no gradients."""

    def __init__(self, run: Callable[[], Any], keep: Any = None) -> None:
        """run: gives a numpy array; keep: what has to live as long."""
        self._run, self._keep = run, keep

    def __call__(self) -> Tensor:
        return torch.from_numpy(self._run())

    def gradients(self) -> None:
        return None


def _openvino(task: Task) -> tuple[Ready, str]:
    """Fixed shape, an input in NHWC that is not copied."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    model, input, _ = problem(task.case, task.setting)
    with warnings.catch_warnings():  # the tracer's, about Python numbers: the shape is fixed
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(model.eval(), example_input=input, input=[input.shape])
    layouts = PrePostProcessor(converted)
    layouts.input().tensor().set_layout(openvino.Layout("NHWC"))
    layouts.input().model().set_layout(openvino.Layout("NCHW"))
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[task.setting.dtype],
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


def _onnx_runtime(task: Task) -> tuple[Ready, str]:
    import onnxruntime

    model, input, _ = problem(task.case, task.setting)
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


EAGER, COMPILE, OPENVINO, ONNX_RUNTIME = "eager", "torch.compile", "OpenVINO", "ONNX Runtime"
BALANCED, SPEED, MIN = "ours, balanced", "ours, speed", "ours, min"

OURS = tuple(
    Contestant(name, _torch(Variant(name, memory=memory)))
    for name, memory in ((BALANCED, "balanced"), (SPEED, "speed"), (MIN, "min"))
)
PEERS = (
    Contestant(EAGER, _torch(BASELINE)),
    Contestant(COMPILE, _compiled),
    Contestant(OPENVINO, _openvino, (("openvino", "openvino"),)),
    Contestant(
        ONNX_RUNTIME,
        _onnx_runtime,
        (("onnxruntime", "onnxruntime"), ("onnx", "onnx"), ("onnxscript", "onnxscript")),
        layout="NCHW",  # the only one that it takes
    ),
)
CONTESTANTS = {c.name: c for c in (*OURS, *PEERS)}
PACKAGES = tuple(pip for peer in PEERS for pip, _ in peer.needs)
