"""Connecting to targets: which address is used, and what the admin reads when it fails."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.core.access.targets import Target, TcpTarget, UnixTarget
from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.sinks import connect
from mxrtc_bridge.sinks.connector import TargetConnector
from tests.sinks.conftest import Recorder
from tests.waiting import until

CONNECTOR = TargetConnector()
Answer = tuple[int, int, int, str, tuple[Any, ...]]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return port_of(listening)


def answer(address: str, port: int) -> Answer:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


class Resolver:
    """Stands in for the loop's resolver: answers from a list of rounds, and counts the questions."""

    def __init__(self, *rounds: list[Answer]) -> None:
        self.rounds = list(rounds)
        self.asked: list[str] = []

    def __call__(self, host: str, *_: object) -> list[Answer]:
        self.asked.append(host)
        return self.rounds.pop(0)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", self)


async def failure(target: Target) -> TargetError:
    with pytest.raises(TargetError) as caught:
        await CONNECTOR.connect(target)
    return caught.value


async def exchange(target: Target, server: socket.socket) -> None:
    sink = await CONNECTOR.connect(target)
    peer, _ = server.accept()
    with peer:
        recorder = Recorder(sink)
        sink.write(b"ping")
        await recorder.until(lambda r: r.written == 4)
        assert peer.recv(10) == b"ping"
        peer.sendall(b"pong")
        await recorder.until(lambda r: r.data == b"pong")
        sink.reset()
        await recorder.until(lambda r: r.closed == [None])


async def test_connector_reaches_an_address(server: socket.socket) -> None:
    await exchange(TcpTarget("127.0.0.1", port_of(server)), server)


async def test_connector_reaches_a_name(server: socket.socket) -> None:
    await exchange(TcpTarget("localhost", port_of(server), expect=(ip_network("127.0.0.0/8"),)), server)


async def test_connector_reaches_a_unix_socket(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(socket_path))
        server.listen()
        await exchange(UnixTarget(str(socket_path)), server)


async def test_connector_reports_a_target_that_is_down() -> None:
    error = await failure(TcpTarget("127.0.0.1", free_port()))
    assert error.failure is TargetFailure.REFUSED
    assert "check that the service runs" in str(error)
    assert "127.0.0.1" not in str(error)


async def test_connector_reports_an_address_outside_the_expected_networks(server: socket.socket) -> None:
    error = await failure(TcpTarget("127.0.0.1", port_of(server), expect=(ip_network("10.0.0.0/8"),)))
    assert error.failure is TargetFailure.UNAVAILABLE
    assert "expect" in str(error)
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


async def test_connector_asks_once_and_uses_the_address_that_it_checked(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers differently the second time (DNS rebinding) has no second time."""
    port = port_of(server)
    resolver = Resolver([answer("127.0.0.1", port)], [answer("10.0.0.1", port)])
    resolver.install(monkeypatch)
    await exchange(TcpTarget("rebound.example.org", port, expect=(ip_network("127.0.0.1/32"),)), server)
    assert resolver.asked == ["rebound.example.org"]


async def test_connector_passes_over_addresses_that_are_not_expected(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(server)
    Resolver([answer("127.0.0.2", port), answer("::1", port), answer("127.0.0.1", port)]).install(monkeypatch)
    await exchange(TcpTarget("many.example.org", port, expect=(ip_network("127.0.0.1/32"),)), server)


async def test_connector_sees_through_a_mapped_address(monkeypatch: pytest.MonkeyPatch) -> None:
    expect = (ip_network("10.0.0.0/8"), ip_network("::/0"))
    Resolver([answer("::ffff:192.0.2.1", 22)]).install(monkeypatch)
    error = await failure(TcpTarget("mapped.example.org", 22, expect=expect))
    assert "expect" in str(error)


async def test_connector_tries_the_next_address_when_one_refuses(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(server)
    Resolver([answer("127.0.0.9", port), answer("127.0.0.1", port)]).install(monkeypatch)
    await exchange(TcpTarget("two.example.org", port), server)


async def test_connector_tries_a_bounded_number_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    async def refuse(family: object, address: object) -> socket.socket:
        tried.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(connect, "_connect_socket", refuse)
    Resolver([answer(f"127.0.1.{number}", 9) for number in range(100)]).install(monkeypatch)
    error = await failure(TcpTarget("huge.example.org", 9))
    assert error.failure is TargetFailure.REFUSED
    assert len(tried) == connect.MAX_ADDRESSES


async def test_connector_reports_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Resolver):
        def __call__(self, host: str, *_: object) -> list[Answer]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    Broken().install(monkeypatch)
    error = await failure(TcpTarget("nowhere.example.org", 22))
    assert error.failure is TargetFailure.UNAVAILABLE
    assert "cannot be resolved" in str(error)


async def test_connector_reports_a_name_that_is_no_name() -> None:
    error = await failure(TcpTarget("a" * 64 + ".example.org", 22))
    assert error.failure is TargetFailure.UNAVAILABLE


def full_backlog(listening: socket.socket) -> list[socket.socket]:
    """Fill the queue of ``listening``, so that further connections stay unanswered."""
    clients: list[socket.socket] = []
    for _ in range(8):
        client = socket.socket(listening.family)
        client.setblocking(False)
        clients.append(client)
        try:
            client.connect(listening.getsockname())
        except BlockingIOError:
            if listening.family == socket.AF_UNIX:
                break
    return clients


async def test_connector_reports_a_target_that_does_not_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        clients = full_backlog(listening)
        began = time.monotonic()
        error = await failure(TcpTarget("127.0.0.1", port_of(listening), connect_timeout_s=0.2))
        assert error.failure is TargetFailure.TIMEOUT
        assert "0.2 s" in str(error)
        assert time.monotonic() - began < 5
        for client in clients:
            client.close()


async def test_connector_counts_name_resolution_in_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    class Slow(Resolver):
        def __call__(self, host: str, *_: object) -> list[Answer]:
            over.wait(30)
            return []

    Slow().install(monkeypatch)
    error = await failure(TcpTarget("slow.example.org", 22, connect_timeout_s=0.1))
    over.set()
    assert error.failure is TargetFailure.TIMEOUT


async def test_connector_waits_for_room_in_the_backlog_of_a_unix_socket(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(socket_path))
        listening.listen(0)
        clients = full_backlog(listening)
        error = await failure(UnixTarget(str(socket_path), connect_timeout_s=0.2))
        assert error.failure is TargetFailure.TIMEOUT
        connecting = asyncio.create_task(CONNECTOR.connect(UnixTarget(str(socket_path))))
        while not connecting.done():
            listening.accept()[0].close()
            await asyncio.sleep(0.02)
            listening.setblocking(False)
            if connecting.done():
                break
        connecting.result().reset()
        for client in clients:
            client.close()


async def test_connector_reports_a_unix_path_that_is_not_there(socket_path: Path) -> None:
    error = await failure(UnixTarget(str(socket_path)))
    assert (error.failure, str(error)) == (
        TargetFailure.UNAVAILABLE,
        "there is no unix socket at the target's path",
    )


async def test_connector_reports_a_unix_path_that_is_no_socket(socket_path: Path) -> None:
    os.mkfifo(socket_path)
    error = await failure(UnixTarget(str(socket_path)))
    assert error.failure is TargetFailure.UNAVAILABLE
    assert "not a unix socket" in str(error)


async def test_connector_reports_a_unix_socket_that_nobody_serves(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path))
    error = await failure(UnixTarget(str(socket_path)))
    assert error.failure is TargetFailure.REFUSED


async def test_connector_reports_a_unix_path_that_is_too_long(tmp_path: Path) -> None:
    place = tmp_path / ("d" * 120)
    place.mkdir()
    descriptor = os.open(place, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        # The long path exists, made through a short one.
        listening.bind(f"/proc/self/fd/{descriptor}/s")
    os.close(descriptor)
    error = await failure(UnixTarget(str(place / "s")))
    assert error.failure is TargetFailure.UNAVAILABLE


def connecting_to(port: int) -> int:
    """How many connections to a port wait for its answer (SYN_SENT, proc_net_tcp in the kernel's documentation)."""
    return Path("/proc/net/tcp").read_text().count(f" 0100007F:{port:04X} 02 ")


async def test_connector_closes_its_socket_when_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        clients = full_backlog(listening)
        before, waiting = len(list(Path("/proc/self/fd").iterdir())), connecting_to(port_of(listening))
        connecting = asyncio.create_task(CONNECTOR.connect(TcpTarget("127.0.0.1", port_of(listening))))
        await until(lambda: connecting_to(port_of(listening)) > waiting)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.sleep(0)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        for client in clients:
            client.close()
