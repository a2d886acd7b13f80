"""A path to the homeserver that dies without a word is noticed within ten seconds, and a slow homeserver is not it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess
from mxrtc_bridge.matrix.api import silent_path
from tests.links import ADDRESS_B, Quality, TwoHosts

NEVER_ANSWERS = """
import socket, threading

def hear(connection):
    while not connection.recv(65536).endswith(b"\\r\\n\\r\\n"):
        pass
    print("asked", flush=True)

server = socket.create_server(("0.0.0.0", 8008))
print("ready", flush=True)
while True:
    heard = server.accept()[0]
    threading.Thread(target=hear, args=[heard], daemon=True).start()
"""
ASKS = """
import asyncio, sys, time
from http import HTTPMethod
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.matrix.api.transport import Repeat, Transport

async def ask():
    transport = Transport(f"http://{sys.argv[1]}:8008")
    began = time.monotonic()
    try:
        await transport.request("poll", HTTPMethod.GET, "sync", timeout_s=float(sys.argv[2]), repeat=Repeat.NEVER)
    except HomeserverError as error:
        print(f"{time.monotonic() - began:.1f} {error}", flush=True)
    await transport.close()

asyncio.run(ask())
"""


@asynccontextmanager
async def asked(
    folder: Path, quality: Quality, timeout_s: float
) -> AsyncIterator[tuple[TwoHosts, ManagedProcess, ManagedProcess]]:
    """A request that waits for its answer, over a link."""
    async with TwoHosts(folder, quality) as hosts:
        server = ManagedProcess("server", hosts.on_b(sys.executable, "-c", NEVER_ANSWERS), folder=folder)
        client = ManagedProcess(
            "client", hosts.on_a(sys.executable, "-c", ASKS, ADDRESS_B, str(timeout_s)), folder=folder
        )
        async with server:
            await server.wait_for_line("ready", 10)
            async with client:
                await server.wait_for_line("asked", 20)
                yield hosts, server, client


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and TUN devices need root")


@pytest.mark.real
@pytest.mark.alone
@needs_root
async def test_a_poll_whose_path_is_cut_is_asked_anew_once_it_is_back(tmp_path: Path) -> None:
    """The HTTP library asks once more by itself where a connection is lost: so it waits for the path at that time."""
    async with asked(tmp_path, Quality(delay_ms=20), 70) as (hosts, server, _):
        hosts.cut()
        await asyncio.sleep(silent_path.GIVEN_UP_AFTER_S + 1)
        mark = server.mark()
        hosts.cut()
        await server.wait_for_line("asked", 5, after=mark)


@pytest.mark.real
@pytest.mark.alone
@needs_root
async def test_a_homeserver_with_nothing_to_say_is_waited_for_on_a_bad_line(tmp_path: Path) -> None:
    async with asked(tmp_path, Quality(delay_ms=100, loss_percent=10, seed=5), 13) as (_, _, client):
        await client.wait_for_line(r"did not answer within 13 seconds", 60)


def test_socket_asks_the_other_system_and_gives_up_within_nine_seconds() -> None:
    with silent_path.make_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1))) as it:
        assert it.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            idle, every, count = (
                it.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            )
            assert idle + every * count == silent_path.GIVEN_UP_AFTER_S
            assert it.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * silent_path.GIVEN_UP_AFTER_S


def test_connections_of_a_network_that_was_left_end_at_the_next_request() -> None:
    sockets = silent_path.Sockets()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        with sockets.make(address) as old, sockets.make(address) as connecting:
            old.connect(server.getsockname())
            sockets.end_moved()
            old.send(b"still there")
            with patch.object(silent_path, "is_ours", lambda own: own != "127.0.0.1"):
                sockets.end_moved()
            with pytest.raises(BrokenPipeError):
                old.send(b"x")
            connecting.connect(server.getsockname())
