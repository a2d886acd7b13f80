"""What a box holds is counted beside everything else, and looked at again only when much has come."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.sinks.files.receive import receipts
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from mxrtc_bridge.sinks.files.receive.publisher import Naming
from mxrtc_bridge.sinks.files.receive.quota import Usage
from mxrtc_bridge.sinks.files.receive.receiver import DirectoryReceiver, ReceivePolicy
from mxrtc_bridge.sinks.files.receive.state_dir import Contents, StateDirectory
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory
from tests.sinks.files.receive.senders import ALICE, ROOMY, begun, content, directory_of, opened, send
from tests.waiting import turns, until


class SlowDisk:
    """Files are not counted before :attr:`goes_on` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.goes_on = threading.Event()
        self.asked = False
        contents = StateDirectory.contents

        def slow(box: StateDirectory, at_most: dict[str, Usage] | None = None) -> Contents:
            self.asked = True
            assert self.goes_on.wait(60)
            return contents(box, at_most)

        monkeypatch.setattr(StateDirectory, "contents", slow)


class Looks:
    """How many files are looked at, and how many lines of ledgers are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = self.lines = 0
        status, decode = RootedDirectory.status, receipts.decode

        def looked(root: RootedDirectory, parts: tuple[str, ...]) -> os.stat_result | None:
            self.files += 1
            return status(root, parts)

        def read(line: bytes) -> receipts.Receipt | None:
            self.lines += 1
            return decode(line)

        monkeypatch.setattr(RootedDirectory, "status", looked)
        monkeypatch.setattr(receipts, "decode", read)

    def taken(self) -> tuple[int, int]:
        found, self.files, self.lines = (self.files, self.lines), 0, 0
        return found


@asynccontextmanager
async def compacting(path: Path) -> AsyncIterator[DirectoryReceiver]:
    """A box whose ledger is made shorter when it has more than five lines of files that are gone."""
    box = DirectoryReceiver(path, ReceivePolicy(Naming(), ROOMY), compact_from=5)
    await box.open()
    await box.counted()
    yield box
    await box.close()


async def test_a_box_is_open_before_its_files_are_counted_and_who_sends_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(ROOMY, user_bytes=100)
    async with opened(tmp_path, limits) as box:
        await send(box, "a", content(60))
    disk = SlowDisk(monkeypatch)
    box = DropBox(tmp_path, limits)
    await box.open()
    impatient, too_large, fitting = (asyncio.create_task(begun(box, f"{size}", size)) for size in (1, 41, 40))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    assert not too_large.done()
    assert not fitting.done()
    disk.goes_on.set()
    with pytest.raises(FileError, match="quota is 100"):
        await too_large
    await (await fitting).discard()
    await box.close()


async def test_who_has_room_for_all_that_he_ever_sent_waits_for_no_look_at_his_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(ROOMY, user_files=12)
    async with opened(tmp_path, limits) as box:
        await asyncio.gather(*(send(box, f"{number}", b"abc") for number in range(10)))
    for number in range(9):
        (tmp_path / f"{number}").unlink()
    looks = Looks(monkeypatch)
    async with opened(tmp_path, limits) as box:
        await send(box, "x", b"abc")
        await send(box, "y", b"abc")
        assert looks.taken()[1] == 10, "the ledger was read once"
        assert box.books.usage(ALICE).files == 12
        await asyncio.gather(send(box, "z", b"abc"), send(box, "w", b"abc"))
        assert looks.taken()[1] == 12, "and once more for both, as these would have been too many"
        assert box.books.usage(ALICE).files == 5


@pytest.mark.parametrize("restarted", [True, False])
async def test_who_comes_after_one_that_gave_up_during_the_count_is_not_refused_by_the_old_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, restarted: bool
) -> None:
    limits = replace(ROOMY, user_files=2)
    box = DropBox(tmp_path, limits)
    await box.open()
    await asyncio.gather(*(send(box, f"{number}", b"abc") for number in range(2)))
    (tmp_path / "0").unlink()
    if restarted:
        await box.close()
        box = DropBox(tmp_path, limits)
        await box.open()
        await box.counted()
    disk = SlowDisk(monkeypatch)
    gives_up = asyncio.create_task(send(box, "x", b"abc"))
    await until(lambda: disk.asked)
    meanwhile = asyncio.create_task(send(box, "y", b"abc"))
    await turns()
    gives_up.cancel()
    disk.goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await gives_up
    await meanwhile
    await box.close()


async def test_a_directory_is_refused_by_what_is_there_and_not_by_all_that_ever_was(tmp_path: Path) -> None:
    limits = replace(ROOMY, user_files=2)
    async with opened(tmp_path, limits) as box:
        await asyncio.gather(*(send(box, f"{number}", b"abc") for number in range(2)))
    (tmp_path / "0").unlink()
    async with opened(tmp_path, limits) as box:
        await box.begin(ALICE, directory_of("d"))
        with pytest.raises(FileError, match="you would have 3 files here; your quota is 2"):
            await box.begin(ALICE, directory_of("e"))


async def test_who_sends_is_told_when_it_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    box = DirectoryReceiver(tmp_path, ReceivePolicy(Naming(), ROOMY), counted_s=0.0)
    await box.open()
    with pytest.raises(FileError, match="still being counted; try again") as caught:
        await begun(box, "a", 1)
    assert caught.value.code is FileCode.UNAVAILABLE
    disk.goes_on.set()
    await box.close()


async def test_what_could_not_be_counted_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    contents, failures = StateDirectory.contents, [errno.EIO]

    def failing(box: StateDirectory, at_most: dict[str, Usage] | None = None) -> Contents:
        if failures:
            raise OSError(failures.pop(), "the disk is ill")
        return contents(box, at_most)

    monkeypatch.setattr(StateDirectory, "contents", failing)
    box = DropBox(tmp_path, ROOMY)
    await box.open()
    with pytest.raises(FileError):
        await box.counted()
    await send(box, "a", b"abc")
    assert box.books.usage(ALICE).size == 3
    assert "what a directory holds could not be counted" in caplog.text
    await box.close()


async def test_a_box_closes_soon_although_its_files_are_being_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as box:
        await asyncio.gather(*(send(box, f"{number}", b"abc") for number in range(20)))
    disk, looks = SlowDisk(monkeypatch), Looks(monkeypatch)
    box = DropBox(tmp_path, ROOMY)
    await box.open()
    while looks.lines < 20:
        await asyncio.sleep(0.001)
    looks.taken()
    closing = asyncio.create_task(box.close())
    await asyncio.sleep(0)
    disk.goes_on.set()
    await closing
    assert looks.taken() == (0, 0)
    assert not caplog.records


async def test_who_waited_for_the_count_of_a_box_that_is_closed_puts_nothing_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptors may be those of other files by then."""
    last_step, contents, counts = threading.Event(), StateDirectory.contents, 0

    def slow(box: StateDirectory, at_most: dict[str, Usage] | None = None) -> Contents:
        nonlocal counts
        found, counts = contents(box, at_most), counts + 1
        assert last_step.wait(30)
        return found

    monkeypatch.setattr(StateDirectory, "contents", slow)
    box = DropBox(tmp_path, ROOMY)
    await box.open()
    sending, keeping_house = asyncio.create_task(begun(box, "a", 1)), asyncio.create_task(box.expire())
    while not counts:
        await asyncio.sleep(0.001)
    closing = asyncio.create_task(box.close())
    await asyncio.sleep(0)
    last_step.set()
    for task in (sending, keeping_house):
        with pytest.raises(FileError, match="nothing is received at the moment"):
            await task
    await closing
    assert len(box.books.live) == 0
    with pytest.raises(FileError, match="nothing is received at the moment"):
        await box.expire()
    assert counts == 1


async def test_keeping_house_looks_at_no_file_until_many_have_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with compacting(tmp_path) as box:

        async def send_many(first: int, count: int) -> None:
            await asyncio.gather(*(send(box, f"{first + number}", b"abc") for number in range(count)))

        await box.expire()  # the first time it looks at all that is there
        await send_many(0, 5)
        looks = Looks(monkeypatch)
        await box.expire()
        assert looks.taken() == (0, 0)
        await send_many(5, 1)
        looks.taken()
        await box.expire()
        assert looks.taken() == (6, 6)
        # All of them were there: six more may come.
        await send_many(6, 6)
        looks.taken()
        await box.expire()
        assert looks.taken() == (0, 0)
        for number in range(12):
            (tmp_path / f"{number}").unlink()
        await send_many(12, 1)
        looks.taken()
        await box.expire()
        assert ledger_lines(tmp_path) == 1
        assert looks.taken() == (26, 26), "to count them, and to write those that are there"
        await box.expire()
        assert looks.taken() == (0, 0)


async def test_a_ledger_of_files_that_are_gone_gets_short_after_a_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as box:
        await asyncio.gather(*(send(box, f"{number}", b"abc") for number in range(8)))
    for number in range(7):
        (tmp_path / f"{number}").unlink()
    async with compacting(tmp_path) as box:
        assert ledger_lines(tmp_path) == 8
        await box.expire()
        assert ledger_lines(tmp_path) == 1
        assert box.books.usage(ALICE).files == 1


def ledger_lines(path: Path) -> int:
    return len((path / ".mxrtc" / "ledger.jsonl").read_bytes().splitlines())
