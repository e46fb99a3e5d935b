"""A progress bar for a terminal, lines of text for a pipe."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Ticker"]

SECONDS_BETWEEN_LINES = 20.0


class Ticker:
    """Shows how far a loop is and how long it still takes.

    with Ticker(console, "training", total=60) as ticker:
        for ...:
            ticker.advance(f"loss {loss:.3f}")
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total = console, title, total
        self._done, self._start = 0, time.monotonic()
        self._last_line = self._start
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> Ticker:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, note: str = "", by: int = 1) -> None:
        """So many steps done; `note` stands beside the bar."""
        self._done += by
        self._bar.update(self._task, advance=by, note=note)
        now = time.monotonic()
        finished = self._done >= self._total
        if self._console.is_terminal or (now - self._last_line < SECONDS_BETWEEN_LINES and not finished):
            return
        self._last_line = now
        left = (now - self._start) / self._done * (self._total - self._done)
        text = f"{self._title}: {self._done}/{self._total}, about {left:.0f} s left"
        self._console.print(f"{text}, {note}" if note else text, highlight=False, soft_wrap=True)
