"""``mxrtc-bridge top``: the live sessions with what moves in each, the busiest first, again and again.

It asks the running bridge what ``who`` asks. Rates come from two answers, by the age that the bridge gives each
session, so neither the clock of this machine nor how long an answer takes makes them wrong.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mxrtc_bridge.cli.bridge.command_line import ExitCode, config_option, json_option, socket_option
from mxrtc_bridge.cli.bridge.running_bridge import ask_bridge, number_in
from mxrtc_bridge.cli.shutdown import SHUTDOWN
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.text.display import display, size_words
from mxrtc_bridge.core.text.durations import say_duration

MAX_PAGES = 50
"""Of 20 sessions each that are looked at; what is more is said."""
_MAX_COLUMNS = 255
_AROUND_ROWS = 4
"""Lines of a screen that are not sessions: title, head, what is left out, and the cursor."""

Row = Mapping[str, object]
Ask = Callable[[tuple[str, ...]], tuple[int, dict[str, object]]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the bridge said at one time."""

    rows: tuple[Row, ...]
    total: int
    """Sessions in all, with those that were not asked for."""
    paused: bool


def look(ask: Ask) -> Snapshot:
    """Ask for the live sessions.

    Raises:
        LocalError: the bridge refuses, or answers what it never would.
    """
    rows: list[Row] = []
    answer: dict[str, object] = {}
    total = 0
    for page in range(1, MAX_PAGES + 1):
        status, answer = ask(("who", str(page)))
        if status >= 400:
            raise LocalError(str(answer.get("error", "the bridge refused it, and did not say why")))
        more, said, pages = answer.get("rows"), answer.get("total"), answer.get("pages")
        if not (isinstance(more, list) and isinstance(said, int) and isinstance(pages, int)):
            raise LocalError(f"the bridge answered with no list of sessions: {display(json.dumps(answer), 80)}")
        rows += more
        total = said
        if page >= pages:
            break
    return Snapshot(tuple(rows), total, bool(answer.get("paused")))


def with_rates(before: Snapshot, now: Snapshot) -> list[dict[str, object]]:
    """The sessions of ``now`` with ``sent_per_s`` and ``received_per_s``, in bytes; the busiest first."""
    known = {row.get("number"): row for row in before.rows}
    found = []
    for row in now.rows:
        earlier = known.get(row.get("number"), {})
        seconds = number_in(row, "age_s") - number_in(earlier, "age_s")
        rates = {
            f"{way}_per_s": max(0.0, number_in(row, way) - number_in(earlier, way)) / seconds if seconds > 0 else 0.0
            for way in ("sent", "received")
        }
        found.append({**row, **rates})
    return sorted(found, key=lambda row: (-_moved(row), number_in(row, "number")))


def _moved(row: Row) -> float:
    return number_in(row, "sent_per_s") + number_in(row, "received_per_s")


def _rate(row: Row, name: str) -> str:
    return f"{size_words(number_in(row, name))}/s"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "session": lambda row: str(row.get("number", "")),
    "user": lambda row: str(row.get("user", "")),
    "peer": lambda row: str(row.get("peer", "")),
    "path": lambda row: str(row.get("path") or "connecting").partition(" ")[0],
    "age": lambda row: say_duration(number_in(row, "age_s")),
    "streams": lambda row: str(row.get("streams", "")),
    "sent/s": lambda row: _rate(row, "sent_per_s"),
    "received/s": lambda row: _rate(row, "received_per_s"),
    "sent": lambda row: size_words(number_in(row, "sent")),
    "received": lambda row: size_words(number_in(row, "received")),
}
_ALWAYS = frozenset({"session", "user", "sent/s", "received/s"})
"""A session is ended by its number or its user, so these stay whole at any width."""
_WHERE_THERE_IS_PLACE = ("peer", "streams", "age", "path", "sent", "received")
_ENDLESS = Console(width=10_000)


def table(rows: Sequence[Row], now: Snapshot, *, width: int, height: int | None) -> Table:
    """Draw the sessions.

    Args:
        rows: of :func:`with_rates`.
        now: the newer answer.
        width: columns of the terminal.
        height: lines of the terminal; None where there is no end of them.
    """
    shown = rows if height is None else rows[: max(1, height - _AROUND_ROWS)]
    title = f"{now.total} sessions" if now.total != 1 else "1 session"
    title += f", {_rate(_sum(rows), 'sent_per_s')} sent, {_rate(_sum(rows), 'received_per_s')} received"
    if now.paused:
        title += "; new ones are refused"
    names = _ALWAYS
    for one_more in _WHERE_THERE_IS_PLACE:
        wider = names | {one_more}
        drawn = _drawn(wider, shown, title, now.total - len(shown))
        if Measurement.get(_ENDLESS, _ENDLESS.options, drawn).maximum <= width:
            names = wider
    return _drawn(names, shown, title, now.total - len(shown))


def _drawn(names: Collection[str], rows: Iterable[Row], title: str, more: int) -> Table:
    drawn = Table(box=None, pad_edge=False, title=Text(title), title_justify="left")
    columns = {name: show for name, show in _COLUMNS.items() if name in names}
    for name in columns:
        drawn.add_column(name, overflow="fold", no_wrap=name != "user")
    for row in rows:
        # Never as markup: names come from elsewhere.
        drawn.add_row(*(Text(display(show(row), _MAX_COLUMNS)) for show in columns.values()))
    if more > 0:
        drawn.caption, drawn.caption_justify = Text(f"and {more} more"), "left"
    return drawn


def _sum(rows: Iterable[Row]) -> Row:
    rows = tuple(rows)
    return {name: sum(number_in(row, name) for row in rows) for name in ("sent_per_s", "received_per_s")}


@click.command("top")
@click.option(
    "-i",
    "--interval",
    "interval_s",
    type=click.FloatRange(0.5, 60),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
@json_option
@config_option
@socket_option
def top_command(path: Path, socket: Path | None, interval_s: float, as_json: bool) -> int:
    """Watch how much moves in each live session.

    The busiest comes first, and Ctrl-C ends it. Not at a terminal, and with --json, it shows them once, after one
    interval.
    """

    def ask(words: tuple[str, ...]) -> tuple[int, dict[str, object]]:
        return ask_bridge(path, socket, words)

    before = look(ask)
    if as_json or not sys.stdout.isatty():
        time.sleep(interval_s)
        now = look(ask)
        rows = with_rates(before, now)
        if as_json:
            for row in rows:
                click.echo(json.dumps(row))
        else:
            Console(highlight=False, width=400).print(table(rows, now, width=400, height=None))
        sys.stdout.flush()
        return 0
    console, told = Console(highlight=False), threading.Event()
    shutdown = SHUTDOWN.get()
    # Not a screen of its own: whoever ends it by force, as the bridge hangs, would be left on that.
    with (
        contextlib.nullcontext() if shutdown is None else shutdown.cancelling(told.set),
        Live(console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        now = before
        while True:
            drawn = table(with_rates(before, now), now, width=console.width, height=console.height)
            live.update(drawn, refresh=True)
            if told.wait(interval_s):
                return ExitCode.INTERRUPTED
            before, now = now, look(ask)
