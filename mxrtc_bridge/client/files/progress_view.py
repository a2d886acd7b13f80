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
    count_words,
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

# Columns of a terminal
GAP = 2
PERCENT_COLUMNS = len("100%")
RATE_COLUMNS = len("1023 KiB/s")
LEFT_COLUMNS = len("59.9 s left")
NUMBERS_COLUMNS = len("1023 KiB of 1023 MiB")
BAR_COLUMNS = 10
"""What a bar needs to be one, where there is room."""
MOST_FACTS = 6
NAME_COLUMNS = 12
"""What a name needs to be known again."""
MOST_NAME_COLUMNS = 40
"""What is left over belongs to the bar."""


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
    """The bar, in one line: per cent, rate and remaining time, and of the rest what ``width`` has room for.

    Each fact has a width of its own, so that the line stands still while its numbers change.
    """
    left = remaining_s(progress, rate)
    # Of what is not all announced yet, nobody knows how much it is a part.
    per_cent = 100 * progress.bytes_done // progress.size if progress.size else 100
    done = f"{min(per_cent, 100)}%" if progress.listed else ""
    facts = [
        done.rjust(PERCENT_COLUMNS),
        f"{size_words(rate)}/s".rjust(RATE_COLUMNS),
        ("" if left is None else f"{time_words(left)} left").rjust(LEFT_COLUMNS),
    ]
    while (room := width - sum(len(fact) + GAP for fact in facts) + GAP) < 0 and len(facts) > 1:
        facts.pop()
    bar_columns = max(min(room - GAP, BAR_COLUMNS), 0)
    room -= GAP + bar_columns
    name_columns = NAME_COLUMNS if progress.current and room >= GAP + NAME_COLUMNS else 0
    room -= name_columns and GAP + name_columns
    numbers = f"{size_words(progress.bytes_done)} of {size_words(progress.size)}{'' if progress.listed else '+'}"
    files = f"{progress.files_done} of {count_words(progress.files, 'file')}" if progress.files > 1 else ""
    for place, fact in ((1, numbers.rjust(NUMBERS_COLUMNS)), (1, files), (MOST_FACTS, path)):
        if fact and room >= GAP + len(fact):
            facts.insert(place, fact)
            room -= GAP + len(fact)
    room = max(room, 0)
    if name_columns:
        name_columns += min(room, MOST_NAME_COLUMNS - NAME_COLUMNS)
        room -= min(room, MOST_NAME_COLUMNS - NAME_COLUMNS)
    bar_columns += room
    table = Table.grid(padding=(0, GAP, 0, 0))
    cells: list[Text | ProgressBar] = []
    if name_columns:
        table.add_column(no_wrap=True, width=name_columns)
        # Text and not markup: brackets in the names of files mean nothing.
        name = display(progress.current, limit=name_columns)
        if name != display(progress.current, limit=10 * name_columns):  # it was cut, and of a path the end says most
            name = display(progress.current.rpartition("/")[2], limit=name_columns)
        cells.append(Text(name))
    if bar_columns:
        table.add_column(width=bar_columns)
        total = max(progress.size, 1)
        cells.append(ProgressBar(total=total, completed=min(progress.bytes_done, total)))
    for fact in facts:
        table.add_column(no_wrap=True)
        cells.append(Text(fact))
    table.add_row(*cells)
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
