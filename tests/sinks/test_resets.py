"""A reset is noticed whenever it comes, on both loops, and a process that dies leaves resets and no orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mxrtc_bridge.sinks.sockets import KEEPALIVE_S, SocketSink
from tests.long import examples
from tests.sinks.conftest import Pair, Recorder, tcp_pair
from tests.waiting import turns

MakePair = Callable[[], Pair]
RESET = "the connection was reset by the local side"
UNREAD = "the local side does not read any more"
ROUNDS = examples(60)


def reset(peer: socket.socket) -> None:
    """Close as a program that was killed in the middle may, or one that leaves bytes unread."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def fill(peer: socket.socket, size: int) -> None:
    async with asyncio.timeout(10):
        await asyncio.get_running_loop().sock_sendall(peer, bytes(size))


@pytest.mark.parametrize("size", [0, 1, 5, 65536, 65537, 131072, 300_000])
async def test_a_reset_that_comes_with_the_last_bytes_is_noticed(size: int) -> None:
    for _ in range(ROUNDS):
        pair = Pair(tcp_pair())
        recorder = pair.listen()
        await fill(pair.peer, size)
        reset(pair.peer)
        await recorder.until(lambda r: bool(r.closed))
        assert recorder.closed == [RESET]
        assert recorder.eofs == 0
        assert len(recorder.data) <= size


@pytest.mark.parametrize("size", [1, 65536, 200_000])
async def test_it_is_noticed_by_who_pauses_and_goes_on_from_within_a_call(size: int) -> None:
    for number in range(ROUNDS):
        pair = Pair(tcp_pair())
        sink = pair.sink

        def at_once(_data: bytes, sink: SocketSink = sink) -> None:
            sink.pause_reading()
            sink.resume_reading()

        def soon(_data: bytes, sink: SocketSink = sink) -> None:
            sink.pause_reading()
            asyncio.get_running_loop().call_soon(sink.resume_reading)

        pair.recorder.on_data = soon if number % 2 else at_once
        recorder = pair.listen()
        await fill(pair.peer, size)
        reset(pair.peer)
        await recorder.until(lambda r: bool(r.closed))
        assert recorder.closed == [RESET]


@pytest.mark.parametrize("size", [0, 1, 70_000])
async def test_it_is_no_end_in_order_if_a_write_has_met_it_before(size: int) -> None:
    for _ in range(ROUNDS):
        first, pair = Pair(tcp_pair()), Pair(tcp_pair())
        recorder = pair.listen()
        await fill(pair.peer, size)
        await recorder.until(lambda r, size=size: len(r.data) == size)
        # Both are ready in the same turn of the loop, and the write comes first.
        first.recorder.on_data = pair.sink.write
        first.listen()
        first.peer.send(b"meets it")
        reset(pair.peer)
        await recorder.until(lambda r: bool(r.closed))
        assert recorder.eofs == 0
        assert recorder.closed in ([RESET], [UNREAD])
        first.sink.reset()
        first.peer.close()


async def test_it_is_noticed_while_both_directions_are_busy() -> None:
    for _ in range(ROUNDS):
        pair = Pair(tcp_pair())
        recorder = pair.listen()
        for _ in range(64):
            pair.sink.write(bytes(65536))
        await fill(pair.peer, 100_000)
        reset(pair.peer)
        await recorder.until(lambda r: bool(r.closed))
        assert recorder.closed[0] in (RESET, UNREAD)


@pytest.mark.linux
async def test_it_is_noticed_after_the_other_side_has_half_closed() -> None:
    for _ in range(ROUNDS):
        pair = Pair(tcp_pair())
        recorder = pair.listen()
        pair.sink.write(b"not read")
        pair.peer.shutdown(socket.SHUT_WR)
        await recorder.until(lambda r: r.eofs == 1 and r.written == 8)
        # Closed with unread bytes: the kernel answers with a reset, without any option.
        pair.peer.close()
        await recorder.until(lambda r: r.closed == [UNREAD])


@pytest.mark.linux
async def test_a_half_closed_program_at_a_unix_socket_is_missed_when_it_is_gone() -> None:
    one, other = socket.socketpair()
    sink = SocketSink(one, gone_s=0.05)
    recorder = Recorder(sink)
    other.shutdown(socket.SHUT_WR)
    await recorder.until(lambda r: r.eofs == 1)
    other.close()
    sink.resume_reading()
    await recorder.until(lambda r: r.closed == [RESET])


@pytest.mark.parametrize("size", [0, 10, 300_000])
async def test_a_program_at_a_unix_socket_that_answers_and_is_gone_has_ended_in_order(size: int) -> None:
    for _ in range(ROUNDS):
        pair = Pair(socket.socketpair())
        recorder = pair.listen()
        pair.sink.write(b"question")
        assert await pair.receive(8) == b"question"
        await fill(pair.peer, size)
        pair.peer.close()
        await recorder.until(lambda r: r.eofs == 1)
        await turns()
        # What it has said may still be on its way, which a reset would cut off.
        assert not recorder.closed
        assert len(recorder.data) == size
        pair.sink.close()
        await recorder.until(lambda r: r.closed == [None])


@pytest.mark.linux
async def test_one_that_is_gone_while_its_words_wait_is_missed_after_them() -> None:
    one, other = socket.socketpair()
    other.setblocking(False)
    sink = SocketSink(one, gone_s=0.05)
    sink.pause_reading()
    recorder = Recorder(sink)
    await fill(other, 1000)
    other.close()
    await asyncio.sleep(0.2)
    assert not recorder.closed
    sink.resume_reading()
    await recorder.until(lambda r: r.closed == [RESET])
    assert (len(recorder.data), recorder.eofs) == (1000, 1)


async def test_the_end_of_both_directions_is_no_failure(make_pair: MakePair) -> None:
    pair = make_pair()
    recorder = pair.listen()
    pair.sink.write(b"answer")
    pair.sink.write_eof()
    assert await pair.receive_all() == b"answer"
    pair.peer.close()
    await recorder.until(lambda r: r.eofs == 1)
    pair.sink.close()
    await recorder.until(lambda r: r.closed == [None])


@pytest.mark.linux
async def test_it_is_noticed_while_reading_is_paused_and_what_is_there_can_still_be_had() -> None:
    pair = Pair(tcp_pair())
    pair.sink.pause_reading()
    recorder = pair.listen()
    await fill(pair.peer, 100_000)
    reset(pair.peer)
    pair.sink.write(b"x")
    pair.sink.resume_reading()
    await recorder.until(lambda r: bool(r.closed))
    one, other = tcp_pair()
    other.setblocking(False)
    sink = SocketSink(one, paused_reset_s=0.05)
    sink.pause_reading()
    recorder = Recorder(sink)
    await fill(other, 100_000)
    reset(other)
    await recorder.until(lambda r: r.closed == [RESET])
    assert not recorder.data


async def test_a_side_that_says_nothing_any_more_is_asked(make_pair: MakePair) -> None:
    pair = make_pair()
    if pair.mine.family == socket.AF_UNIX:
        return
    idle, pause, probes = KEEPALIVE_S
    assert pair.mine.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert pair.mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == idle
    assert idle + pause * probes <= 120


async def test_nothing_is_watched_when_all_are_gone(make_pair: MakePair) -> None:
    from mxrtc_bridge.sinks import hangups

    pairs = [make_pair() for _ in range(50)]
    for pair in pairs:
        pair.listen()
        pair.sink.reset()
    assert not hangups.watcher()._told
    assert hangups.watcher()._epoll is None


PROGRAM = """
import asyncio, socket, sys
import uvloop
from mxrtc_bridge.sinks.sockets import KEEPALIVE_S, SocketSink

class Listener:
    def data_received(self, data): pass
    def eof_received(self): pass
    def bytes_written(self, size): pass
    def sink_closed(self, error): pass

async def main():
    sinks = []
    for number, size in ((3, int(sys.argv[1])), (4, int(sys.argv[1]))):
        sink = SocketSink(socket.socket(fileno=number))
        sink.set_listener(Listener())
        if size:
            sink.write(bytes(size))
        if number == 4:
            sink.write_eof()
        sinks.append(sink)
    await asyncio.sleep(0.05)
    print("written", flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


async def killed_after_writing(
    pairs: list[tuple[socket.socket, socket.socket]], size: int, number: signal.Signals, tmp_path: Path
) -> None:
    """Write to both with a sink, end the second, and let the process die of a signal."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def as_three_and_four() -> None:
        low = [os.dup(mine.fileno()) for mine, _ in pairs]
        for number, descriptor in enumerate(low, 3):
            os.dup2(descriptor, number, inheritable=True)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), str(size)),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=as_three_and_four,
        close_fds=False,
    )
    for mine, _ in pairs:
        mine.close()
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"written\n"
    process.send_signal(number)
    await process.wait()


@pytest.mark.programs
@pytest.mark.parametrize("size", [0, 1000, 10_000_000])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_process_that_dies_leaves_a_reset(size: int, number: signal.Signals, tmp_path: Path) -> None:
    pairs = [tcp_pair(), tcp_pair()]
    await killed_after_writing(pairs, size, number, tmp_path)
    (_, busy), (_, half_closed) = pairs
    assert read_to_the_end(busy, size) == "reset"
    # It has said its end, unless that waits behind more than the system holds: whoever has read all of it knows all,
    # and whoever answers learns that nobody reads.
    assert read_to_the_end(half_closed, size) == ("end" if size <= 1000 else "reset")


@pytest.mark.programs
async def test_what_was_ended_arrives_also_when_the_process_is_gone_before_it_was_read(tmp_path: Path) -> None:
    pairs = []
    for _ in range(2):
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            server.bind(("127.0.0.1", 0))
            server.listen()
            mine = socket.create_connection(server.getsockname())
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
            pairs.append((mine, server.accept()[0]))
    await killed_after_writing(pairs, 100_000, signal.SIGKILL, tmp_path)
    (_, busy), (_, ended) = pairs
    assert read_to_the_end(busy, 100_000) == "reset"
    # The system has all of it, with its end, and whoever has sent it was told so.
    assert read_to_the_end(ended, 100_000) == "end"


DIES_CONNECTED = """
import asyncio, os, signal, sys
from mxrtc_bridge.core.access.targets import TcpTarget
from mxrtc_bridge.sinks.connect import connect_socket

class Loop(asyncio.SelectorEventLoop):
    async def sock_connect(self, sock, address):
        await super().sock_connect(sock, address)
        os.kill(os.getpid(), signal.SIGKILL)

with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(connect_socket(TcpTarget("127.0.0.1", int(sys.argv[1]))))
"""
DIES_ACCEPTING = """
import asyncio, os, signal, socket

class Dying(socket.socket):
    def accept(self):
        accepted = super().accept()
        os.kill(os.getpid(), signal.SIGKILL)

socket.socket = Dying
from mxrtc_bridge.sinks.listen import Listener

async def main():
    listener = await Listener.open_tcp("127.0.0.1", 0, print)
    print(listener.port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.programs
async def test_a_process_that_dies_as_soon_as_it_is_connected_leaves_a_reset(tmp_path: Path) -> None:
    """Before anything was said: a service must not take that for an empty stream."""
    program = tmp_path / "program.py"
    program.write_text(DIES_CONNECTED)
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = await asyncio.create_subprocess_exec(sys.executable, str(program), str(server.getsockname()[1]))
        assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
        peer, _ = server.accept()
    assert read_to_the_end(peer, 0) == "reset"


@pytest.mark.programs
async def test_a_process_that_dies_as_soon_as_it_has_accepted_leaves_a_reset(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(DIES_ACCEPTING)
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    port = int(await asyncio.wait_for(process.stdout.readline(), 20))
    peer = socket.create_connection(("127.0.0.1", port))
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
    assert read_to_the_end(peer, 0) == "reset"


def read_to_the_end(peer: socket.socket, size: int) -> str:
    with peer:
        peer.settimeout(10)
        count = 0
        try:
            while data := peer.recv(65536):
                count += len(data)
        except ConnectionResetError:
            return "reset"
        return "end" if count == size else "cut"
