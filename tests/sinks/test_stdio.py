"""Standard input and output as a sink, whatever they are."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import pty
import socket
import sys
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.sinks.stdio import StdioSink
from tests.sinks.conftest import LIMIT_S, Recorder


class Descriptors:
    """Opens descriptors and closes what is left of them."""

    def __init__(self) -> None:
        self._all: list[int] = []
        self._targets: set[str] = set()

    def keep(self, *descriptors: int) -> tuple[int, ...]:
        self._all += descriptors
        self._targets |= {os.readlink(f"/proc/self/fd/{each}") for each in descriptors}
        return descriptors

    def pipe(self) -> tuple[int, ...]:
        return self.keep(*os.pipe())

    def open(self, path: Path | str, flags: int) -> int:
        return self.keep(os.open(path, flags, 0o600))[0]

    def pty(self) -> tuple[int, ...]:
        master, slave = pty.openpty()
        tty.setraw(slave)
        return self.keep(master, slave)

    def close(self, descriptor: int) -> None:
        self._all.remove(descriptor)
        os.close(descriptor)

    def close_all(self) -> None:
        for descriptor in self._all:
            os.close(descriptor)

    async def freed(self) -> None:
        """Return when none but ours is open."""
        while len(self._open_ones()) > sum(os.readlink(f"/proc/self/fd/{each}") != os.devnull for each in self._all):
            await asyncio.sleep(0)

    def still_open(self) -> list[str]:
        """Where descriptors lead that are open although all of ours are closed."""
        return self._open_ones()

    def _open_ones(self) -> list[str]:
        left: list[str] = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                left.append(os.readlink(f"/proc/self/fd/{name}"))
        return [target for target in left if target in self._targets - {os.devnull}]


@pytest.fixture
def fds() -> Iterator[Descriptors]:
    descriptors = Descriptors()
    yield descriptors
    descriptors.close_all()
    assert descriptors.still_open() == [], "the sink has closed its private descriptors"


def blocks(descriptor: int) -> bool:
    return not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK


async def read_all(descriptor: int) -> bytes:
    """Read a pipe to its end."""
    os.set_blocking(descriptor, False)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    data = bytearray()

    def readable() -> None:
        piece = os.read(descriptor, 1 << 16)
        data.extend(piece)
        if not piece:
            loop.remove_reader(descriptor)
            ended.set_result(None)

    loop.add_reader(descriptor, readable)
    await asyncio.wait_for(ended, LIMIT_S)
    return bytes(data)


async def closed(sink: StdioSink, recorder: Recorder) -> None:
    sink.close()
    await recorder.until(lambda r: r.closed == [None])


async def test_pipes_carry_bytes_and_ends_both_ways(fds: Descriptors) -> None:
    stdin, feed = fds.pipe()
    out, stdout = fds.pipe()
    sink = StdioSink(stdin, stdout)
    recorder = Recorder(sink)
    os.write(feed, b"question")
    fds.close(feed)
    await recorder.until(lambda r: r.eofs == 1)
    assert recorder.data == b"question"
    sink.write(b"answer")
    sink.write_eof()
    assert await read_all(out) == b"answer"
    assert recorder.written == 6
    await closed(sink, recorder)
    assert blocks(stdin)


async def test_output_may_end_while_input_goes_on(fds: Descriptors) -> None:
    stdin, feed = fds.pipe()
    out, stdout = fds.pipe()
    sink = StdioSink(stdin, stdout)
    recorder = Recorder(sink)
    sink.write_eof()
    assert await read_all(out) == b""
    os.write(stdout, b"a late print harms nobody")
    os.write(feed, b"more")
    await recorder.until(lambda r: r.data == b"more")
    await closed(sink, recorder)


@pytest.mark.posix
async def test_stalled_pipe_takes_no_more_than_its_capacity(fds: Descriptors) -> None:
    stdin, _ = fds.pipe()
    out, stdout = fds.pipe()
    capacity = fcntl.fcntl(stdout, fcntl.F_GETPIPE_SZ)
    sink = StdioSink(stdin, stdout)
    recorder = Recorder(sink)
    total = 4 * 1024 * 1024
    sink.write(bytes(total))
    await recorder.until(lambda r: r.written > 0)
    assert recorder.written <= capacity
    sink.close()
    assert len(await read_all(out)) == total
    await recorder.until(lambda r: r.closed == [None])
    assert recorder.written == total
    assert blocks(stdout)


@pytest.mark.posix
async def test_closed_output_pipe_ends_the_sink_with_an_error(fds: Descriptors) -> None:
    stdin, _ = fds.pipe()
    out, stdout = fds.pipe()
    sink = StdioSink(stdin, stdout)
    recorder = Recorder(sink)
    fds.close(out)
    sink.write(b"nobody reads")
    await recorder.until(lambda r: bool(r.closed))
    assert recorder.closed == ["the local side does not read any more"]


@pytest.mark.posix
async def test_output_pipe_that_was_closed_before_is_noticed_by_writing(fds: Descriptors) -> None:
    stdin, _ = fds.pipe()
    out, stdout = fds.pipe()
    fds.close(out)
    sink = StdioSink(stdin, stdout)
    recorder = Recorder(sink)
    sink.write(b"nobody reads")
    await recorder.until(lambda r: bool(r.closed))
    assert recorder.closed == ["the local side does not read any more"]
    assert blocks(stdout)


async def test_reset_ends_the_output_at_once_and_drops_what_was_not_written(fds: Descriptors) -> None:
    stdin, _ = fds.pipe()
    out, stdout = fds.pipe()
    sink = StdioSink(stdin, stdout)
    recorder = Recorder(sink)
    sink.write(bytes(4 * 1024 * 1024))
    sink.reset()
    await recorder.until(lambda r: r.closed == [None])
    assert len(await read_all(out)) < 4 * 1024 * 1024


async def test_files_are_read_and_written_whole(fds: Descriptors, tmp_path: Path) -> None:
    content = os.urandom(1_000_003)
    (tmp_path / "in").write_bytes(content)
    stdin = fds.open(tmp_path / "in", os.O_RDONLY)
    stdout = fds.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    sink = StdioSink(stdin, stdout)
    recorder = Recorder()
    recorder.on_data = sink.write
    sink.set_listener(recorder)
    await recorder.until(lambda r: r.eofs == 1)
    await closed(sink, recorder)
    assert recorder.written == len(content)
    assert (tmp_path / "out").read_bytes() == content


async def test_file_is_not_read_ahead_while_paused(fds: Descriptors, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(1_000_000))
    stdin = fds.open(tmp_path / "in", os.O_RDONLY)
    sink = StdioSink(stdin, fds.open(os.devnull, os.O_WRONLY))
    recorder = Recorder()
    recorder.on_data = lambda data: sink.pause_reading()
    sink.set_listener(recorder)
    await recorder.until(lambda r: len(r.data) == 65536)
    sink.write(b"x")
    await recorder.until(lambda r: r.written == 1)
    assert len(recorder.data) == 65536
    assert os.lseek(stdin, 0, os.SEEK_CUR) <= 2 * 65536
    recorder.on_data = lambda data: None
    sink.resume_reading()
    await recorder.until(lambda r: r.eofs == 1)
    assert len(recorder.data) == 1_000_000
    await closed(sink, recorder)


async def test_piece_of_a_file_that_was_under_way_waits_when_reading_is_paused(
    fds: Descriptors, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(b"whole")
    sink = StdioSink(fds.open(tmp_path / "in", os.O_RDONLY), fds.open(os.devnull, os.O_WRONLY))
    recorder = Recorder(sink)
    await asyncio.sleep(0)
    sink.pause_reading()
    for _ in range(3):
        written = recorder.written
        sink.write(b"x")
        await recorder.until(lambda r, before=written: r.written > before)  # type: ignore[misc]
    assert not recorder.data
    sink.resume_reading()
    await recorder.until(lambda r: r.eofs == 1)
    assert recorder.data == b"whole"
    await closed(sink, recorder)


async def test_pause_and_resume_lose_nothing_of_a_file(fds: Descriptors, tmp_path: Path) -> None:
    content = os.urandom(500_000)
    (tmp_path / "in").write_bytes(content)
    sink = StdioSink(fds.open(tmp_path / "in", os.O_RDONLY), fds.open(os.devnull, os.O_WRONLY))
    recorder = Recorder()
    loop = asyncio.get_running_loop()

    def hesitate(data: bytes) -> None:
        sink.pause_reading()
        sink.resume_reading()
        sink.pause_reading()
        loop.call_soon(sink.resume_reading)

    recorder.on_data = hesitate
    sink.set_listener(recorder)
    await recorder.until(lambda r: r.eofs == 1)
    assert recorder.data == content
    await closed(sink, recorder)


async def test_dev_null_is_at_its_end_and_takes_everything(fds: Descriptors) -> None:
    sink = StdioSink(fds.open(os.devnull, os.O_RDONLY), fds.open(os.devnull, os.O_WRONLY))
    recorder = Recorder(sink)
    await recorder.until(lambda r: r.eofs == 1)
    sink.write(bytes(1_000_000))
    await closed(sink, recorder)
    assert recorder.written == 1_000_000


async def test_file_that_cannot_be_written_is_an_error(fds: Descriptors) -> None:
    sink = StdioSink(fds.open(os.devnull, os.O_RDONLY), fds.open("/dev/full", os.O_WRONLY))
    recorder = Recorder(sink)
    sink.write(b"x")
    await recorder.until(lambda r: bool(r.closed))
    assert recorder.closed == ["the disk is full"]


async def test_reset_during_a_read_of_a_file_frees_its_descriptor(fds: Descriptors, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(1_000_000))
    sink = StdioSink(fds.open(tmp_path / "in", os.O_RDONLY), fds.open(os.devnull, os.O_WRONLY))
    recorder = Recorder(sink)
    await asyncio.sleep(0)
    sink.write(b"x")
    sink.reset()
    await recorder.until(lambda r: r.closed == [None])
    # The thread finishes the operation that was under way; then the descriptor goes.
    await fds.freed()


async def test_terminal_works_and_stays_blocking_for_everybody_else(fds: Descriptors) -> None:
    master, slave = fds.pty()
    sink = StdioSink(slave, slave)
    recorder = Recorder(sink)
    os.write(master, b"typed\r")
    await recorder.until(lambda r: len(r.data) >= 6)
    assert recorder.data == b"typed\r"
    sink.write(b"shown")
    await recorder.until(lambda r: r.written == 5)
    assert os.read(master, 100) == b"shown"
    assert blocks(slave), "a shell would be disturbed by a terminal that does not block"
    await closed(sink, recorder)


async def test_one_socket_may_be_both(fds: Descriptors) -> None:
    mine, peer = socket.socketpair()
    descriptor = fds.keep(mine.detach())[0]
    with peer:
        sink = StdioSink(descriptor, descriptor)
        recorder = Recorder(sink)
        peer.sendall(b"in")
        await recorder.until(lambda r: r.data == b"in")
        sink.write(b"out")
        sink.write_eof()
        await recorder.until(lambda r: r.written == 3)
        assert peer.recv(100) == b"out"
        peer.setblocking(False)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 100), LIMIT_S) == b""
        peer.sendall(b"late")
        await recorder.until(lambda r: r.data == b"inlate")
        await closed(sink, recorder)
        assert blocks(descriptor)


@pytest.mark.posix
async def test_flags_are_put_back_where_opening_anew_is_not_possible(
    fds: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mxrtc_bridge.sinks.stdio._Handle._open_anew", lambda self, access: -1)
    master, slave = fds.pty()
    sink = StdioSink(slave, slave)
    recorder = Recorder(sink)
    assert not blocks(slave)
    os.write(master, b"x")
    await recorder.until(lambda r: r.data == b"x")
    await closed(sink, recorder)
    assert blocks(slave)


async def test_closed_standard_descriptors_are_a_clear_error(fds: Descriptors) -> None:
    reading, writing = fds.pipe()
    unused = 1_000_000
    with pytest.raises(LocalError, match=r"standard input cannot be used \(Bad file descriptor\)"):
        StdioSink(unused, writing)
    with pytest.raises(LocalError, match="standard output cannot be used"):
        StdioSink(reading, unused)


_ECHO = """
import asyncio, sys
from mxrtc_bridge.sinks.stdio import StdioSink

class Echo:
    def __init__(self, sink):
        self.sink, self.waiting, self.done = sink, 0, asyncio.Event()
    def data_received(self, data):
        self.waiting += len(data)
        if self.waiting > 262144:
            self.sink.pause_reading()
        self.sink.write(data)
    def eof_received(self):
        self.sink.close()
    def bytes_written(self, size):
        self.waiting -= size
        self.sink.resume_reading()
    def sink_closed(self, error):
        print(error, file=sys.stderr)
        self.done.set()

async def main():
    sink = StdioSink()
    echo = Echo(sink)
    sink.set_listener(echo)
    await echo.done.wait()

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.programs
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("source", ["pipe", "file"])
def test_program_passes_16_mib_through_its_standard_streams(loop: str, source: str, tmp_path: Path) -> None:
    import subprocess

    content = os.urandom(1 << 20) * 16
    (tmp_path / "in").write_bytes(content)
    command = [sys.executable, "-W", "error", "-c", _ECHO, loop]
    with contextlib.ExitStack() as stack:
        if source == "file":
            stdin = stack.enter_context((tmp_path / "in").open("rb"))
            stdout = stack.enter_context((tmp_path / "out").open("wb"))
            done = subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
            out = (tmp_path / "out").read_bytes()
        else:
            done = subprocess.run(command, input=content, capture_output=True, timeout=60, check=False)
            out = done.stdout
    assert (done.stderr.decode(), done.returncode) == ("None\n", 0)
    assert hashlib.sha256(out).digest() == hashlib.sha256(content).digest()


@pytest.mark.programs
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_program_ends_when_its_output_pipe_is_closed(loop: str) -> None:
    import subprocess

    command = [sys.executable, "-W", "error", "-c", _ECHO, loop]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stderr.read().decode() == "the local side does not read any more\n"
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize("holds", [False, True])
async def test_after_a_reset_the_output_ends_at_once_or_when_all_is_said(fds: Descriptors, holds: bool) -> None:
    ours, theirs = fds.pipe(), fds.pipe()
    sink = StdioSink(ours[0], theirs[1], holds_output=holds)
    recorder = Recorder(sink)
    os.set_blocking(theirs[0], False)
    sink.reset()
    await recorder.until(lambda r: bool(r.closed))
    if holds:
        with pytest.raises(BlockingIOError):
            os.read(theirs[0], 1)
        sink.end_output()
        sink.end_output()
    assert os.read(theirs[0], 1) == b""
