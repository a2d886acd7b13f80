"""How a transfer is shown: a bar on a terminal, lines elsewhere, objects for programs."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import pty
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from mxrtc_bridge.cli.standard_streams import StandardStream
from mxrtc_bridge.client.files.progress_view import BarView, LineView, Meter, bar_line, make_view
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.files.events import Progress
from tests.waiting import until

MIB = 1 << 20


def progress(done: int, current: str = "") -> Progress:
    return Progress(
        files=2,
        directories=0,
        size=8 * MIB,
        listed=True,
        files_done=0,
        directories_done=0,
        bytes_done=done,
        bytes_kept=0,
        failed=0,
        failures=(),
        current=current,
    )


def drawn(value: Progress, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(bar_line(value, MIB, "relayed", width))
    return capture.get()


def test_bar_shows_name_rate_remaining_time_and_path() -> None:
    line = drawn(progress(4 * MIB, "a [red]b[/red].txt"))
    for part in (
        "a [red]b[/red].txt",
        "50%",
        "4.0 MiB of 8.0 MiB",
        "0 of 2 files",
        "1.0 MiB/s",
        "4.0 s left",
        "relayed",
    ):
        assert part in line
    assert line.count("\n") == 1


def test_a_sentence_that_is_said_meanwhile_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    stream = StandardStream(slave, keeps=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    view = make_view(Report())
    assert isinstance(view, BarView)
    view.show(progress(MIB, "name"), MIB, "direct")
    Report().say("lost", "connection lost")
    view.close()
    assert stream.drain(5)
    shown = b""
    while b"connection lost\r\n" not in shown or not shown.partition(b"connection lost\r\n")[2]:
        shown += os.read(master, 65536)  # a terminal gives it in pieces
    bar, said, after = shown.partition(b"connection lost\r\n")
    # The bar's line is erased before, and drawn anew behind.
    assert said
    assert bar.endswith(b"\r\x1b[2K")
    assert b"name" in after
    os.close(master)


def test_bar_shows_no_control_characters_of_a_name() -> None:
    line = drawn(progress(MIB, "a\x1b]0;owned\x07\u202eb"))
    assert "\x07" not in line
    assert "\u202e" not in line
    assert "]0;owned" in line


@pytest.mark.parametrize("width", [1, 20, 29, 30, 39, 40, 51, 52, 79, 80, 81, 100, 120, 160, 300])
@pytest.mark.parametrize("name", ["", "x" * 500, "a/b", "漢字" * 100, "photos/2026/" + "y" * 200])
def test_bar_takes_one_line_however_narrow_the_terminal(width: int, name: str) -> None:
    line = drawn(progress(MIB, name), width)
    assert line.count("\n") == 1
    assert cell_len(line.rstrip("\n")) <= width
    if width >= 40:
        for part in ("12%", "1.0 MiB/s", "7.0 s left"):
            assert part in line, "these are there and whole on each terminal that people use"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("photos/2026/summer/beach.jpeg", "beach.jpeg "),
        # Each of these takes two columns.
        ("写真/夏/海辺.jpeg", "海辺.jpeg "),
        ("写真/夏/" + "海" * 50, "海" * 7 + "… "),
        ("a\x1b/b\x1b/c\x1b", "c\\x1b "),
        ("写真/海.jpg", "写真/海.jpg "),
    ],
)
def test_of_a_path_that_is_too_long_the_name_of_the_file_is_shown(path: str, shown: str) -> None:
    assert drawn(progress(MIB, path), 80).startswith(shown)


def test_how_much_is_done_of_what_is_not_all_announced_is_not_said_in_per_cent() -> None:
    line = drawn(dataclasses.replace(progress(MIB), listed=False), 120)
    assert "%" not in line
    assert "1.0 MiB of 8.0 MiB+" in line
    assert "100%" in drawn(dataclasses.replace(progress(0), size=0), 120)


def test_bar_leaves_nothing_behind_and_keeps_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    view = BarView(Console(file=out, width=100, force_terminal=True))
    view.show(progress(MIB, "a.txt"), MIB, "direct")
    print("data")
    view.close()
    assert "a.txt" in out.getvalue()
    assert "data" not in out.getvalue()
    assert capsys.readouterr().out == "data\n"


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    view = make_view(Report())
    assert isinstance(view, LineView)
    assert view.every_s == 10
    view.show(progress(MIB), MIB, "direct")
    captured = capsys.readouterr()
    assert captured.err == "1.0 MiB of 8.0 MiB, 0 of 2 files, 1.0 MiB/s, 7.0 s left, direct\n"
    assert captured.out == ""


def test_objects_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    view = make_view(Report(as_json=True))
    assert view is not None
    view.show(progress(MIB, "a"), MIB, "direct")
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "progress"
    assert (found["bytes_done"], found["size"], found["rate"], found["current"]) == (MIB, 8 * MIB, MIB, "a")


def test_quiet_shows_nothing() -> None:
    assert make_view(Report(quiet=True)) is None


class Shown:
    every_s = 3600.0

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.closed = False

    def show(self, progress: Progress, rate: float, path: str) -> None:
        self.rates.append(rate)

    def close(self) -> None:
        self.closed = True


def test_meter_measures_what_it_shows() -> None:
    view = Shown()
    meter = Meter(view)
    for second in range(4):
        meter.tick(second, progress(second * MIB), "direct")
    meter.close()
    assert view.rates == [0, MIB, MIB, MIB]
    assert view.closed


async def test_watching_ends_with_its_context() -> None:
    view, before = Shown(), asyncio.all_tasks()
    view.every_s = 0.001
    async with Meter(view).watching(lambda: progress(0), "direct"):
        await until(lambda: view.rates)
    async with Meter(None).watching(lambda: progress(0), "direct"):
        assert asyncio.all_tasks() == before
    assert asyncio.all_tasks() == before
