"""What the demonstration tells: numbered steps, what happened in each, and where to look when one fails.

On a terminal with colours and a line that moves while something takes long, otherwise as plain lines. Text is never
read as markup: parts of it come from the programs that are shown.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from mxrtc_bridge.core.errors import LocalError, MxrtcError
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.demo.processes import last_lines

TAIL_LINES = 15
"""How much of a log is shown when a step fails."""

_MAX_COLUMNS = 500
_END_OF_LOG = re.compile(r"(; its (last lines|log [^\n]* ends with))?:\n.*", re.DOTALL)
"""The part of a message that repeats a log, which is shown with the name of its file instead."""


class StepError(LocalError):
    """A step of the demonstration failed.

    Attributes:
        number: which one.
        title: what it was to do.
        logs: the files that tell more, the likeliest first.
    """

    def __init__(self, number: int, title: str, message: str, logs: tuple[Path, ...]) -> None:
        super().__init__(message)
        self.number = number
        self.title = title
        self.logs = tuple(dict.fromkeys(logs))


class DemoStep:
    """One step while it runs."""

    def __init__(self, console: Console, status: Status | None) -> None:
        self._console = console
        self._status = status
        self.logs: list[Path] = []

    def command(self, text: str) -> None:
        """Show the command that is run."""
        self._line(f"$ {text}", "cyan")

    def say(self, text: str) -> None:
        """Tell what happened."""
        self._line(text)

    def output(self, text: str) -> None:
        """Show what a program printed, line by line."""
        for line in text.splitlines():
            self._line(f"| {display(line, _MAX_COLUMNS)}", "dim")

    def busy(self, text: str) -> None:
        """Say on the moving line, where there is one, how far something has come."""
        if self._status is not None:
            self._status.update(Text(text))

    def see(self, *logs: Path) -> None:
        """Name the logs to read if this step fails; those named later come first."""
        self.logs[:0] = logs

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(f"      {text}", style=style), soft_wrap=True)


class Story:
    """Tells steps one after the other.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[DemoStep]:
        """Tell one step; the block does it.

        Raises:
            StepError: the block failed in a way that was to be expected.
        """
        self._count += 1
        self._console.print(Text(f"{self._count:>3}.  {title}", style="bold"), soft_wrap=True)
        moving = self._console.status(Text(title)) if self._console.is_terminal else None
        step = DemoStep(self._console, moving)
        began = time.monotonic()
        with moving or contextlib.nullcontext():
            try:
                yield step
            except MxrtcError as error:
                message = _END_OF_LOG.sub("", str(error))
                raise StepError(self._count, title, message, tuple(step.logs)) from error
        self._console.print(Text(f"      done in {time.monotonic() - began:.1f} s", style="green"))

    def text(self, text: str, style: str = "") -> None:
        """Tell something between the steps."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def failure(self, error: StepError, kept: dict[Path, Path]) -> None:
        """Tell which step failed and why, and show the ends of its logs.

        Args:
            error: the failure.
            kept: where each log is now.
        """
        self.text(f"\nStep {error.number} failed ({error.title}): {display(str(error), _MAX_COLUMNS)}", "bold red")
        for log in error.logs:
            if (path := kept.get(log)) is not None and (tail := last_lines(path, TAIL_LINES)):
                self.text(f"\nRead {path}; it ends with:")
                for line in tail:
                    self.text(f"    {display(line, _MAX_COLUMNS)}", "dim")
