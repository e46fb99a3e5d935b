"""``fused-resnet demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..analysis.printing import Printer

NEEDED = ("matplotlib", "sklearn")


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the side-by-side training.")] = 6,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes that only show that it runs.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the plot.")] = Path("out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Train on handwritten digits stock and fused side by side, then run ResNet-50 both ways.

    Two to three minutes on two cores. Needs the extra "demo": matplotlib, scikit-learn, numpy.
    """
    try:
        from .. import demonstration
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise typer.BadParameter(f"{error.name} is not installed: pip install 'fused_resnet[demo]'") from None
    printer = Printer(as_json, 150)
    printer.document(demonstration.show(printer, epochs, quick, output))
