"""Shows how far a transfer is: a bar on a terminal, a line every ten seconds elsewhere, objects with ``--json``.

All of it goes to standard error, except the objects, which go where the report's objects go.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mxrtc_bridge.client.files.sentences import (
    Rate,
    moved,
    progress_fields,
    progress_sentence,
    remaining_s,
    time_words,
)
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.files.events import Progress
from mxrtc_bridge.core.text.display import display, size_words

BAR_EVERY_S = 0.25
LINE_EVERY_S = 10.0
OBJECT_EVERY_S = 1.0


class View(Protocol):
    """One way to show a progress."""

    every_s: float

    def show(self, progress: Progress, rate: float, path: str) -> None:
        """Show it now."""

    def close(self) -> None:
        """Leave no trace of what was only of use meanwhile."""


class LineView:
    """A line, or an object, at a time."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.every_s = OBJECT_EVERY_S if report.as_json else LINE_EVERY_S

    def show(self, progress: Progress, rate: float, path: str) -> None:
        self._report.say("progress", progress_sentence(progress, rate, path), **progress_fields(progress, rate, path))

    def close(self) -> None:
        """Lines stay."""


class BarView:
    """A bar that is drawn anew in its place; sentences that are said meanwhile stand above it.

    Args:
        console: a terminal on standard error.
    """

    def __init__(self, console: Console) -> None:
        self.every_s = BAR_EVERY_S
        # Standard output is for data: nothing of it may be redirected through the console.
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start()

    def show(self, progress: Progress, rate: float, path: str) -> None:
        self._live.update(bar_line(progress, rate, path, self._live.console.width), refresh=True)

    def close(self) -> None:
        self._live.stop()


def bar_line(progress: Progress, rate: float, path: str, width: int) -> Table:
    """The bar: what is on the way, how far everything is, rate, remaining time and path."""
    left = remaining_s(progress, rate)
    numbers = f"{size_words(progress.bytes_done)} of {size_words(progress.size)}{'' if progress.listed else '+'}"
    facts = [f"{progress.files_done}/{progress.files}", numbers, f"{size_words(rate)}/s"]
    if left is not None:
        facts.append(f"{time_words(left)} left")
    facts.append(path)
    fact = "  ".join(facts)
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, ratio=2)
    table.add_column(ratio=1)
    table.add_column(no_wrap=True, justify="right")
    # Text and not markup: brackets in the names of files mean nothing.
    name = Text(display(progress.current, limit=max(width // 3, 8)) if progress.current else "")
    bar = ProgressBar(total=max(progress.size, 1), completed=min(progress.bytes_done, max(progress.size, 1)))
    table.add_row(name, bar, Text(fact))
    return table


def make_view(report: Report) -> View | None:
    """Choose how to show progress; None to show nothing."""
    if report.as_json:
        return LineView(report)
    if report.quiet:
        return None
    console = Console(file=sys.stderr)
    return BarView(console) if console.is_terminal and not console.is_dumb_terminal else LineView(report)


class Meter:
    """Measures one transfer, over all its attempts, and shows it."""

    def __init__(self, view: View | None) -> None:
        self._view = view
        self._rate = Rate()

    def tick(self, now: float, progress: Progress, path: str) -> None:
        """Take a measure and show it."""
        rate = self._rate.sample(now, moved(progress))
        if self._view is not None:
            self._view.show(progress, rate, path)

    @contextlib.asynccontextmanager
    async def watching(self, progress: Callable[[], Progress], path: str) -> AsyncIterator[None]:
        """Show ``progress()`` from time to time inside of the context."""
        if self._view is None:
            yield
            return
        task = asyncio.create_task(self._watch(progress, path, self._view.every_s), name="progress")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self, progress: Callable[[], Progress], path: str, every_s: float) -> None:
        now = asyncio.get_running_loop().time
        self._rate.sample(now(), moved(progress()))
        while True:
            await asyncio.sleep(every_s)
            self.tick(now(), progress(), path)

    def close(self) -> None:
        """Show nothing any more; harmless the second time."""
        if self._view is not None:
            self._view.close()
            self._view = None
