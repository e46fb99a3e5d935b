"""What an experiment leaves behind: a table, a drawing, and what they were made by and on."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pandas
import torch
from matplotlib.figure import Figure

from fused_resnet.analysis import conditions

__all__ = ["write"]


def write(
    folder: Path,
    name: str,
    frame: pandas.DataFrame,
    draw: Callable[[], Figure],
    device: torch.device,
    settings: dict[str, Any],
) -> list[Path]:
    """``name.csv`` with the rows, ``name.svg`` with the drawing, ``name.json`` with the command, the settings
    and the conditions. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    table, drawing, origin = (folder / f"{name}.{suffix}" for suffix in ("csv", "svg", "json"))
    frame.to_csv(table, index=False, float_format="%.6g")
    with matplotlib.rc_context(
        {"svg.hashsalt": "fused_resnet", "font.size": 9, "font.family": "DejaVu Sans"}
    ):
        draw().savefig(drawing, bbox_inches="tight", facecolor="white", metadata={"Date": None})
    found = {"command": command(), "settings": settings, "conditions": conditions(device)}
    origin.write_text(json.dumps(found, indent=2) + "\n")
    return [table, drawing, origin]


def command() -> str:
    """As the user gave it."""
    return shlex.join(["python", "-m", "fused_resnet.study", *sys.argv[1:]])
