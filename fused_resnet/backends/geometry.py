"""Sizes that the host side of GPU kernels needs."""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """A convolution: x ``[N, H, W, C]``, weight ``[K, R, S, C/groups]``, y ``[N, P, Q, K]``."""

    n: int
    h: int
    w: int
    c: int
    p: int
    q: int
    k: int
    r: int
    s: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def rows(self) -> int:
        return self.n * self.p * self.q


def output_size(size, kernel, stride, padding, dilation=(1, 1)) -> tuple[int, int]:
    """Height and width of what a window leaves."""
    spans = zip(size, kernel, stride, padding, dilation, strict=True)
    p, q = ((n + 2 * pad - d * (k - 1) - 1) // step + 1 for n, k, step, pad, d in spans)
    return p, q


def sizes(x_size, weight_size, stride, padding, dilation, groups) -> Sizes:
    """Of arguments that the op has checked."""
    (n, c, h, w), (k, _, r, s) = x_size, weight_size
    p, q = output_size((h, w), (r, s), stride, padding, dilation)
    return Sizes(n, h, w, c, p, q, k, r, s, tuple(stride), tuple(padding), tuple(dilation), groups)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
