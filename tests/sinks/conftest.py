"""Real sockets on both loops, and a listener that records."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from mxrtc_bridge.sinks.sockets import SocketSink
from mxrtc_bridge.sinks.stream_sink import StreamSink
from tests.long import FAST

LIMIT_S = 20.0


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test of this folder on both loops, and for a quick look on uvloop, as the programs do."""
    return {"uvloop": uvloop.new_event_loop} | ({} if FAST else {"asyncio": asyncio.SelectorEventLoop})


class Recorder:
    """A SinkListener that keeps what it is told, and can be waited for."""

    def __init__(self, sink: StreamSink | None = None) -> None:
        self.data = bytearray()
        self.eofs = 0
        self.written = 0
        self.closed: list[str | None] = []
        self.on_data: Callable[[bytes], None] = lambda data: None
        self._changed = asyncio.Event()
        self.sizes: list[int] = []
        if sink is not None:
            sink.set_listener(self)

    def data_received(self, data: bytes) -> None:
        assert not self.eofs
        assert not self.closed
        self.data += data
        self.sizes.append(len(data))
        self.on_data(data)
        self._changed.set()

    def eof_received(self) -> None:
        assert not self.closed
        self.eofs += 1
        self._changed.set()

    def bytes_written(self, size: int) -> None:
        assert size > 0
        assert not self.closed
        self.written += size
        self._changed.set()

    def sink_closed(self, error: str | None) -> None:
        self.closed.append(error)
        self._changed.set()

    async def until(self, condition: Callable[[Recorder], bool]) -> None:
        """Wait until something told makes ``condition`` true."""
        async with asyncio.timeout(LIMIT_S):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


class Pair:
    """A sink, its recorder, and the plain socket at the other end."""

    def __init__(self, sockets: tuple[socket.socket, socket.socket], **times: float) -> None:
        self.mine, self.peer = sockets
        self.peer.setblocking(False)
        self.sink = SocketSink(self.mine, **times)
        self.recorder = Recorder()

    def listen(self) -> Recorder:
        self.sink.set_listener(self.recorder)
        return self.recorder

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.get_running_loop().sock_sendall(self.peer, data)

    async def receive(self, size: int = 65536) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await asyncio.get_running_loop().sock_recv(self.peer, size)

    async def receive_all(self) -> bytes:
        data = bytearray()
        while piece := await self.receive():
            data += piece
        return bytes(data)


@pytest.fixture(params=["tcp", "unix"])
def make_pair(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(**times: float) -> Pair:
        pairs.append(Pair(tcp_pair() if request.param == "tcp" else socket.socketpair(), **times))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.peer.close()
        pair.mine.close()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "s"
