"""What has come of a large file is made durable beside the bytes that come, and before the file has its name."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.sinks.files.receive.incoming_file import SYNC_EVERY_BYTES, IncomingFile
from mxrtc_bridge.sinks.files.threads import FileThreads
from tests.sinks.files.receive.senders import begun, files_in, opened, partials_in, sha256, write
from tests.waiting import turns, until

ZEROS = bytes(2 * SYNC_EVERY_BYTES + CHUNK_BYTES + 1)
"""They take no room on the disk."""
TIMEOUT_S = 30.0
HELD_S = 8.0
"""Longer than any test here needs."""


class SlowDisk:
    """Holds the syncs of partial files until they are let go, and notes what else a thread is asked for then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers = asyncio.Event()
        self.failure: OSError | None = None
        self.syncing = 0
        self.seen: list[str] = []
        run = FileThreads.run
        ends = {"PartialFile.discard": "discard", "Committer._publish.<locals>.<lambda>": "publish"}

        async def held(threads: FileThreads, job: Callable[[], Any], **options: bool) -> Any:
            name = job.__qualname__
            if name in ends:
                self.seen.append(ends[name])
            if name != "PartialFile.sync":
                return await run(threads, job, **options)
            self.syncing += 1
            self.seen.append(f"sync {self.syncing}")
            with contextlib.suppress(TimeoutError):  # so that a test that has failed can close its box
                async with asyncio.timeout(HELD_S):
                    await self.answers.wait()
            self.syncing -= 1
            if (failure := self.failure) is not None:
                return await run(threads, lambda: _raise(failure), **options)
            self.seen.append("synced")
            return await run(threads, job, **options)

        monkeypatch.setattr(FileThreads, "run", held)


def _raise(error: OSError) -> None:
    raise error


@pytest.fixture
async def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


async def written(reception: IncomingFile, upto: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        reception.offset = await _written(reception, upto)


async def _written(reception: IncomingFile, upto: int) -> int:
    await write(reception, ZEROS, upto=upto, piece=CHUNK_BYTES)
    return upto


async def test_bytes_come_while_those_before_are_made_durable(tmp_path: Path, disk: SlowDisk) -> None:
    async with opened(tmp_path) as box:
        reception = await begun(box, "image", len(ZEROS))
        await written(reception, SYNC_EVERY_BYTES)
        await until(lambda: disk.seen == ["sync 1"])
        await written(reception, 2 * SYNC_EVERY_BYTES - CHUNK_BYTES)
        assert disk.seen == ["sync 1"]
        disk.answers.set()
        await written(reception, len(ZEROS))
        await reception.publish(sha256(ZEROS))
    assert disk.seen == [*["sync 1", "synced"] * 2, "publish"]
    assert files_in(tmp_path) == {"image": ZEROS}


async def test_one_sync_runs_at_a_time_and_holds_up_the_next(tmp_path: Path, disk: SlowDisk) -> None:
    """So a power failure costs twice what is made durable at a time, however slow the disk is."""
    async with opened(tmp_path) as box:
        reception = await begun(box, "image", len(ZEROS))
        await written(reception, 2 * SYNC_EVERY_BYTES - CHUNK_BYTES)
        (digests,) = tmp_path.glob(".mxrtc/partial/*.map")
        size = digests.stat().st_size
        going_on = asyncio.create_task(written(reception, 2 * SYNC_EVERY_BYTES + CHUNK_BYTES))
        await until(lambda: digests.stat().st_size > size)
        await turns()
        assert disk.seen == ["sync 1"]
        disk.answers.set()
        await going_on
        await reception.suspend()
    # The last one is what suspending makes durable.
    assert disk.seen == ["sync 1", "synced"] * 3


@pytest.mark.parametrize(
    ("end", "expected"), [("publish", ["publish"]), ("suspend", ["sync 1", "synced"]), ("discard", ["discard"])]
)
async def test_file_ends_when_its_sync_has(tmp_path: Path, disk: SlowDisk, end: str, expected: list[str]) -> None:
    """Nobody closes a file that a thread has the disk write."""
    whole = ZEROS[: SYNC_EVERY_BYTES + 1]
    ends: dict[str, Callable[[IncomingFile], Any]] = {
        "publish": lambda reception: reception.publish(sha256(whole)),
        "suspend": IncomingFile.suspend,
        "discard": IncomingFile.discard,
    }
    async with opened(tmp_path) as box:
        reception = await begun(box, "image", len(whole))
        await write(reception, whole, piece=CHUNK_BYTES)
        await until(lambda: disk.seen == ["sync 1"])
        ending = asyncio.ensure_future(ends[end](reception))
        await turns()
        assert disk.seen == ["sync 1"]
        disk.answers.set()
        await ending
    assert disk.seen == ["sync 1", "synced", *expected]
    assert files_in(tmp_path) == ({"image": whole} if end == "publish" else {})
    assert partials_in(tmp_path) == ([".map", ".part"] if end == "suspend" else [])


async def test_file_fails_when_the_disk_has_not_taken_what_came_before(tmp_path: Path, disk: SlowDisk) -> None:
    """The system tells of a bad write once: whoever asks again hears that all is well."""
    async with opened(tmp_path) as box:
        reception = await begun(box, "image", len(ZEROS))
        await written(reception, SYNC_EVERY_BYTES)
        disk.failure = OSError(errno.EIO, "a bad block")
        disk.answers.set()
        await until(lambda: disk.syncing == 0)
        with pytest.raises(FileError) as caught:
            await reception.publish(sha256(ZEROS))
        assert caught.value.code is FileCode.IO
        with pytest.raises(FileError):
            await reception.write(b"more")
        disk.failure = None
        await reception.suspend()
    assert files_in(tmp_path) == {}
