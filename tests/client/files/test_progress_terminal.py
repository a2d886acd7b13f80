"""How a transfer looks on a real terminal: tmux at three widths, compared with pictures that are checked in.

``MXRTC_WRITE_PICTURES=1`` writes them anew; look at the difference before you keep it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tmux import Tmux
from tests.waiting import until

pytestmark = pytest.mark.real

PICTURES = Path(__file__).parent / "pictures"
PROGRAM = """
import sys
from mxrtc_bridge.client.files.progress_view import make_view
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.files.events import Progress

MIB = 1 << 20
ONE = Progress(files=1, size=62 * MIB, listed=True, bytes_done=11 * MIB, current="video.mkv")
MANY = Progress(files=301, files_done=300, size=62 * MIB, listed=True, bytes_done=31 * MIB)
MANY.current = "photos/2026/summer/at the beach/IMG_20260701_120000.jpeg"
report = Report()
view = make_view(report)
view.show(ONE, 1.0, "direct")
report.say("lost", "connection lost: the peer hung up; calling again")
view.show(ONE, 2.4 * MIB, "direct (host to host, ipv4)")
if "many" in sys.argv:
    view.show(MANY, 102.4 * MIB, "direct (host to host, ipv4)")
open(sys.argv[1]).close()  # a FIFO: until the test opens it as well
view.close()
open(sys.argv[1]).close()
"""

RATES = {"one": "2.4 MiB/s", "many": "102 MiB/s"}
"""Of the last that is shown."""


class Terminal(Tmux):
    """A terminal in which the program shows a transfer, until it is told to go on."""

    def __init__(self, folder: Path, width: int) -> None:
        super().__init__(folder, width=width)
        self._fifo = folder / "fifo"
        os.mkfifo(self._fifo)

    def show(self, files: str, **environment: str) -> None:
        self.run(sys.executable, "-c", PROGRAM, str(self._fifo), files, **environment)

    def go_on(self) -> None:
        self._fifo.open("w").close()


@pytest.fixture
def terminal(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    made = Terminal(tmp_path, getattr(request, "param", 80))
    yield made
    made.close()


async def looks_like(terminal: Terminal, picture: str) -> None:
    with contextlib.suppress(TimeoutError):
        await until(lambda: terminal.shown() == picture)
    assert terminal.shown() == picture


@pytest.mark.parametrize("files", ["one", "many"])
@pytest.mark.parametrize("terminal", [40, 80, 160], indirect=True)
async def test_bar_is_the_line_of_the_picture_and_gone_at_the_end(
    terminal: Terminal, files: str, request: pytest.FixtureRequest
) -> None:
    width = request.node.callspec.params["terminal"]
    terminal.show(files)
    picture = PICTURES / f"{files}_{width}.txt"
    if "MXRTC_WRITE_PICTURES" in os.environ:
        await until(lambda: RATES[files] in terminal.shown())
        picture.write_text(terminal.shown())
    await looks_like(terminal, picture.read_text())
    assert all(len(line) <= width for line in terminal.shown().splitlines())
    terminal.go_on()
    # What was of use meanwhile is gone, and what was said stays.
    await looks_like(terminal, picture.read_text().partition("again\n")[0] + "again\n")


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_no_colour_where_none_is_wanted(terminal: Terminal, environment: dict[str, str], coloured: bool) -> None:
    terminal.show("one", **environment)
    await until(lambda: RATES["one"] in terminal.shown())
    assert ("\x1b[3" in terminal.shown(colours=True)) is coloured


async def test_dumb_terminal_gets_lines(terminal: Terminal) -> None:
    terminal.show("one", TERM="dumb")
    await until(lambda: RATES["one"] in terminal.shown())
    line = "11.0 MiB of 62.0 MiB, 0 of 1 file, 2.4 MiB/s, 21.2 s left"
    assert line in terminal.shown()
    assert "━" not in terminal.shown()
