"""Everyone who takes part: how each is prepared to run a task, what it needs, what it can do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import rewriting, runtimes
from .cases import FORWARD, INFERENCE, TRAINING, Ready, Task, Variant, Work

Prepare = Callable[[Task], tuple[Ready, str]]


@dataclass(frozen=True)
class Contestant:
    """Someone who runs tasks.

    prepare: from a task to what is timed and how that is done, where there is something to tell. needs:
    packages, by the names that pip and Python know. takes: can it do such a task at all? other_function: what
    it computes in place of the task's function, where it does: then it is timed without being checked.
    """

    name: str
    prepare: Prepare
    needs: tuple[tuple[str, str], ...] = ()
    layout: str = "channels_last"
    takes: Callable[[Task], bool] = lambda task: True
    other_function: str = ""

    def why_absent(self) -> str | None:
        """Why it cannot run here and how to change that, or None."""
        missing = [pip for pip, module in self.needs if importlib.util.find_spec(module) is None]
        return f"absent: pip install {' '.join(missing)}" if missing else None


# ---- in PyTorch ----------------------------------------------------------------------------------


def _torch(variant: Variant, change: Callable[[nn.Module], nn.Module] | None = None) -> Prepare:
    return lambda task: (Work(task, variant, change), "")


def _compiled(mode: str) -> Prepare:
    """torch.compile, with the weights frozen into the code in inference; compiled when this returns."""

    def prepare(task: Task) -> tuple[Ready, str]:
        from torch._inductor import config

        torch._dynamo.reset()  # its limit of recompilations counts over all models of one class
        work = Work(task, Variant(compiled=mode))
        freezing = task.mode == INFERENCE
        with config.patch(freezing=freezing):
            work()
        return work, "freezing" if freezing else ""

    return prepare


class _Graph:
    """A work captured in a CUDA graph: a run is one replay."""

    def __init__(self, work: Work) -> None:
        self.work = work
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is compiled or measured once comes before the capture
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = work()

    def __call__(self) -> Tensor:
        self._graph.replay()
        return self._output

    def gradients(self) -> Tensor | None:
        return self.work.gradients()


def _graphed(variant: Variant) -> Prepare:
    return lambda task: (_Graph(Work(task, variant)), "")


def _on_gpu(task: Task) -> bool:
    return task.setting.device_type == "cuda"


def _on_cpu_inference(task: Task) -> bool:
    return task.mode == INFERENCE and not _on_gpu(task)


def _in_training(task: Task) -> bool:
    return task.mode in (TRAINING, FORWARD)


EAGER_NCHW, EAGER = "eager NCHW", "eager"
COMPILE, COMPILE_MAX = "torch.compile", "torch.compile max-autotune"
APEX, INPLACE_ABN = "Apex groupbn", "InPlace-ABN"
OPENVINO, ONNX_RUNTIME = "OpenVINO", "ONNX Runtime"
BALANCED, SPEED, MIN = "ours, balanced", "ours, speed", "ours, min"

_STOCK, _OURS = Variant(), {name: Variant(memory=name.split()[1]) for name in (SPEED, BALANCED, MIN)}


def _with_graph(name: str, variant: Variant) -> Contestant:
    return Contestant(f"{name}, CUDA graph", _graphed(variant), takes=_on_gpu)


OURS = (
    Contestant(BALANCED, _torch(_OURS[BALANCED])),
    # without gradients the memory modes are one and the same
    *(Contestant(name, _torch(_OURS[name]), takes=_in_training) for name in (SPEED, MIN)),
    *(_with_graph(name, _OURS[name]) for name in (BALANCED, SPEED)),
)
PEERS = (
    Contestant(EAGER_NCHW, _torch(Variant(torch.contiguous_format)), layout="NCHW"),
    Contestant(EAGER, _torch(_STOCK)),
    _with_graph(EAGER, _STOCK),
    Contestant(COMPILE, _compiled("default")),
    Contestant(COMPILE_MAX, _compiled("max-autotune")),
    Contestant(
        APEX,
        _torch(_STOCK, rewriting.apex_batch_norms),
        (("apex (from source, with --bnp)", "apex"),),
        takes=lambda task: _in_training(task) and _on_gpu(task) and task.setting.dtype == "fp16",
    ),
    Contestant(
        INPLACE_ABN,
        _torch(_STOCK, rewriting.inplace_abn),
        (("inplace-abn", "inplace_abn"),),
        # its weights have to be of the activations' dtype, which autocast leaves in fp32
        takes=lambda task: _in_training(task) and task.setting.dtype == "fp32",
        other_function=f"leaky ReLU of slope {rewriting.INPLACE_ABN_SLOPE}",
    ),
    Contestant(OPENVINO, runtimes.openvino, (("openvino", "openvino"),), takes=_on_cpu_inference),
    Contestant(
        ONNX_RUNTIME,
        runtimes.onnx_runtime,
        (("onnxruntime", "onnxruntime"), ("onnx", "onnx"), ("onnxscript", "onnxscript")),
        layout="NCHW",  # the only one that it takes
        takes=lambda task: _on_cpu_inference(task) and task.setting.dtype == "fp32",
    ),
)
CONTESTANTS = {c.name: c for c in (*PEERS, *OURS)}
PACKAGES = ("inplace-abn", "apex", "openvino", "onnxruntime", "onnx", "onnxscript")
