"""``mxrtc-bridge top``: what moves in which session, at any width, for people and for programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mxrtc_bridge.cli.bridge.command_line import ExitCode
from mxrtc_bridge.cli.bridge.top import MAX_PAGES, Snapshot, look, table, with_rates
from mxrtc_bridge.core.errors import LocalError
from tests.bridge_command import Run, run_in_process
from tests.cli.bridge.test_running_bridge import bridge

USER = "@alice.with-a-long-name:matrix.example.org"


def row(number: int, age_s: float, sent: int = 0, received: int = 0, user: str = USER) -> dict[str, Any]:
    return {
        "number": number, "user": user, "peer": "@rtc_build:matrix.example.org", "device": "", "age_s": age_s,
        "path": "direct (host to host, ipv4)", "streams": 2, "sent": sent, "received": received,
    }  # fmt: skip


def snapshot(*rows: dict[str, Any], total: int | None = None, paused: bool = False) -> Snapshot:
    return Snapshot(rows, len(rows) if total is None else total, paused)


def shown(rows: list[dict[str, object]], now: Snapshot, width: int, height: int | None = None) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table(rows, now, width=width, height=height))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_rates_are_by_the_age_of_each_session_and_the_busiest_comes_first() -> None:
    before = snapshot(row(1, 10.0, sent=1000), row(2, 5.0, received=50), row(3, 1.0))
    now = snapshot(row(1, 12.0, sent=1400), row(2, 7.0, received=5050), row(4, 0.5, sent=100))
    found = [(each["number"], each["sent_per_s"], each["received_per_s"]) for each in with_rates(before, now)]
    assert found == [(2, 0, 2500), (1, 200, 0), (4, 200, 0)]
    assert {each["sent_per_s"] for each in with_rates(now, now)} == {0}, "at no time nothing moves"


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, "session user peer path age streams sent/s received/s sent received"),
        (120, "session user peer age streams sent/s received/s"),
        (100, "session user path age streams sent/s received/s"),
        (80, "session user age sent/s received/s"),
        (40, "session user sent/s received/s"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_cuts_no_name(width: int, columns: str) -> None:
    now = snapshot(row(1234, 60.0, sent=2_000_000), row(5, 1.0))
    lines = shown(with_rates(snapshot(row(1234, 59.0, sent=1_000_000)), now), now, width)
    head = next(number for number, line in enumerate(lines) if line.startswith("session "))
    assert lines[head].split() == columns.split()
    assert all(len(line) <= width for line in lines)
    assert "\u2026" not in "".join(lines)
    if width >= 80:
        assert lines[0] == "2 sessions, 977 KiB/s sent, 0 B/s received"
        assert lines[2].split()[:2] == ["1234", USER]
    else:
        assert USER in "".join(line[9:].split(" ")[0] for line in lines[head + 1 :])


def test_what_has_no_place_is_told_and_what_comes_from_elsewhere_draws_nothing() -> None:
    rows = [row(number, 1.0, user=f"[bold]\x1b[31m{number}") for number in range(1, 31)]
    now = snapshot(*rows, total=1200, paused=True)
    lines = shown(with_rates(now, now), now, 200, height=10)
    assert lines[0].endswith("; new ones are refused")
    assert lines[-1] == "and 1194 more"
    assert len(lines) <= 10
    assert r"[bold]\x1b[31m1" in lines[2]


def test_all_pages_are_asked_for_and_no_end_of_them() -> None:
    asked: list[tuple[str, ...]] = []

    def ask(words: tuple[str, ...]) -> tuple[int, dict[str, object]]:
        asked.append(words)
        return 200, {"rows": [row(len(asked), 1.0)], "total": 9999, "pages": 500, "page": len(asked)}

    found = look(ask)
    assert asked == [("who", str(page)) for page in range(1, MAX_PAGES + 1)]
    assert (len(found.rows), found.total) == (MAX_PAGES, 9999)


@pytest.mark.parametrize("answer", [(503, {"error": "The bridge is starting."}), (200, {"said": "?"}), (500, {})])
def test_an_answer_that_is_none_ends_it_with_a_sentence(answer: tuple[int, dict[str, object]]) -> None:
    with pytest.raises(LocalError, match=r"starting|no list|did not say why"):
        look(lambda _: answer)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


def moving() -> Iterator[dict[str, object]]:
    """Answers of a bridge with a session that sends 1 MiB in its second second, 2 MiB in its third, and so on."""
    age = 0
    while True:
        age += 1
        yield {"page": 1, "pages": 1, "total": 1, "rows": [row(7, float(age), sent=age * (age - 1) // 2 * 2**20)]}


def test_for_a_program_it_is_one_table_or_one_object_a_session(run: Run, tmp_path: Path) -> None:
    answers = moving()
    with bridge(tmp_path / "c.sock", lambda _: next(answers)):
        code, out, err = run("top", "-i", "0.5", "--socket", tmp_path / "c.sock")
        assert (code, err) == (0, "")
        assert out.splitlines()[0].strip() == "1 session, 1.0 MiB/s sent, 0 B/s received"
        assert out.splitlines()[2].split()[:2] == ["7", USER]
        code, out, err = run("top", "-i", "0.5", "--json", "--socket", tmp_path / "c.sock")
    assert (code, err) == (0, "")
    (found,) = map(json.loads, out.splitlines())
    assert (found["number"], found["sent_per_s"], found["received_per_s"], found["streams"]) == (7, 3 * 2**20, 0, 2)


@pytest.mark.programs
def test_at_a_terminal_it_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    answers = moving()
    ours, theirs = pty.openpty()
    with bridge(tmp_path / "c.sock", lambda _: next(answers)):
        top = subprocess.Popen(
            [sys.executable, "-c", "from mxrtc_bridge.cli.bridge.main import main; main()",
             "top", "-i", "0.5", "--socket", tmp_path / "c.sock"],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "24"},
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            seen = b""
            while b"3.0 MiB" not in seen:  # which is what two looks later was sent in all
                seen += os.read(ours, 65536)
            assert b"0 B/s sent" in seen
            assert b"1.0 MiB/s sent" in seen
            assert b"2.0 MiB/s sent" in seen
            top.send_signal(signal.SIGINT)
            _, err = top.communicate(timeout=20)
            assert (top.returncode, err) == (ExitCode.INTERRUPTED, b"")
            os.set_blocking(ours, False)
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(ours, 65536):
                    seen += piece
            assert seen.endswith(b"\x1b[?25h"), "the cursor is there again"
            assert b"\x1b[?1049h" not in seen, "what was shown last can still be read"
        finally:
            top.kill()
            top.wait()
            os.close(ours)
            os.close(theirs)
