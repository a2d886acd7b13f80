"""Accepting local connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.sinks.listen import Listener
from mxrtc_bridge.sinks.sockets import SocketSink
from tests.sinks.conftest import LIMIT_S, Recorder


class Door:
    """Keeps the accepted sinks."""

    def __init__(self) -> None:
        self.sinks: list[SocketSink] = []
        self._arrived = asyncio.Event()

    def accepted(self, sink: SocketSink) -> None:
        self.sinks.append(sink)
        self._arrived.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(self.sinks) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def reset_all(self) -> None:
        for sink in self.sinks:
            sink.reset()


async def open_stream(port: int) -> socket.socket:
    # The kernel completes the handshake by itself; the listener's loop need not run for it.
    sock = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    sock.setblocking(False)
    return sock


async def receive(sock: socket.socket) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.get_running_loop().sock_recv(sock, 100)


async def test_listener_tells_its_port_and_hands_over_a_sink_for_each_connection() -> None:
    door = Door()
    listener = await Listener.open_tcp("127.0.0.1", 0, door.accepted)
    assert listener.port > 0
    first, second = await open_stream(listener.port), await open_stream(listener.port)
    await door.until(2)
    recorder = Recorder(door.sinks[1])
    second.send(b"hi")
    await recorder.until(lambda r: r.data == b"hi")
    assert listener.connections == 2
    door.reset_all()
    assert listener.connections == 0
    listener.close()
    first.close()
    second.close()


async def test_listener_resets_connections_beyond_its_limit_and_takes_others_again_later() -> None:
    door = Door()
    listener = await Listener.open_tcp("127.0.0.1", 0, door.accepted, max_connections=2)
    clients = [await open_stream(listener.port) for _ in range(3)]
    with pytest.raises(ConnectionResetError):
        await receive(clients[2])
    assert (len(door.sinks), listener.connections, listener.refused) == (2, 2, 1)
    door.sinks[0].reset()
    clients.append(await open_stream(listener.port))
    await door.until(3)
    assert (listener.connections, listener.refused) == (2, 1)
    door.reset_all()
    listener.close()
    for client in clients:
        client.close()


async def test_closed_listener_leaves_connections_alone_and_accepts_no_more() -> None:
    door = Door()
    listener = await Listener.open_tcp("127.0.0.1", 0, door.accepted)
    port = listener.port
    client = await open_stream(port)
    await door.until(1)
    listener.close()
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await open_stream(port)
    recorder = Recorder(door.sinks[0])
    client.send(b"still here")
    await recorder.until(lambda r: r.data == b"still here")
    door.reset_all()
    client.close()


async def test_listener_may_be_closed_from_its_own_callback() -> None:
    sinks: list[SocketSink] = []
    done = asyncio.Event()

    def accepted(sink: SocketSink) -> None:
        sinks.append(sink)
        listener.close()
        done.set()

    listener = await Listener.open_tcp("127.0.0.1", 0, accepted)
    clients = [await open_stream(listener.port)]
    await asyncio.wait_for(done.wait(), LIMIT_S)
    assert len(sinks) == 1
    sinks[0].reset()
    clients[0].close()


async def test_listener_on_a_name_listens_on_all_its_addresses_with_one_port() -> None:
    door = Door()
    listener = await Listener.open_tcp("localhost", 0, door.accepted)
    client = await open_stream(listener.port)
    await door.until(1)
    door.reset_all()
    listener.close()
    client.close()


async def test_listener_reports_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LocalError, match=rf"127\.0\.0\.1 port {port}.*another program listens there"):
            await Listener.open_tcp("127.0.0.1", port, lambda sink: None)


async def test_listener_reports_a_foreign_address() -> None:
    with pytest.raises(LocalError, match="does not have that address"):
        await Listener.open_tcp("203.0.113.77", 0, lambda sink: None)


async def test_listener_reports_a_name_without_an_address() -> None:
    with pytest.raises(LocalError, match="check its spelling"):
        await Listener.open_tcp("a" * 64 + ".invalid", 0, lambda sink: None)


async def test_listener_pauses_when_no_descriptor_is_left(caplog: pytest.LogCaptureFixture) -> None:
    door = Door()
    real = socket.create_server(("127.0.0.1", 0))
    real.setblocking(False)
    failures = [OSError(24, "Too many open files")]

    class Exhausted:
        """The listening socket of a process that runs out of descriptors once."""

        def accept(self) -> tuple[socket.socket, object]:
            if failures:
                raise failures.pop()
            return real.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    listener = Listener([Exhausted()], door.accepted, exhausted_pause_s=0.05)  # type: ignore[list-item]
    client = await open_stream(listener.port)
    await door.until(1)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("mxrtc")] == [
        "no connection can be accepted for now: Too many open files"
    ]
    door.reset_all()
    listener.close()
    client.close()
