"""The stem: BN, activation and max-pool in one op, with the argmax in one byte per output."""

import torch
import torch.nn.functional as F

from .layout import accumulation_dtype
from .norm import bn_act, bn_act_bwd_reduce


def _window_origin(out_size, stride, padding, device):
    """Top row and left column (in the unpadded map, so possibly negative) of each output's window."""
    top = torch.arange(out_size[0], device=device)[:, None] * stride[0] - padding[0]
    left = torch.arange(out_size[1], device=device)[None, :] * stride[1] - padding[1]
    return top, left


def bn_act_maxpool(y, norm, act, kernel_size, stride, padding):
    """Max-pool of ``act(scale*y + shift)``; argmax: ``row * kernel_w + column`` inside the window."""
    z = bn_act(y, norm, act)
    out, index = F.max_pool2d(z, kernel_size, stride, padding, return_indices=True)
    top, left = _window_origin(out.shape[2:], stride, padding, y.device)
    width = y.shape[3]
    offset = (index // width - top) * kernel_size[1] + (index % width - left)
    return out, offset.to(torch.uint8)


def bn_act_maxpool_bwd_reduce(dout, argmax, y, norm, act, kernel_size, stride, padding):
    """Gradient of BN's output (masked by the activation), and its sums as in `bn_act_bwd_reduce`."""
    n, channels, height, width = y.shape
    top, left = _window_origin(dout.shape[2:], stride, padding, y.device)
    index = (top + argmax.long() // kernel_size[1]) * width + left + argmax.long() % kernel_size[1]
    dz = torch.zeros(n, channels, height * width, dtype=accumulation_dtype(y), device=y.device)
    dz.scatter_add_(2, index.flatten(2), dout.flatten(2).to(dz.dtype))
    dz = torch.empty_like(y).copy_(dz.view(n, channels, height, width))
    return bn_act_bwd_reduce(dz, y, norm, None, None, None, act)
