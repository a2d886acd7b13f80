"""One file as a byte stream, both ways."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.core.stream.messages import GIVES_ONLY
from mxrtc_bridge.sinks.files.stream_targets import open_append, open_read
from tests.sinks.conftest import LIMIT_S, Recorder
from tests.sinks.files.receive.senders import content


async def test_what_a_peer_sends_is_appended(tmp_path: Path) -> None:
    """Each byte is acknowledged, nothing comes back, and the file is private when it was made for it."""
    path = tmp_path / "log"
    for data in (content(300_000, 1), content(5, 2)):
        sink = await open_append(str(path))
        recorder = Recorder(sink)
        sink.write(data)
        await recorder.until(lambda each: each.written == len(data) and each.eofs == 1)  # noqa: B023
        sink.write_eof()
        sink.close()
        await recorder.until(lambda each: bool(each.closed))
        assert recorder.closed == [None]
        assert recorder.data == b""
    assert path.read_bytes() == content(300_000, 1) + content(5, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_reset_ends_without_waiting(tmp_path: Path) -> None:
    sink = await open_append(str(tmp_path / "log"))
    recorder = Recorder(sink)
    sink.write(b"some")
    sink.reset()
    await recorder.until(lambda each: bool(each.closed))
    assert recorder.closed == [None]


async def test_a_fifo_takes_a_stream_and_learns_its_end(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = await open_append(str(path))
    recorder = Recorder(sink)
    sink.write(b"bytes")
    sink.write_eof()
    await recorder.until(lambda each: each.written == 5)
    sink.close()
    await recorder.until(lambda each: bool(each.closed))
    assert os.read(reader, 100) == b"bytes"
    assert os.read(reader, 100) == b""
    os.close(reader)


async def test_a_fifo_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TargetError, match="nobody reads") as caught:
        await open_append(str(tmp_path / "fifo"))
    assert caught.value.failure is TargetFailure.REFUSED


async def test_a_fifo_whose_reader_goes_away_is_a_failure(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    sink = await open_append(str(tmp_path / "fifo"))
    recorder = Recorder(sink)
    os.close(reader)
    sink.write(b"lost")
    await recorder.until(lambda each: bool(each.closed))
    assert recorder.closed == ["the local side does not read any more"]


@pytest.mark.parametrize("size", [0, 1, 65_536, 300_000])
async def test_a_file_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(content(size))
    sink = await open_read(str(tmp_path / "file"))
    recorder = Recorder(sink)
    await recorder.until(lambda each: each.eofs == 1)
    sink.write_eof()
    sink.close()
    await recorder.until(lambda each: bool(each.closed))
    assert recorder.data == content(size)
    assert recorder.closed == [None]


async def test_a_paused_reader_reads_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(1_000_000))
    sink = await open_read(str(tmp_path / "file"))
    recorder = Recorder()
    recorder.on_data = lambda data: sink.pause_reading()
    sink.set_listener(recorder)
    await recorder.until(lambda each: bool(each.data))
    assert len(recorder.data) <= 65_536
    recorder.on_data = lambda data: None
    sink.resume_reading()
    await recorder.until(lambda each: each.eofs == 1)
    assert recorder.data == content(1_000_000)
    sink.reset()


async def test_a_fifo_is_read_until_its_writers_are_gone(tmp_path: Path) -> None:
    """Not before there was one: a FIFO without a writer has not ended."""
    os.mkfifo(tmp_path / "fifo")
    sink = await open_read(str(tmp_path / "fifo"))
    recorder = Recorder(sink)
    for _ in range(20):
        await asyncio.sleep(0)
    assert recorder.eofs == 0
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.write(writer, b"late")
    os.close(writer)
    async with asyncio.timeout(LIMIT_S):
        await recorder.until(lambda each: each.eofs == 1)
    assert recorder.data == b"late"
    sink.reset()


async def test_bytes_for_a_file_that_is_only_read_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content(1_000_000))
    sink = await open_read(str(tmp_path / "file"))
    recorder = Recorder(sink)
    sink.write(b"x")
    await recorder.until(lambda each: bool(each.closed))
    assert recorder.written == 0
    assert recorder.closed[0] is not None


@pytest.mark.parametrize("name", ["none/file", "folder", "/dev/null"])
async def test_what_is_no_file_is_refused_without_its_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for open_it in (open_append, open_read):
        with pytest.raises(TargetError) as caught:
            await open_it(str(tmp_path / name))
        assert name not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


async def test_descriptors_are_closed_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    for open_it in (open_append, open_read):
        sink = await open_it(str(tmp_path / "file"))
        recorder = Recorder(sink)
        await recorder.until(lambda each: each.eofs == 1)
        sink.close()
        await recorder.until(lambda each: bool(each.closed))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_who_writes_to_what_gives_only_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sink = await open_read(str(tmp_path / "file"))
    recorder = Recorder(sink)
    sink.write(b"for nobody")
    await recorder.until(lambda each: bool(each.closed))
    assert recorder.closed == [GIVES_ONLY]
