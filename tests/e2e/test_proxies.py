"""What a proxy answers in the homeserver's place says nothing about anybody: nothing ends by it, and all goes on.

Each page is answered to everything that the bridge asks for a while: who is in its rooms, which devices its callers
have, what there is for its own devices, what it sends.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from tests.connections import OwnedConnections
from tests.e2e.people import Person
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

BOT = f"@rtcbot:{DOMAIN}"
HTML = b"<html><body>" + b"<p>Please come back later.</p>" * 200 + b"</body></html>"
BOMB = gzip.compress(bytes(40 << 20))

# The bridge as it is, but for how often it judges devices, and asks what there is for its own.
PROGRAM = """
import sys
from mxrtc_bridge.bridge.devices import policy
from mxrtc_bridge.cli.bridge.main import main
from mxrtc_bridge.matrix.crypto import sync
policy.EVERY_S = sync.LONGEST_PAUSE_S = sync.LONG_POLL_S = 0.3
sync.DeviceSync.__init__.__kwdefaults__["unasked_s"] = 0.3
sys.exit(main())
"""


def page(status: str, body: bytes = HTML, *fields: str) -> bytes:
    """A whole answer, after which the connection ends."""
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *fields))
    return head.encode() + b"\r\n\r\n" + body


PAGES = {
    "forbidden": page("403 Forbidden"),
    "not found": page("404 Not Found"),
    "no route": page("404 Not Found", b'{"message": "no route matched"}', "Content-Type: application/json"),
    "too large": page("413 Too Large"),
    "a login": page("401 Unauthorized", HTML, "WWW-Authenticate: Basic"),
    "a redirection": page("302 Found", b"", "Location: https://login.example.test/"),
    "maintenance": page("200 OK"),
    "nothing": page("200 OK", b""),
    "endless": page("200 OK", BOMB, "Content-Encoding: gzip"),
    "another server": page("404 Not Found", b'{"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}'),
}
ASKED = ("/joined_members", "/keys/query", "/sync")
"""What the bridge asks while a session lives, and what it does by itself."""


@dataclass
class Front:
    """Stands before the homeserver, and passes everything on unless it has a page to show."""

    target: str
    port: int = 0
    shown: bytes | None = None
    asked: set[str] = field(default_factory=set)
    """Which of :data:`ASKED` got the page."""
    pages: int = 0
    """How often a page was shown."""
    connections: OwnedConnections = field(default_factory=OwnedConnections)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, stack: AsyncExitStack) -> None:
        server = await asyncio.start_server(self.connections.guarded(self._serve), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        stack.push_async_callback(self.connections.close)
        stack.callback(server.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head[:-4].split(b"\r\n")
            lengths = [int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")]
            body = await reader.readexactly(sum(lengths))
            # What kind of room it is, is asked first, and nothing more where that is not answered.
            if self.shown is None or b"/state/" in lines[0]:
                await self._pass_on(lines, body, writer)
            else:
                self.asked |= {each for each in ASKED if each in lines[0].decode()}
                self.pages += 1
                writer.write(self.shown)
                await writer.drain()

    async def _pass_on(self, lines: list[bytes], body: bytes, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.removeprefix("http://").partition(":")
        from_server, to_server = await asyncio.open_connection(host, int(port))
        try:
            kept = [line for line in lines if not line.lower().startswith(b"connection:")]
            to_server.write(b"\r\n".join((*kept, b"Connection: close", b"", b"")) + body)
            while data := await from_server.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            to_server.close()


@dataclass
class Scene:
    world: World
    front: Front
    carol: Person
    team: str
    invited: int = 0

    async def ask_for_rooms(self) -> None:
        """Give the bridge a reason to ask who is in its rooms: anybody is invited to them."""
        self.invited += 1
        rooms = [self.team, *(await self.carol.ask("GET", "joined_rooms"))["joined_rooms"]]
        for room in dict.fromkeys(rooms):
            content = {"user_id": f"@guest{self.invited}:{DOMAIN}"}
            await self.carol.ask("POST", f"rooms/{quote(room)}/invite", content)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("proxies"), stack)
        world.program = [sys.executable, "-c", PROGRAM]
        for name in ("alice", "carol"):
            await world.add_user(name)
        http = await stack.enter_async_context(ClientSession())
        carol = await Person.log_in(world, "carol", http)
        team = await carol.gather("team")
        await carol.ask("POST", f"rooms/{quote(team)}/invite", {"user_id": BOT})
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        world.grants.append({"id": "team", "from": [f"room:{team}"], "to": ["build/echo"]})
        front = Front(world.homeserver.url)
        await front.start(stack)
        world.settings["homeserver"] = {"address": front.url, "domain": DOMAIN}
        await world.start_bridge()
        await carol.until_member(team, BOT)
        yield Scene(world, front, carol, team)
        assert world.bridge is not None
        assert await world.bridge.terminate(40) == 0, world.bridge.tail()
        assert "Traceback" not in world.log_text()


async def test_no_page_of_a_proxy_ends_a_session_or_replaces_a_device(scene: Scene) -> None:
    world, front = scene.world, scene.front
    world.signal = "device"
    _, by_device = await world.connect("alice", "build/echo", "-L", "0")
    world.signal = "room"
    _, by_room = await world.connect("carol", "build/echo", "-L", "0")
    pipes = [await asyncio.open_connection("127.0.0.1", port) for port in (by_device, by_room)]
    assert world.bridge is not None
    for name, shown in PAGES.items():
        front.asked.clear()
        front.shown = shown
        await scene.ask_for_rooms()
        try:
            async with asyncio.timeout(40):
                while front.asked != set(ASKED):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"{name}: nobody asks for {set(ASKED) - front.asked}")
        for pipe in pipes:
            await exchange(*pipe)
        front.shown = None
    assert world.bridge.returncode is None
    for _, writer in pipes:
        writer.close()
    # And all is as it was: by the same device, and by the room.
    for user, signal in (("alice", "device"), ("carol", "room")):
        world.signal = signal
        code, _, said = await world.run_mxrtc(user, "ping", "build", "-c", "1", timeout_s=60)
        assert code == 0, said
    said = world.log_text()
    for wrong in ("another device", "encryption is off", "left its room"):
        assert wrong not in said, wrong
    # Only what has the form of Matrix has a device begin anew, and it is the same one.
    deaf = [line for line in said.splitlines() if "is deaf" in line]
    assert [line for line in deaf if "M_UNRECOGNIZED" not in line] == []
