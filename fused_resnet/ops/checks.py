"""Argument checks of the ops: each raises before any kernel runs, naming the argument, what came, what was expected."""

import torch

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


def like(name, t, other_name, other, shape=None):
    """Same device and dtype as `other`; same shape, or `shape`."""
    if t.device != other.device:
        raise ValueError(f"{name}: expected device {other.device} as {other_name}, got {t.device}")
    if t.dtype != other.dtype:
        raise TypeError(f"{name}: expected dtype {other.dtype} as {other_name}, got {t.dtype}")
    expected = other.shape if shape is None else shape
    if tuple(t.shape) != tuple(expected):
        fail(name, f"shape {tuple(expected)}", f"shape {tuple(t.shape)}")


def vector(name, t, of_name, of, shape):
    """A per-channel tensor on the device of `of`, in the accumulation dtype or narrower."""
    if t.device != of.device:
        raise ValueError(f"{name}: expected device {of.device} as {of_name}, got {t.device}")
    if tuple(t.shape) != tuple(shape):
        fail(name, f"shape {tuple(shape)}", f"shape {tuple(t.shape)}")


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


def output_size(size, kernel, stride, padding, dilation=(1, 1)):
    """Height and width of a convolution's or pool's output (floor mode); raises where it would not be positive."""
    out = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    if out[0] < 1 or out[1] < 1:
        fail("x", f"height and width to fit a {tuple(kernel)} window with padding {tuple(padding)}", tuple(size))
    return out


def convolution(x, weight, stride, padding, dilation, groups):
    """Input and weight of a convolution fit each other; gives the output's shape ``[N, K, P, Q]``."""
    activation("x", x)
    geometry(stride, padding, dilation, groups)
    k, c_group, *kernel = weight.shape if weight.dim() == 4 else fail("weight", "4 dimensions", tuple(weight.shape))
    if x.shape[1] != c_group * groups:
        fail("x", f"{c_group * groups} channels for a weight of shape {tuple(weight.shape)}, groups {groups}",
             f"shape {tuple(x.shape)}")
    if k % groups:
        fail("weight", f"a multiple of groups={groups} output channels", k)
    like("weight", weight, "x", x, weight.shape)
    return (x.shape[0], k, *output_size(x.shape[2:], kernel, stride, padding, dilation))
