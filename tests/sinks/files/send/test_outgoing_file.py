"""Files that grow, shrink and lie about their size: what is read of them is what was announced, or nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileEntry, FileError
from mxrtc_bridge.sinks.files.send.outgoing_file import OutgoingFile
from mxrtc_bridge.sinks.files.user_paths import Sources
from tests.sinks.files.receive.senders import content, sha256

MIB = 1 << 20
SYSFS = Path("/sys/devices/system/cpu/possible")
PROCFS = Path("/proc/cpuinfo")


@contextmanager
def named(*paths: Path) -> Iterator[Sources]:
    sources = Sources([str(path) for path in paths])
    try:
        yield sources
    finally:
        sources.close()


async def entries_of(sources: Sources) -> list[FileEntry]:
    await sources.open()
    return [each for each in await sources.walk().next(100) if isinstance(each, FileEntry)]


async def read_all(source: OutgoingFile, size: int = 300_000) -> bytes:
    data = bytearray()
    try:
        while not source.at_end:
            data += await source.read(size)
    finally:
        await source.close()
    return bytes(data)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("size", [0, 1, MIB, 2 * CHUNK_BYTES + 5])
@pytest.mark.parametrize("offset", [0, CHUNK_BYTES])
async def test_a_growing_file_is_read_up_to_the_length_that_it_had(tmp_path: Path, size: int, offset: int) -> None:
    """Whenever it grows: before it is opened, while it is read, behind its last byte."""
    path, data = tmp_path / "log", content(size)
    path.write_bytes(data)
    offset = min(offset, size)
    with named(path) as sources:
        (entry,) = await entries_of(sources)
        append(path, b"before")
        source = await sources.open_file(entry, offset)
        append(path, b"while")
        got = bytearray()
        while not source.at_end:
            got += await source.read(100_000)
            append(path, b"and again")
        assert bytes(got) == data[offset:]
        assert source.digest() == sha256(data)
        assert source.grown_to > size
        await source.close()


async def test_a_file_that_stays_as_it_is_has_not_grown(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(MIB + 1))
    with named(tmp_path / "file") as sources:
        (entry,) = await entries_of(sources)
        source = await sources.open_file(entry)
        await read_all(source)
        assert source.grown_to == 0


@pytest.mark.parametrize("place", [0, MIB, 3 * MIB - 2])
@pytest.mark.parametrize("offset", [0, 2 * MIB])
async def test_growth_does_not_hide_what_was_rewritten(tmp_path: Path, place: int, offset: int) -> None:
    """What was read already is another now, and the size alone would say that something was appended."""
    path = tmp_path / "data"
    path.write_bytes(content(3 * MIB))
    with named(path) as sources:
        (entry,) = await entries_of(sources)
        source = await sources.open_file(entry, offset)
        while source.offset < 3 * MIB - 1:
            await source.read(min(MIB, 3 * MIB - 1 - source.offset))
        write_at(path, place, b"!!")
        append(path, b"more")
        with pytest.raises(FileError) as caught:
            await read_all(source)
        assert caught.value.code is FileCode.CHANGED


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_appended_and_rewritten_what_passes_is_one_state_of_the_file(
    tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    path, state = tmp_path / "data", bytearray(content(2 * MIB, seed))
    path.write_bytes(state)
    states = {bytes(state)}
    with named(path) as sources:
        (entry,) = await entries_of(sources)
        source = await sources.open_file(entry)
        data, failure = bytearray(), None
        while failure is None and not source.at_end:
            if draw.random() < 0.3:
                append(path, b"x" * draw.randrange(1, 1000))
            if draw.random() < 0.1:
                place = draw.randrange(2 * MIB)
                state[place] ^= 1
                write_at(path, place, bytes([state[place]]))
                states.add(bytes(state))
            try:
                data += await source.read(draw.randrange(1, MIB))
            except FileError as error:
                failure = error.code
        if failure is None:
            assert bytes(data) in states
            assert source.digest() == sha256(bytes(data))
        assert failure in {None, FileCode.CHANGED}
        await source.close()


def _shrink(path: Path) -> None:
    os.truncate(path, 10)


def _rewrite(path: Path) -> None:
    write_at(path, 5, b"another")


def _rotate(path: Path) -> None:
    """As logrotate does it with ``copytruncate``, and the program goes on."""
    os.truncate(path, 0)
    append(path, content(4 * MIB, 9))


def _replace(path: Path) -> None:
    path.with_name("new").write_bytes(content(4 * MIB, 2))
    path.with_name("new").rename(path)


@pytest.mark.parametrize("change", [_shrink, _rewrite, _rotate])
async def test_a_file_that_shrinks_or_is_rewritten_has_changed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(2 * MIB))
    with named(path) as sources:
        (entry,) = await entries_of(sources)
        source = await sources.open_file(entry)
        await source.read(MIB)
        change(path)
        with pytest.raises(FileError) as caught:
            await read_all(source)
        assert caught.value.code is FileCode.CHANGED


async def test_a_larger_file_in_the_place_of_the_announced_one_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(2 * MIB))
    with named(path) as sources:
        (entry,) = await entries_of(sources)
        _replace(path)
        with pytest.raises(FileError) as caught:
            await sources.open_file(entry)
        assert caught.value.code is FileCode.CHANGED


async def test_an_attribute_of_sysfs_that_is_shorter_than_its_size_fails() -> None:
    with named(SYSFS) as sources:
        (entry,) = await entries_of(sources)
        assert entry.size > len(SYSFS.read_bytes())
        source = await sources.open_file(entry)
        with pytest.raises(FileError, match="its size says") as caught:
            await read_all(source)
        assert caught.value.code is FileCode.IO
        # Nor does it help to have all of it already.
        with pytest.raises(FileError, match="its size says"):
            await sources.open_file(entry, entry.size)


async def test_a_file_of_procfs_that_has_more_than_its_size_is_refused_with_the_remedy() -> None:
    assert PROCFS.stat().st_size == 0
    with named(PROCFS) as sources:
        (entry,) = await entries_of(sources)
        with pytest.raises(FileError, match="mxrtc send -") as caught:
            await sources.open_file(entry)
        assert caught.value.code is FileCode.IO


async def test_a_whole_directory_of_lying_files_costs_them_alone(tmp_path: Path) -> None:
    """Each file of ``/proc/sys/net`` is refused or empty by itself; none ends the rest, and none is read for ever."""
    with named(Path("/proc/sys/net/core")) as sources:
        refused = 0
        for entry in await entries_of(sources):
            if entry.version:
                try:
                    assert await read_all(await sources.open_file(entry)) == b""
                except FileError:
                    refused += 1
        assert refused > 3
