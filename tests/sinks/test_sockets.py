"""Sockets as sinks: order, half-closes, resets, pressure; on asyncio and uvloop, TCP and unix."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Callable

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.sinks.sockets import SocketSink
from tests.sinks.conftest import Pair, Recorder, tcp_pair
from tests.waiting import turns

MakePair = Callable[..., Pair]


async def test_sink_delivers_what_the_peer_sends_and_its_end(make_pair: MakePair) -> None:
    pair = make_pair()
    recorder = pair.listen()
    await pair.send(b"hello")
    pair.peer.shutdown(socket.SHUT_WR)
    await recorder.until(lambda r: r.eofs == 1)
    assert recorder.data == b"hello"
    assert recorder.closed == []


async def test_sink_still_writes_after_the_peer_has_ended(make_pair: MakePair) -> None:
    pair = make_pair()
    recorder = pair.listen()
    pair.peer.shutdown(socket.SHUT_WR)
    await recorder.until(lambda r: r.eofs == 1)
    pair.sink.write(b"the rest")
    pair.sink.write_eof()
    assert await pair.receive_all() == b"the rest"
    await recorder.until(lambda r: r.written == 8)
    assert recorder.closed == [], "both directions have ended, but the end is the owner's"
    pair.sink.close()
    await recorder.until(lambda r: r.closed == [None])


async def test_sink_still_reads_after_its_own_end(make_pair: MakePair) -> None:
    pair = make_pair()
    recorder = pair.listen()
    pair.sink.write_eof()
    pair.sink.write_eof()
    assert await pair.receive() == b""
    await pair.send(b"late answer")
    await recorder.until(lambda r: r.data == b"late answer")


async def test_sink_reads_nothing_before_it_has_a_listener(make_pair: MakePair) -> None:
    pair = make_pair()
    await pair.send(b"early")
    pair.sink.write(b"early too")
    assert await pair.receive() == b"early too"
    assert bytes(pair.mine.recv(100, socket.MSG_PEEK)) == b"early"
    recorder = pair.listen()
    await recorder.until(lambda r: r.data == b"early" and r.written == 9)


async def test_sink_refuses_a_second_listener(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.listen()
    with pytest.raises(StateError):
        pair.sink.set_listener(Recorder())


async def test_sink_delivers_nothing_while_reading_is_paused(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.sink.pause_reading()
    recorder = pair.listen()
    await pair.send(b"one")
    pair.sink.write(b"x")
    await recorder.until(lambda r: r.written == 1)
    assert not recorder.data
    pair.sink.resume_reading()
    await recorder.until(lambda r: r.data == b"one")


async def test_sink_stops_in_the_middle_when_paused_from_a_callback(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.recorder.on_data = lambda data: pair.sink.pause_reading()
    recorder = pair.listen()
    await pair.send(bytes(100_000))
    await recorder.until(lambda r: len(r.data) > 0)
    taken = len(recorder.data)
    pair.sink.write(b"x")
    await recorder.until(lambda r: r.written == 1)
    assert len(recorder.data) == taken
    assert taken <= 65536


async def test_sink_never_calls_its_listener_from_within_a_call(make_pair: MakePair) -> None:
    pair = make_pair()
    recorder = pair.listen()
    pair.sink.write(b"abc")
    assert recorder.written == 0
    pair.sink.reset()
    assert recorder.closed == []
    await recorder.until(lambda r: r.closed == [None])


async def settled(recorder: Recorder) -> int:
    """Return what was written when nothing more is while another pair of the same loop has many turns."""
    other, written = Pair(socket.socketpair()), -1
    said = other.listen()
    while written != recorder.written:
        written = recorder.written
        for _ in range(20):
            size = len(said.data) + 1
            await other.send(b"x")
            await said.until(lambda r, size=size: len(r.data) == size)  # type: ignore[misc]
    other.sink.reset()
    other.peer.close()
    return written


async def test_sink_reports_only_what_the_system_took_when_the_reader_stalls(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    recorder = pair.listen()
    total = 8 * 1024 * 1024
    for _ in range(total // 16384):
        pair.sink.write(bytes(16384))
    taken = await settled(recorder)
    assert 0 < taken < 4 * 1024 * 1024
    assert await settled(recorder) == taken, "nobody reads, so nothing moves"
    with pytest.raises(StateError, match="limit"):
        pair.sink.write(bytes(8 * 1024 * 1024))
    received = 0
    reported: set[int] = set()
    while received < total:
        received += len(await pair.receive(1 << 20))
        reported.add(recorder.written)
        assert recorder.written <= total
    await recorder.until(lambda r: r.written == total)
    assert len(reported) > 4, "progress is told on the way and not only at the end"


@pytest.mark.parametrize("direction", ["out", "in"])
async def test_64_mib_pass_whole(make_pair: MakePair, direction: str) -> None:
    pair = make_pair()
    piece = bytes(range(256)) * 256
    count = 64 * 1024 * 1024 // len(piece)
    expected = hashlib.sha256(piece * count).hexdigest()
    digest = hashlib.sha256()
    if direction == "in":
        recorder = pair.recorder
        recorder.data_received = lambda data: (digest.update(data), recorder._changed.set())  # type: ignore[method-assign]
        pair.listen()

        async def feed() -> None:
            for _ in range(count):
                await pair.send(piece)
            pair.peer.shutdown(socket.SHUT_WR)

        task = asyncio.create_task(feed())
        await recorder.until(lambda r: r.eofs == 1)
        await task
    else:
        recorder = pair.listen()

        async def drain() -> None:
            while data := await pair.receive(1 << 18):
                digest.update(data)

        task = asyncio.create_task(drain())
        for number in range(count):
            await recorder.until(lambda r, n=number: n * len(piece) - r.written <= 262144)  # type: ignore[misc]
            pair.sink.write(piece)
        pair.sink.close()
        await task
        pair.peer.close()
        await recorder.until(lambda r: r.closed == [None])
        assert recorder.written == count * len(piece)
    assert digest.hexdigest() == expected


async def test_reset_gives_the_tcp_peer_a_reset() -> None:
    pair = Pair(tcp_pair())
    recorder = pair.listen()
    pair.sink.write(b"abc")
    pair.sink.reset()
    pair.sink.reset()
    with pytest.raises(ConnectionResetError):
        await pair.receive_all()
    await recorder.until(lambda r: r.closed == [None])
    pair.peer.close()


async def test_reset_gives_the_unix_peer_a_reset_when_its_bytes_were_not_read() -> None:
    pair = Pair(socket.socketpair())
    pair.sink.pause_reading()
    recorder = pair.listen()
    await pair.send(b"nobody reads this")
    pair.sink.reset()
    with pytest.raises(ConnectionResetError):
        await pair.receive_all()
    await recorder.until(lambda r: r.closed == [None])
    pair.peer.close()


async def test_reset_by_the_peer_closes_the_sink_with_an_error() -> None:
    pair = Pair(tcp_pair())
    recorder = pair.listen()
    peer = SocketSink(pair.peer)
    peer.reset()
    await recorder.until(lambda r: bool(r.closed))
    assert recorder.closed == ["the connection was reset by the local side"]
    assert pair.mine.fileno() == -1


async def test_peer_that_is_gone_is_noticed_by_writing(make_pair: MakePair) -> None:
    pair = make_pair()
    recorder = pair.listen()
    pair.peer.close()
    await recorder.until(lambda r: r.eofs == 1)
    while not recorder.closed:
        pair.sink.write(b"x")
        await asyncio.sleep(0)
    assert recorder.closed[0] is not None
    pair.sink.write(b"late writes are of no consequence")
    pair.sink.close()
    pair.sink.reset()
    await asyncio.sleep(0)
    assert len(recorder.closed) == 1


async def test_last_words_are_delivered_when_writing_fails() -> None:
    """A server that answers and slams the door: the answer arrives although our bytes no longer do."""
    pair = Pair(socket.socketpair())
    recorder = pair.listen()
    await pair.send(b"413 too large")
    pair.peer.close()
    pair.sink.write(b"more of the upload")
    await recorder.until(lambda r: bool(r.closed))
    assert recorder.data == b"413 too large"
    assert recorder.closed == ["the local side does not read any more"]


async def test_close_writes_everything_first(make_pair: MakePair) -> None:
    pair = make_pair()
    recorder = pair.listen()
    total = 4 * 1024 * 1024
    pair.sink.write(bytes(total))
    pair.sink.close()
    pair.sink.close()
    with pytest.raises(StateError):
        pair.sink.write(b"too late")
    assert len(await pair.receive_all()) == total
    pair.peer.close()
    await recorder.until(lambda r: r.closed == [None])
    assert recorder.written == total


async def test_close_does_not_reset_a_peer_that_is_still_sending() -> None:
    """Unread bytes at the close would make the kernel send RST, which could overtake our last bytes."""
    pair = Pair(tcp_pair())
    pair.sink.pause_reading()
    recorder = pair.listen()
    await pair.send(bytes(200_000))
    pair.sink.write(b"goodbye")
    pair.sink.close()
    assert await pair.receive_all() == b"goodbye"
    for _ in range(3):
        await pair.send(bytes(200_000))
        await turns()
    pair.peer.close()
    await recorder.until(lambda r: r.closed == [None])
    assert not recorder.data, "what comes after the close is of no interest"


async def test_close_gives_up_when_the_peer_takes_nothing() -> None:
    pair = Pair(tcp_pair(), close_timeout_s=0.1)
    recorder = pair.listen()
    pair.sink.write(bytes(8 * 1024 * 1024))
    pair.sink.close()
    await recorder.until(lambda r: bool(r.closed))
    assert recorder.closed[0] is not None
    assert "did not take the rest" in recorder.closed[0]
    with pytest.raises(ConnectionResetError):
        await pair.receive_all()
    pair.peer.close()


async def test_close_is_orderly_when_the_peer_took_all_but_never_ends(make_pair: MakePair) -> None:
    pair = make_pair(close_timeout_s=0.1)
    recorder = pair.listen()
    pair.sink.write(b"all")
    pair.sink.close()
    await recorder.until(lambda r: bool(r.closed))
    assert recorder.closed == [None]
    assert await pair.receive_all() == b"all"


async def test_write_after_the_announced_end_is_refused(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.sink.write_eof()
    with pytest.raises(StateError):
        pair.sink.write(b"x")


async def test_listener_that_comes_late_still_learns_that_the_sink_is_gone(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.sink.reset()
    recorder = pair.listen()
    await recorder.until(lambda r: r.closed == [None])


async def test_listener_may_reset_the_sink_from_a_callback(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.recorder.on_data = lambda data: pair.sink.reset()
    recorder = pair.listen()
    await pair.send(bytes(200_000))
    await recorder.until(lambda r: r.closed == [None])
    assert len(recorder.sizes) == 1


async def test_reads_are_at_most_64_kib(make_pair: MakePair) -> None:
    pair = make_pair()
    pair.sink.pause_reading()
    recorder = pair.listen()
    await pair.send(bytes(150_000))
    pair.sink.resume_reading()
    await recorder.until(lambda r: len(r.data) == 150_000)
    assert max(recorder.sizes) <= 65536


async def test_tcp_does_not_wait_to_join_small_writes() -> None:
    pair = Pair(tcp_pair())
    assert pair.mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    pair.sink.reset()
    pair.peer.close()
