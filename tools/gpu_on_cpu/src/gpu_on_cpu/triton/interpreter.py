"""Runs Triton kernels on the CPU through Triton's own interpreter, with NVIDIA's arithmetic and with checks.

    args = {"x_ptr": x, "y_ptr": y, "n": n}
    result = interpret(kernel, args, (triton.cdiv(n, 128),), outputs=["y_ptr"], BLOCK=128)
    result.traffic["x_ptr", "load"].requested

Host code that launches kernels as usual runs unchanged inside `interpreting()`.

Kernels are the ordinary objects that @triton.jit makes: TRITON_INTERPRET stays unset, and the same kernel
still compiles in the same process. Triton is patched during a run only. Other threads' runs wait.

What differs from a GPU, beyond the order of sums:

* Programs run one after another. A kernel in which one program reads what another wrote is reported as a race
  even where atomics order the two, and one that spins on another's atomic may hang.
* Multiplication and addition are not contracted to fma; `tl.fma` is one. exp, log and the like are numpy's.
* Division of floats rounds to nearest. Floats out of an integer type's range convert as numpy does.
* tl.dot in tf32 drops the low 13 bits of its operands, as the compiled code does; tf32x3 is computed in fp32.
* Conversions to fp8 are those of the stock interpreter.
* Masked-off lanes of a load without `other` are zero; a GPU leaves them undefined.
* Inline assembly, libdevice functions, and addresses kept in memory are not modelled.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import dataclasses
import functools
import inspect
import linecache
import threading
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from triton.backends.nvidia.compiler import CUDAOptions
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as stock
from triton.runtime.autotuner import Autotuner, Config, Heuristics
from triton.runtime.jit import JITFunction, KernelParam, mangle_type

from gpu_on_cpu.errors import CompilerError, GpuOnCpuError, KernelFault, Unsupported
from gpu_on_cpu.traffic import Traffic
from gpu_on_cpu.triton.interpreter_memory import Memory
from gpu_on_cpu.triton.interpreter_semantics import Builder, Reduce, Scan

Grid = Sequence[int] | Callable[[dict[str, Any]], Sequence[int]]

_GRID_LIMITS = (2**31 - 1, 65535, 65535)
# num_warps and so on: accepted, so that a call can be copied, but without effect.
_LAUNCH_OPTIONS = frozenset(CUDAOptions.__dataclass_fields__) | {"ir_override"}
_LOCK = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Interpretation:
    """What a run without faults tells.

    Attributes:
        name: of the kernel.
        traffic: accesses by tensor and kind; one tile operation counts as one instruction.
        redundant_stores: elements written again, with the value they had, by another program or another lane.
        grid: number of programs (x, y, z).
        constexprs: the kernel's compile-time arguments, those of the autotuner and of heuristics included.
    """

    name: str
    traffic: Traffic
    redundant_stores: int
    grid: tuple[int, int, int]
    constexprs: Mapping[str, Any]


def interpret(
    kernel: Any,
    args: Mapping[str, Any] | Sequence[Any],
    grid: Grid,
    outputs: Collection[str] | None = None,
    config: int = 0,
    **constexprs: Any,
) -> Interpretation:
    """Runs every program of a launch. Tensors change only if all of it succeeds.

    Args:
        kernel: a @triton.jit function, with or without @triton.autotune and @triton.heuristics.
        args: CPU tensors (any shape and strides), numbers or None by parameter name, or in the signature's
            order. Each access must lie between the first and last element of one of the tensors.
        grid: up to three sizes, or a function from the dictionary of all arguments to them.
        outputs: names of the tensors that may be written; None: all.
        config: which of the autotuner's configurations to use. Its pre_hook runs, the autotuner's does not.
        constexprs: further arguments, compile-time ones as a rule. Launch options have no effect.

    Raises:
        KernelFault: an access out of bounds or misaligned; a write to a tensor that is not an output; a race
            between programs or inside one store; a failed device_assert. `block` is the program, `line` the
            line of the kernel's file.
        CompilerError: Triton does not accept the kernel.
        Unsupported: Triton accepts it, its interpreter does not.
        TypeError, ValueError: wrong arguments, before anything runs.
    """
    function, settings = _unwrap(kernel, config)
    bound = _bind(function, args, constexprs, settings)
    tensors = {name: value for name, value in bound.items() if isinstance(value, torch.Tensor)}
    _check_outputs(outputs, tensors)
    sizes = _grid_sizes(grid, bound)
    memory = Memory(tensors, outputs)
    for setting in settings:
        if isinstance(setting, Config) and setting.pre_hook is not None:
            setting.pre_hook({**bound, **memory.copies, **setting.all_kwargs()})
    _run(function, bound, sizes, memory)
    memory.commit()
    compile_time = {p.name: bound[p.name] for p in function.params if p.is_constexpr}
    return Interpretation(function.fn.__name__, memory.traffic(), memory.redundant_stores, sizes, compile_time)


@contextlib.contextmanager
def interpreting(outputs: Collection[str] | None = None) -> Iterator[list[Interpretation]]:
    """Within this context, launches of Triton kernels on CPU tensors are interpreted.

    Code that launches kernels as usual (``kernel[grid](x, y, n, BLOCK=128)``) runs unchanged. An autotuned kernel
    takes its first configuration. Launch options (num_warps and the like) have no effect, and warming up does nothing.

    Args:
        outputs: names of the arguments that may be written; None: all.

    Yields:
        A list that receives one `Interpretation` for every launch.

    Raises:
        What `interpret` does, at the launch; the tensors of that launch are as they were.
    """
    done: list[Interpretation] = []

    def run(kernel: Any, *args: Any, grid: Grid, warmup: bool = False, **more: Any) -> None:
        if warmup:
            return
        # All by name: a kernel's parameter may be called like one of `interpret`.
        given = _merged(_named(_unwrap(kernel, 0)[0], args), more, "position and the keywords")
        writable = outputs
        if outputs is not None:
            writable = [n for n in outputs if isinstance(given.get(n), torch.Tensor)]
        done.append(interpret(kernel, given, grid, writable))

    with contextlib.ExitStack() as patches:
        for kind in (JITFunction, Autotuner, Heuristics):
            patches.enter_context(mock.patch.object(kind, "run", run))
        yield done


# Arguments.


def _unwrap(kernel: Any, config: int) -> tuple[JITFunction, list[Config | dict[str, Callable]]]:
    """The function inside, and what its decorators say about its arguments, outermost first."""
    if isinstance(config, bool) or not isinstance(config, int):
        raise TypeError(f"config must be an int, got {config!r}")
    settings: list[Config | dict[str, Callable]] = []
    choices = 1
    function = kernel
    while isinstance(function, (Autotuner, Heuristics)):
        if isinstance(function, Autotuner):
            choices = len(function.configs)
            settings += function.configs[config : config + 1] if config >= 0 else []
        else:
            settings.append(function.values)
        function = function.fn
    if isinstance(function, stock.InterpretedFunction):
        raise TypeError("kernel must be a plain @triton.jit function, got one made with TRITON_INTERPRET set")
    if not isinstance(function, JITFunction):
        raise TypeError(f"kernel must be a @triton.jit function, got {type(function).__name__}")
    if not 0 <= config < choices:
        raise ValueError(f"config must be in 0..{choices - 1}, the kernel's configurations, got {config}")
    return function, settings


def _bind(
    function: JITFunction,
    args: Mapping[str, Any] | Sequence[Any],
    constexprs: Mapping[str, Any],
    settings: list[Config | dict[str, Callable]],
) -> dict[str, Any]:
    """All parameters' values, in the signature's order, checked."""
    given = _merged(_named(function, args), constexprs, "args and the keywords")
    for setting in settings:
        if isinstance(setting, Config):
            given = _merged(given, setting.all_kwargs(), "the call and the autotuner's configuration")
        else:
            for name, rule in setting.items():
                given[name] = rule(dict(given))
    bound = {}
    for param in function.params:
        if param.name not in given and not param.has_default:
            raise TypeError(f"missing argument {param.name!r} of kernel {function.fn.__name__}")
        bound[param.name] = _checked(param, given.pop(param.name, param.default))
    if unknown := sorted(given.keys() - _LAUNCH_OPTIONS):
        name = function.fn.__name__
        raise TypeError(f"kernel {name} has no parameter {unknown[0]!r}; it has {list(bound)}")
    return bound


def _named(function: JITFunction, args: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(args, Mapping):
        return dict(args)
    if not isinstance(args, Sequence) or isinstance(args, str):
        raise TypeError(f"args must be a mapping from names, or a sequence, got {type(args).__name__}")
    if len(args) > len(function.params):
        name, count = function.fn.__name__, len(function.params)
        raise TypeError(f"args has {len(args)} values, kernel {name} {count} parameters")
    return dict(zip(function.arg_names, args, strict=False))


def _merged(first: Mapping[str, Any], second: Mapping[str, Any], where: str) -> dict[str, Any]:
    if twice := sorted((first.keys() & second.keys()) - _LAUNCH_OPTIONS):
        raise TypeError(f"argument {twice[0]!r} is given twice, by {where}")
    return {**first, **second}


def _checked(param: KernelParam, value: Any) -> Any:
    if param.is_constexpr:
        if isinstance(value, torch.Tensor):
            raise TypeError(f"argument {param.name!r} is a tl.constexpr, got a tensor")
        return value.value if isinstance(value, tl.constexpr) else value
    if isinstance(value, torch.Tensor):
        _check_tensor(param.name, value)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"argument {param.name!r} must fit 64 bits, got {value}")
    elif value is not None and not isinstance(value, float):
        raise TypeError(f"argument {param.name!r} must be a tensor, int, float, bool or None, got {value!r}")
    return value


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        found = f"{tensor.layout} on {tensor.device}"
        raise TypeError(f"argument {name!r} must be a strided CPU tensor, got {found}")
    try:
        _type_of(tensor)
    except KeyError:
        raise TypeError(f"argument {name!r} has dtype {tensor.dtype}, which Triton does not know") from None


def _check_outputs(outputs: Collection[str] | None, tensors: Mapping[str, torch.Tensor]) -> None:
    if outputs is None:
        return
    if isinstance(outputs, str) or not isinstance(outputs, Collection):
        raise TypeError(f"outputs must be a collection of names, got {outputs!r}")
    for name in outputs:
        if name not in tensors:
            raise ValueError(f"outputs names {name!r}, which is no tensor; the tensors are {list(tensors)}")


def _grid_sizes(grid: Grid, bound: Mapping[str, Any]) -> tuple[int, int, int]:
    sizes = grid(dict(bound)) if callable(grid) else grid
    if not isinstance(sizes, (tuple, list)) or not 1 <= len(sizes) <= 3:
        raise TypeError(f"grid must be a tuple of 1 to 3 ints, got {sizes!r}")
    for axis, size, limit in zip("xyz", sizes, _GRID_LIMITS, strict=False):
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"grid's {axis} must be an int, got {size!r}")
        if not 0 <= size <= limit:
            raise ValueError(f"grid's {axis} must be in 0..{limit}, got {size}")
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


# Running.


def _run(function: JITFunction, bound: Mapping[str, Any], grid: tuple[int, int, int], memory: Memory) -> None:
    builder = Builder(memory)
    builder.set_grid_dim(*grid)
    constexprs = {p.name for p in function.params if p.is_constexpr}
    types_ = {p.name: p.annotation_type for p in function.params}
    with _patched_triton(builder) as functions:
        values = {
            name: value if name in constexprs else _as_triton(builder, name, value, types_[name])
            for name, value in bound.items()
        }
        program = functions[function]
        for memory.program in range(grid[0] * grid[1] * grid[2]):
            rest, x = divmod(memory.program, grid[0])
            z, y = divmod(rest, grid[1])
            memory.block = (x, y, z)
            builder.set_grid_idx(x, y, z)
            with _reported(function, memory.block):
                program(**values)


def _type_of(value: Any, annotation: str = "") -> tl.dtype:
    """Triton's type of an argument: a pointer for a tensor. For numbers, an annotation decides."""
    number = not isinstance(value, torch.Tensor)
    return tl.str_to_ty(annotation if annotation and number else mangle_type(value), None)


def _as_triton(builder: Builder, name: str, value: Any, annotation: str) -> Any:
    if value is None:
        return None
    dtype = _type_of(value, annotation)
    if isinstance(value, torch.Tensor):
        address = np.array([builder.memory.address(name)], np.uint64)
        return tl.tensor(stock.TensorHandle(address, dtype), dtype)
    return tl.tensor(getattr(builder, f"get_{dtype.name}")(value), dtype)


class _Functions:
    """@triton.jit functions as Python functions, rewritten for the interpreter when first asked for.

    Each has a copy of its module's globals: nothing is added to the user's modules.
    """

    def __init__(self, semantic: TritonSemantic) -> None:
        self._semantic = semantic
        # Not by JITFunction: hashing that looks at all it calls, in a Triton that is patched at the moment.
        self._rewritten: dict[Callable, Callable] = {}

    def __getitem__(self, function: JITFunction) -> Callable:
        if function.fn not in self._rewritten:
            self._rewritten[function.fn] = self._rewrite(function)
        return self._rewritten[function.fn]

    def _rewrite(self, function: JITFunction) -> Callable:
        tree = stock.ASTTransformer().visit(ast.parse(function.src))
        ast.increment_lineno(ast.fix_missing_locations(tree), function.def_file_line_number - 1)
        # Annotations say what is a constexpr and are not needed here, so they are not evaluated either.
        flags = __future__.annotations.compiler_flag
        code = compile(tree, function.file_name, "exec", flags, dont_inherit=True)
        closure = inspect.getclosurevars(function.fn).nonlocals
        names = {"range": _loop(self._semantic), **function.fn.__globals__, **closure}
        names["interpreter_semantic"] = self._semantic
        exec(code, names)
        return names[function.fn.__name__]


def _loop(semantic: TritonSemantic) -> Callable[..., Iterator[tl.tensor]]:
    """`range` of kernels: what counts is a tensor, as in compiled code, where the stock interpreter has an int."""

    def loop(start: Any, end: Any = None, step: Any = 1, **hints: Any) -> Iterator[tl.tensor]:
        start, end = (0, start) if end is None else (start, end)
        bounds = [semantic.to_tensor(bound) for bound in (start, end, step)]
        dtype = functools.reduce(semantic.integer_promote_impl, (bound.dtype for bound in bounds))
        for i in range(*(bound.handle.data.item() for bound in bounds)):
            yield semantic.scalar_constant(i, dtype)

    return loop


@contextlib.contextmanager
def _patched_triton(builder: Builder) -> Iterator[_Functions]:
    """Triton's language computes with `builder`, and @triton.jit functions call each other, until the end."""
    semantic = TritonSemantic(builder)
    functions = _Functions(semantic)
    descriptor = tl.core.tensor_descriptor_base
    patched = (stock, tl, tl.core, tl.math, tl.tensor, descriptor, tl.dtype, JITFunction)
    with _LOCK, _restored(*patched), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's on rows that are all NaN
        stock.interpreter_builder, stock.interpreter_semantic = builder, semantic
        stock.ReduceOps, stock.ScanOps = Reduce, Scan
        stock._patch_lang(types.SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
        tl.range = tl.core.range = _loop(semantic)
        JITFunction.__call__ = lambda self, *args, **kwargs: functions[self](*args, **kwargs)
        # x.sum() and the like: the class tl.tensor holds JITFunctions, which do not bind themselves.
        JITFunction.__get__ = lambda self, instance, owner=None: (
            self if instance is None else types.MethodType(self, instance)
        )
        yield functions


@contextlib.contextmanager
def _restored(*owners: Any) -> Iterator[None]:
    """Puts attributes of modules and classes back as they were."""
    before = [dict(vars(owner)) for owner in owners]
    try:
        yield
    finally:
        for owner, old in zip(owners, before, strict=True):
            for name in vars(owner).keys() - old.keys():
                delattr(owner, name)
            for name, value in old.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)


@contextlib.contextmanager
def _reported(function: JITFunction, block: tuple[int, int, int]) -> Iterator[None]:
    """Gives every exception a place in the kernel's source, and foreign ones this package's types."""
    try:
        yield
    except Exception as error:
        line, text = _source_line(error, function.file_name)
        where = f"{function.fn.__name__}, program {block}, line {line}: {text}"
        if isinstance(error, KernelFault):
            error.line, error.instruction = line, text
            raise
        if isinstance(error, GpuOnCpuError):
            raise
        if isinstance(error, NotImplementedError):
            raise Unsupported(text, line, str(error)) from error
        raise CompilerError(f"{where}\n{type(error).__name__}: {error}") from error


def _source_line(error: Exception, file_name: str) -> tuple[int, str]:
    """The innermost line of the kernel's file that led to `error`."""
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file_name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line, linecache.getline(file_name, line).strip()
