"""Requests by real proxies, and what is said when one does not take us."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPMethod as Method
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from mxrtc_bridge.config.proxies import ProxyChoice, parse_proxy
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.demo.processes import ManagedProcess
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from tests.catch_all import answering
from tests.certificates import make_certificate
from tests.proxies import microsocks, tinyproxy

POLICY = RequestPolicy(RetryPolicy(total_s=0), timeout_s=20)


@dataclass
class Homeserver:
    url: str = ""
    hosts: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.hosts.append(request.headers.get("Via", ""))
        return web.json_response({"path": request.path})


@pytest_asyncio.fixture
async def homeserver() -> AsyncIterator[Homeserver]:
    server = Homeserver()
    async with answering(server.answer) as server.url:
        yield server


async def ask(address: str, proxy: str) -> dict[str, object]:
    transport = Transport(address, "a-token", POLICY, proxy=ProxyChoice(parse_proxy(proxy), "test"))
    try:
        return await transport.request("try it", Method.GET, "x")
    finally:
        await transport.close()


@pytest.mark.real
async def test_proxy_of_http_is_used_and_its_login(homeserver: Homeserver, tmp_path: Path) -> None:
    async with tinyproxy(tmp_path, "BasicAuth me secret") as (where, _):
        assert await ask(homeserver.url, f"http://me:secret@{where}") == {"path": "/x"}
        assert "tinyproxy" in homeserver.hosts[0]
        with pytest.raises(HomeserverError) as caught:
            await ask(homeserver.url, f"http://me:wrong@{where}")
        assert "wants a login" in str(caught.value)
        # By TLS it is asked for a tunnel, and refuses that as well.
        with pytest.raises(HomeserverError, match=r"the proxy does not connect us: it answers 40[17]"):
            await ask(homeserver.url.replace("http:", "https:"), f"http://me:wrong@{where}")
    assert len(homeserver.hosts) == 1


@pytest.mark.real
async def test_proxy_of_socks_is_used_and_its_login(homeserver: Homeserver, tmp_path: Path) -> None:
    async with microsocks(tmp_path, "-u", "me", "-P", "secret") as (where, process):
        assert await ask(homeserver.url, f"socks5://me:secret@{where}") == {"path": "/x"}
        port = homeserver.url.rpartition(":")[2]
        await process.wait_for_line(f"connected to 127.0.0.1:{port}", 20)
        with pytest.raises(HomeserverError, match="the proxy does not connect us: ") as caught:
            await ask(homeserver.url, f"socks5://me:wrong@{where}")
        assert "wrong" not in str(caught.value)
    assert len(homeserver.hosts) == 1


@pytest.mark.real
async def test_name_is_looked_up_by_the_proxy(homeserver: Homeserver, tmp_path: Path) -> None:
    """One that nobody knows is unknown there, and not here."""
    port = homeserver.url.rpartition(":")[2]
    async with microsocks(tmp_path) as (where, _):
        with pytest.raises(HomeserverError, match="the proxy does not connect us: "):
            await ask(f"http://nobody.invalid:{port}", f"socks5://{where}")
        assert await ask(f"http://localhost:{port}", f"socks5://{where}") == {"path": "/x"}


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4"])
async def test_proxy_that_is_not_there_is_named_as_that_without_its_address(
    homeserver: Homeserver, scheme: str
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(HomeserverError, match="the proxy cannot be reached: connection refused") as caught:
            await ask(homeserver.url, f"{scheme}://me:secret@127.0.0.1:{port}")
    assert not [word for word in ("secret", "127.0.0.1", str(port)) if word in str(caught.value)]
    assert homeserver.hosts == []


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4"])
@pytest.mark.parametrize("said", [b"", b"\x05\xff", b"\x05\x00" + b"x" * 99, b"HTTP/1.1 502 Bad\r\n\r\n"])
async def test_whatever_a_proxy_says_is_a_failure_of_the_request(scheme: str, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HomeserverError, match=r"could not try it: the homeserver (cannot be reached|answered 502)"):
            await ask("http://example.test", f"{scheme}://127.0.0.1:{port}")


ASKING = """
import asyncio, sys
from http import HTTPMethod
from mxrtc_bridge.matrix.api.transport import Transport

async def ask():
    transport = Transport(sys.argv[1], "a-token")
    print(await transport.request("try it", HTTPMethod.GET, "x"))
    await transport.close()

asyncio.run(ask())
"""


@pytest.mark.real
@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_homeserver_by_tls_is_reached_by_the_proxy_that_the_environment_names(tmp_path: Path, kind: str) -> None:
    """And it is the homeserver's certificate that counts: the proxy only sees what it cannot read."""
    certificate = str(tmp_path / "homeserver.pem")
    context = make_certificate(tmp_path / "homeserver.pem")
    made = tinyproxy(tmp_path) if kind == "http" else microsocks(tmp_path)
    async with made as (where, _), answering(Homeserver().answer, ssl_context=context) as url:
        answers = {}
        for trusted in (certificate, "/dev/null"):
            env = {"MXRTC_PROXY": f"{kind}://{where}", "SSL_CERT_FILE": trusted, "SSL_CERT_DIR": str(tmp_path)}
            command = [sys.executable, "-c", ASKING, url]
            async with ManagedProcess(f"asking-{len(answers)}", command, folder=tmp_path, env=env) as process:
                code = await process.wait(60)
                answers[trusted] = (code, process.output("stdout").decode() + process.output("stderr").decode())
    assert answers[certificate] == (0, "{'path': '/x'}\n"), answers
    assert "its certificate is not accepted" in answers["/dev/null"][1], answers
