"""What is counted, printed and written."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch of scores ``[N, classes]``, fp64 ``[3]``: hits, hits among the five first guesses,
    images."""
    guesses = scores.topk(min(5, scores.size(1))).indices == labels[:, None]
    count = torch.tensor(len(labels), device=scores.device)
    return torch.stack((guesses[:, 0].sum(), guesses.sum(), count)).double()


def tally(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch, fp64 ``[4]``: loss, then `hits`."""
    logits = logits.detach().double()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.cat((loss[None], hits(logits, labels)))


def means(sums: Tensor, prefix: str) -> dict[str, float]:
    """Loss and hits in per cent, of sums over all processes."""
    loss, first, five, count = sums.tolist()
    return {
        f"{prefix}_loss": loss / count,
        f"{prefix}_top1": 100 * first / count,
        f"{prefix}_top5": 100 * five / count,
    }


def rates(sums: Tensor, prefix: str) -> dict[str, float]:
    """Hits and misses in per cent, of `hits` over all processes."""
    first, five, count = sums.tolist()
    return {
        f"{prefix}top1": 100 * first / count,
        f"{prefix}top5": 100 * five / count,
        f"{prefix}error_top1": 100 * (count - first) / count,
        f"{prefix}error_top5": 100 * (count - five) / count,
    }


def line(row: dict[str, float | str], title: str) -> str:
    """A row for the reader, under the value of its column `title`."""
    text = ", ".join(f"{name} {value:g}" for name, value in row.items() if name != title)
    return f"{title} {row[title]}: {text}"


def write_rows(path: Path, rows: Sequence[dict[str, float | str]]) -> None:
    """A CSV file, always whole. There must be a row."""
    with path.with_name(path.name + ".tmp").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(file.name, path)
