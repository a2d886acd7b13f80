"""The person in front of ``mxrtc verify`` sees what is to be compared, and answers with a word."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.verify import Terminal
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.ids import UserId

CODE = ShortCode((0, 1, 2, 3, 4, 5, 63), (1000, 5000, 9191))
PEER = UserId("@rtc_build:example.org")


@pytest.fixture
def typed() -> Iterator[int]:
    """The end of standard input at which a person sits."""
    before = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    yield writing
    os.dup2(before, 0)
    os.close(before)
    os.close(writing)


@pytest.mark.parametrize(("words", "same"), [("yes\n", True), ("Y\n", True), ("no\n", False), ("maybe\nyes\n", True)])
async def test_a_word_says_whether_both_sides_show_the_same(
    typed: int, words: str, same: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(Report())
    asking = asyncio.create_task(terminal.compare(PEER, "BUILD", CODE))
    for line in words.splitlines(keepends=True):
        os.write(typed, line.encode())
        await asyncio.sleep(0.05)
    assert await asyncio.wait_for(asking, 10) is same
    shown = capsys.readouterr().err
    assert "Dog" in shown
    assert f"{PEER}, device BUILD" in shown
    assert ('Write "yes" or "no"' in shown) is words.startswith("maybe")


async def test_an_empty_line_is_no_answer(typed: int) -> None:
    os.write(typed, b"\n")
    with pytest.raises(ClientError, match="there was no answer") as refused:
        await asyncio.wait_for(Terminal(Report()).compare(PEER, "BUILD", CODE), 10)
    assert refused.value.code is Exit.USAGE


async def test_a_newer_question_takes_the_answer_that_an_older_one_waits_for(typed: int) -> None:
    terminal = Terminal(Report(as_json=True, objects=io.StringIO()))
    older = asyncio.create_task(terminal.compare(PEER, "BUILD", CODE))
    await asyncio.sleep(0.05)
    older.cancel()
    newer = asyncio.create_task(terminal.compare(PEER, "OTHER", CODE))
    await asyncio.sleep(0.05)
    os.write(typed, b"yes\n")
    assert await asyncio.wait_for(newer, 10) is True
