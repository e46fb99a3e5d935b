"""Views and number formats that the reference ops share."""

import torch


def accumulation_dtype(t):
    """fp64 for fp64, else fp32: the dtype of statistics, sums and per-channel vectors."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def widen(t):
    """`t` in its accumulation dtype."""
    return t.to(accumulation_dtype(t))


def per_channel(v):
    """``[C]`` as ``[1, C, 1, 1]``, to broadcast against an activation."""
    return v[None, :, None, None]


def memory_format(t):
    """The layout of an op's result: NHWC only where `t` is unambiguously NHWC, as ATen decides."""
    nhwc = t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format


def rows(x):
    """``[N, C, H, W]`` as the matrix ``[M, C]`` of a 1x1 convolution (a view for NHWC memory)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def from_rows(matrix, size, like):
    """``[M, C]`` as an activation of this ``[N, C, H, W]`` size, with the layout of `like`."""
    n, c, h, w = size
    return matrix.view(n, h, w, c).permute(0, 3, 1, 2).contiguous(memory_format=memory_format(like))


def product(a, b):
    """``a @ b``, accumulated and left in the accumulation dtype."""
    if a.is_cuda and a.dtype != accumulation_dtype(a):
        return torch.mm(a, b, out_dtype=accumulation_dtype(a))  # the tensor cores of the narrow dtype
    return torch.mm(widen(a), widen(b))


def subsample(x, stride):
    """The pixels that a 1x1 convolution of this stride reads."""
    return x if tuple(stride) == (1, 1) else x[:, :, :: stride[0], :: stride[1]]
