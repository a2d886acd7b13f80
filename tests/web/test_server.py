"""Servers listen where they are told, privately, and leave nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web

from mxrtc_bridge.config.values import TcpListen, UnixListen
from mxrtc_bridge.core.call.route import Signalling
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.web.metrics import metrics_application
from mxrtc_bridge.web.server import Server


def application() -> web.Application:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    made = web.Application()
    made.router.add_get("/", hello)
    return made


async def ask(path: Path) -> str:
    async with ClientSession(connector=UnixConnector(str(path))) as http, http.get("http://bridge/") as response:
        return await response.text()


async def test_unix_socket_is_for_owner_and_group_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "as.sock"
    old = os.umask(0)
    try:
        async with Server(application(), UnixListen(str(path))) as server:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert server.port == 0
            assert await ask(path) == "hello"
        assert os.umask(0) == 0, "the umask of the process is as before"
    finally:
        os.umask(old)
    assert not path.exists()
    await server.stop()


async def test_unix_socket_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "as.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with Server(application(), UnixListen(str(path))):
        assert await ask(path) == "hello"


async def test_unix_socket_of_a_running_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "as.sock"
    async with Server(application(), UnixListen(str(path))):
        with pytest.raises(LocalError, match="another program listens there"):
            await Server(application(), UnixListen(str(path))).start()
        assert await ask(path) == "hello"


async def test_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    server = Server(application(), UnixListen(str(path)))
    with pytest.raises(LocalError, match="cannot listen on unix:"):
        await server.start()
    await server.stop()
    assert path.read_text() == "data"


async def test_port_in_use_is_explained() -> None:
    async with Server(application(), TcpListen("127.0.0.1", 0)) as first:
        with pytest.raises(LocalError, match=rf"cannot listen on 127.0.0.1:{first.port}: .*in use"):
            await Server(application(), TcpListen("127.0.0.1", first.port)).start()


async def test_metrics_are_served_as_prometheus_text() -> None:
    metrics = Metrics()
    metrics.call("remote_hangup", Signalling.ROOM)
    server = Server(metrics_application(metrics.render), TcpListen("127.0.0.1", 0))
    async with server, ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{server.port}/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert 'mxrtc_calls_total{outcome="remote_hangup",signalling="room"} 1.0' in await response.text()
        async with http.get(f"http://127.0.0.1:{server.port}/") as response:
            assert response.status == 404


async def test_requests_that_are_refused_are_one_line_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Server(application(), TcpListen("127.0.0.1", 0)) as server:
        for _ in range(50):  # each over a connection of its own
            async with ClientSession() as http, http.get(f"http://127.0.0.1:{server.port}/nothing") as response:
                assert response.status == 404
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
            await reader.read()
            writer.close()
    lines = [record.getMessage() for record in caplog.records if "listening" not in record.getMessage()]
    assert [line.split()[2] for line in lines] == ["404,", "400,"]
