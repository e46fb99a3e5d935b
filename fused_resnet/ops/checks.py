"""Argument checks of the ops: raised before any kernel runs, naming the argument and what was expected."""

import torch

from ..backends.reference.layout import accumulation_dtype

ACTIVATIONS = ("relu", "identity")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def fail(name, expected, got):
    raise ValueError(f"{name}: expected {expected}, got {got}")


def activation(name, t):
    """A ``[N, C, H, W]`` tensor of a supported floating dtype."""
    if t.dim() != 4:
        fail(name, "a 4-dimensional [N, C, H, W] tensor", f"shape {tuple(t.shape)}")
    if t.dtype not in DTYPES:
        raise TypeError(f"{name}: expected one of fp32, fp64, bf16, fp16, got {t.dtype}")


def _matches(name, t, of_name, of, dtype, shape):
    if t.device != of.device:
        raise ValueError(f"{name}: expected device {of.device} of {of_name}, got {t.device}")
    if t.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype} for {of_name} of {of.dtype}, got {t.dtype}")
    if tuple(t.shape) != tuple(shape):
        fail(name, f"shape {tuple(shape)}", f"shape {tuple(t.shape)}")


def like(name, t, of_name, of, shape=None):
    """Same device and dtype as `of`; same shape, or `shape`."""
    _matches(name, t, of_name, of, of.dtype, of.shape if shape is None else shape)


def vector(name, t, of_name, of, shape):
    """Per-channel values on the device of `of`, in its accumulation dtype."""
    _matches(name, t, of_name, of, accumulation_dtype(of), shape)


def statistics(name, t, shape):
    """Per-channel values that no activation comes with."""
    if t.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected fp32 or fp64, got {t.dtype}")
    _matches(name, t, name, t, t.dtype, shape)


def indices(name, t, of_name, of, shape):
    """Bytes on the device of `of`."""
    _matches(name, t, of_name, of, torch.uint8, shape)


def parameter(name, t, of_name, of):
    """A module's own per-channel tensor, like `of` but of any supported dtype."""
    if t.dtype not in DTYPES:
        raise TypeError(f"{name}: expected one of fp32, fp64, bf16, fp16, got {t.dtype}")
    _matches(name, t, of_name, of, t.dtype, of.shape)


def act(name, value):
    if value not in ACTIVATIONS:
        fail(name, f"one of {ACTIVATIONS}", repr(value))


def pair(name, value, minimum):
    if len(value) != 2 or any(v < minimum for v in value):
        fail(name, f"two integers >= {minimum}", tuple(value))


def geometry(stride, padding, dilation, groups):
    """Stride, padding, dilation (height, width) and groups of a 2-D convolution."""
    pair("stride", stride, 1)
    pair("padding", padding, 0)
    pair("dilation", dilation, 1)
    if groups < 1:
        fail("groups", "an integer >= 1", groups)


def output_size(name, size, kernel, stride, padding, dilation=(1, 1)):
    """Height and width of a convolution's or pool's output (floor mode), at least 1 each."""
    out = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    if out[0] < 1 or out[1] < 1:
        expected = f"height and width to fit a {tuple(kernel)} window with padding {tuple(padding)}"
        fail(name, expected, tuple(size))
    return out


def convolution(x_size, weight_size, stride, padding, dilation, groups, names=("x", "weight")):
    """Input and weight of a convolution fit each other; gives the output's shape ``[N, K, P, Q]``."""
    geometry(stride, padding, dilation, groups)
    x_name, weight_name = names
    for name, size in ((x_name, x_size), (weight_name, weight_size)):
        if len(size) != 4:
            fail(name, "4 dimensions", f"shape {tuple(size)}")
    k, c_group, *kernel = weight_size
    if x_size[1] != c_group * groups:
        expected = f"{c_group * groups} channels for a weight of shape {tuple(weight_size)}, groups {groups}"
        fail(x_name, expected, f"shape {tuple(x_size)}")
    if k % groups:
        fail(weight_name, f"a multiple of groups={groups} output channels", k)
    return (x_size[0], k, *output_size(x_name, x_size[2:], kernel, stride, padding, dilation))
