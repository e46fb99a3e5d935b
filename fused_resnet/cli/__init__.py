"""The command `fused-resnet`. Exit status: 0 well, 1 something is wrong, 2 the command was not understood."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from ..bench.app import app as bench
from .demo import demo
from .doctor import doctor
from .plan import plan
from .selftest import selftest

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fused_resnet {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Fused residual blocks for PyTorch."""


app.command()(doctor)
app.command()(plan)
app.command()(selftest)
app.command()(demo)
app.add_typer(bench, name="bench")
