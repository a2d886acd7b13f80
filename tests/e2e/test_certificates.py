"""The homeserver's certificate expires at night, or another one shows for a while: nothing ends, and all comes back."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.connections import OwnedConnections
from tests.e2e.test_outages import exchange
from tests.e2e.world import World, echo

pytestmark = pytest.mark.real


class TlsFront:
    """Speaks TLS before the homeserver, with the certificate that a test wants at the moment."""

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self._server: asyncio.Server | None = None
        self._connections = OwnedConnections()
        self.port = 0

    async def show(self, context: ssl.SSLContext) -> None:
        """Show another certificate from now on; connections that there are end."""
        await self.close()
        self._context = context
        await self.start()

    async def start(self) -> None:
        serve = self._connections.guarded(self._serve)
        self._server = await asyncio.start_server(serve, "127.0.0.1", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._connections.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, to_writer))
                group.create_task(self._copy(to_reader, writer))
        finally:
            to_writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()


async def behind_tls(world: World, front: TlsFront, user: str) -> None:
    """Have the bridge and a client reach the homeserver by TLS."""
    url = f"https://127.0.0.1:{front.port}"
    world.settings["homeserver"] = {"address": url, "domain": world.homeserver.server_name}
    login = Path(world.env(user)["MXRTC_STATE"]) / "login.json"
    content = json.loads(login.read_text())
    login.write_text(json.dumps(content | {"homeserver": url}))


@pytest.fixture
async def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[World, TlsFront]]:
    good = make_certificate(tmp_path / "good.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "good.pem"))
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        await world.add_user("alice")
        front = TlsFront(int(world.homeserver.url.rpartition(":")[2]), good)
        await front.start()
        stack.push_async_callback(front.close)
        await behind_tls(world, front, "alice")
        yield world, front


@pytest.mark.parametrize("ended", [False, True])
async def test_pipes_go_on_while_the_certificate_is_not_believed(
    tls: tuple[World, TlsFront], tmp_path: Path, ended: bool
) -> None:
    world, front = tls
    bridge = await world.start_bridge()
    connection, port = await world.connect("alice", "build/echo", "-L", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)

    await front.show(make_certificate(tmp_path / "bad.pem", ended=ended))
    await bridge.wait_for_line("its certificate is not accepted", 60)
    await exchange(reader, writer)
    # A new command says what it is, soon, and in one line.
    code, _, said = await world.run_mxrtc("alice", "ls", timeout_s=15)
    assert code == 1
    assert "its certificate is not accepted" in said
    code, said = await world.run_admin("check")
    assert code != 0
    assert "its certificate is not accepted" in said
    assert "Traceback" not in said + world.log_text() + connection.output("stderr").decode()

    mark = bridge.mark()
    await front.show(good_again(tmp_path))
    await exchange(reader, writer)
    # However long that has taken, the bridge is back within some seconds; a call waits for no more than five.
    await bridge.wait_for_line("messages for @rtc_build:.* come again", 20, after=mark)
    code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1", timeout_s=60)
    assert code == 0, said
    assert (connection.returncode, bridge.returncode) == (None, None), "nothing has ended meanwhile"
    writer.close()


def good_again(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "good.pem")
    return context


async def test_a_bridge_that_starts_waits_for_the_certificate(tls: tuple[World, TlsFront], tmp_path: Path) -> None:
    world, front = tls
    await front.show(make_certificate(tmp_path / "bad.pem"))
    bridge = world.admin("run")
    async with bridge:
        await bridge.wait_for_line("its certificate is not accepted", 60)
        assert bridge.returncode is None
        await front.show(good_again(tmp_path))
        await bridge.wait_for_line("bridge ready", 60)
    assert "Traceback" not in world.log_text()
