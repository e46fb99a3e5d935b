"""Operands of wgmma and tcgen05.mma in shared memory, after the canonical layouts of the PTX ISA
  ("Canonical Layouts",
section "Strides", and CUTLASS's make_gmma_desc): written down here once more, independent of what is
  tested."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch


@dataclasses.dataclass(frozen=True)
class Layout:
    """Attributes:
    swizzle: bytes of the pattern; 0: none.
    mn_major: M (or N) is contiguous, otherwise K.
    leading, stride: byte offsets of the descriptor; more than the tile needs, so that mixing them up shows.
    """

    swizzle: int
    mn_major: bool
    leading: int
    stride: int

    def offset(self, mn: int, k: int, size: int) -> int:
        """Where element (mn, k) lies, in bytes from the start, before swizzling."""
        t = 16 // size  # elements of a 16-byte unit
        if self.mn_major:
            if not self.swizzle:  # ((T,1,m),(8,k)) : ((1,T,SBO),(1T,LBO))
                return mn % t * size + mn // t * self.stride + k % 8 * 16 + k // 8 * self.leading
            w = self.swizzle // 16 * t  # ((T,W,m),(8,k)) : ((1,T,LBO),(WT,SBO))
            return mn % w * size + mn // w * self.leading + k % 8 * self.swizzle + k // 8 * self.stride
        if not self.swizzle:  # ((8,m),(T,2)) : ((1T,SBO),(1,LBO))
            return mn % 8 * 16 + mn // 8 * self.stride + k % t * size + k // t * self.leading
        return mn % 8 * self.swizzle + mn // 8 * self.stride + k * size  # ((8,m),(T,2)) : ((WT,SBO),(1,T))

    def address(self, address: int) -> int:
        """CuTe's Swizzle<B,4,3>: the 16-byte unit's number is combined with bits 7 and up."""
        bits = {0: 0, 32: 1, 64: 2, 128: 3}[self.swizzle]
        return address ^ ((address >> 7) & ((1 << bits) - 1)) << 4

    def image(self, matrix: torch.Tensor, start: int, total: int) -> torch.Tensor:
        """`total` bytes of shared memory with a [mn, k] matrix at `start`; the rest is NaN."""
        size = matrix.element_size()
        raw = matrix.contiguous().view(torch.uint8).view(*matrix.shape, size).numpy()
        memory = np.full(total, 0xFF, dtype=np.uint8)
        for mn in range(matrix.shape[0]):
            for k in range(matrix.shape[1]):
                at = self.address(start + self.offset(mn, k, size))
                memory[at : at + size] = raw[mn, k]
        return torch.from_numpy(memory)

    def descriptor(self, start: int, blackwell: bool = False) -> int:
        """Without the address of buf, which is 0 as the only shared variable."""
        fields = start >> 4 | (self.leading >> 4) << 16 | (self.stride >> 4) << 32
        if blackwell:
            return fields | 1 << 46 | {0: 0, 128: 2, 64: 4, 32: 6}[self.swizzle] << 61
        return fields | {0: 0, 128: 1, 64: 2, 32: 3}[self.swizzle] << 62


def merge(*images: torch.Tensor) -> torch.Tensor:
    """Images that do not overlap, as one."""
    merged = images[0].clone()
    for image in images[1:]:
        free = merged == 0xFF
        merged[free] = image[free]
    return merged


def layout(swizzle: int, mn_major: bool, extent: int, size: int) -> Layout:
    """A layout for `extent` rows of 32 bytes of K."""
    t = 16 // size
    if mn_major:
        k_groups = 32 // size // 8
        if not swizzle:
            return Layout(0, True, leading=extent // t * 128 + 128, stride=128)
        return Layout(swizzle, True, leading=k_groups * 8 * swizzle, stride=8 * swizzle)
    if not swizzle:
        return Layout(0, False, leading=extent // 8 * 128 + 128, stride=128)
    return Layout(swizzle, False, leading=16, stride=8 * swizzle)


def to_shared(total: int, threads: int) -> str:
    """PTX that copies `total` bytes of a to buf, visible to all threads and to the asynchronous proxy."""
    per = total // threads
    assert per % 16 == 0
    moves = " ".join(
        f"ld.global.v4.u32 {{%r4, %r5, %r6, %r7}}, [%rd6+{i}]; st.shared.v4.u32 [%r3+{i}], {{%r4, %r5, %r6, %r7}};"
        for i in range(0, per, 16)
    )
    return f"""mul.lo.u32 %r2, %r1, {per}; cvt.u64.u32 %rd5, %r2; add.u64 %rd6, %rd1, %rd5; mov.u32 %r3, buf;
        add.u32 %r3, %r3, %r2;
    {moves} fence.proxy.async.shared::cta; bar.sync 0;"""
