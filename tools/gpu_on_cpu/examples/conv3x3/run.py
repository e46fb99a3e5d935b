"""Runs the convolution on the CPU under several schedules and compares it with PyTorch's in fp64."""

from __future__ import annotations

import pathlib

import torch

from gpu_on_cpu import cuda

SOURCE = pathlib.Path(__file__).with_name("conv3x3.cu")
LAUNCHERS = {torch.bfloat16: "conv3x3_bf16", torch.float16: "conv3x3_fp16"}


def conv3x3(
    x: torch.Tensor, weights: torch.Tensor, seed: int = 0, sanitizer: cuda.Sanitizer = "none"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, and the sum and sum of squares of each of its channels. x is (N, H, W, C), weights (K, 3, 3, C)."""
    n, h, w, c = x.shape
    k = weights.shape[0]
    y = torch.full((n, h, w, k), float("nan"), dtype=x.dtype)
    sums, squares = torch.full((2, (n * h * w + 63) // 64, k), float("nan")).unbind()
    arguments = {"x": x, "weights": weights, "y": y, "sums": sums, "squares": squares}
    arguments |= {"N": n, "H": h, "W": w, "C": c, "K": k}
    outputs = ("y", "sums", "squares")
    cuda.emulate(SOURCE, LAUNCHERS[x.dtype], arguments, outputs=outputs, seed=seed, sanitizer=sanitizer)
    return y, sums.double().sum(0), squares.double().sum(0)


def reference(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The same convolution in double precision."""
    images, filters = x.double().permute(0, 3, 1, 2), weights.double().permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(images, filters, padding=1).permute(0, 2, 3, 1)


def main() -> None:
    """Both types, three schedules."""
    torch.manual_seed(0)
    for dtype in LAUNCHERS:
        x, weights = torch.randn(2, 7, 5, 64).to(dtype), (torch.randn(72, 3, 3, 64) / 24).to(dtype)
        for seed in range(3):
            y, sums, squares = conv3x3(x, weights, seed)
            error = (y - reference(x, weights)).abs().max()
            print(f"{dtype}, seed {seed}: error {error:.2e}, sum {sums[0]:.4f}, squares {squares[0]:.4f}")


if __name__ == "__main__":
    main()
