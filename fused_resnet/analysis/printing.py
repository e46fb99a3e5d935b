"""Where a command's words go: bars to a terminal, plain text to a pipe, JSON where it is asked for."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

__all__ = ["Printer"]


class Printer:
    """What a command prints with.

    Args:
        as_json: then standard output gets one JSON document from `document`, and everything for people goes
        to
            standard error.
        width: of tables where there is no terminal.
    """

    def __init__(self, as_json: bool, width: int = 120) -> None:
        self.as_json = as_json
        terminal = Console(stderr=as_json)
        self.console = terminal if terminal.is_terminal else Console(stderr=as_json, width=width)

    def line(self, text: str, style: str | None = None) -> None:
        """One line as it is, however long."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False, style=style)

    def lines(self, named: dict[str, Any]) -> None:
        for name, value in named.items():
            self.line(f"{name}: {value}")

    def document(self, document: Any) -> None:
        """Print this if JSON was asked for."""
        if self.as_json:
            print(json.dumps(document, indent=2))
