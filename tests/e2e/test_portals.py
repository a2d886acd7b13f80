"""A captive portal answers in the homeserver's place until its user has logged in there; a running command goes on."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.e2e.test_outages import exchange
from tests.e2e.test_proxies import HTML, PAGES, Front, page
from tests.e2e.world import World, echo

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

JSON = "Content-Type: application/json"
PORTALS = {
    **{name: shown for name, shown in PAGES.items() if name != "another server"},  # which is one of Matrix
    "authentication required": page("511 Network Authentication Required"),
    "a redirection with a page": page("307 Temporary Redirect", HTML, "Location: http://portal.example.test/"),
    "an empty object": page("200 OK", b"{}", JSON),
    "an object of its own": page("200 OK", b'{"captive": true, "user-portal-url": "https://portal.test/"}', JSON),
    "an array": page("200 OK", b"[]", JSON),
    "half an answer": page("200 OK", b'{"next_batch": "s1_', JSON),
    "less than it says": page("200 OK", b'{"next_batch": "s1').replace(b"Length: 18", b"Length: 180"),
    "a refusal of its own": page("403 Forbidden", b'{"error": "log in first"}', JSON),
    "no HTTP": b"220 welcome\r\n",
}
# As it is, but for how long it waits until it calls again, and how long it repeats what it asks.
CLIENT = f"""#!{sys.executable}
import sys
from mxrtc_bridge.cli.client.entry import main
from mxrtc_bridge.client import forwarding
forwarding.LONGEST_PAUSE_S = 0.2
sys.exit(main())
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, Front]]:
    """A user whose way to the homeserver leads by a portal, and a bridge whose way does not."""
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path_factory.mktemp("portals"), stack)
        await world.add_user("alice")
        front = Front(world.homeserver.url)
        await front.start(stack)
        login = world.folder / "state-alice" / "login.json"
        login.write_text(json.dumps({**json.loads(login.read_text()), "homeserver": front.url}))
        client = world.folder / "client"
        client.write_text(CLIENT)
        client.chmod(0o755)
        world.client = [client]
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        await world.start_bridge()
        yield world, front


@pytest.mark.parametrize("signal", ["device", "room"])
async def test_connect_goes_on_after_the_login_at_a_portal(behind: tuple[World, Front], signal: str) -> None:
    world, front = behind
    world.signal = signal
    process, port = await world.connect("alice", "build/echo", "-L", "0")
    assert world.bridge is not None
    for name, shown in PORTALS.items():
        front.shown, before = shown, front.pages
        if name == next(iter(PORTALS)):
            mark = process.mark()
            await world.bridge.terminate(40)
            await process.wait_for_line(r"connection lost", 40, after=mark)
            await world.start_bridge()
        async with asyncio.timeout(40):
            while front.pages < before + 3:
                assert process.returncode is None, f"{name}: {process.tail()}"
                await asyncio.sleep(0.05)
    assert process.returncode is None, process.tail()
    mark = process.mark()
    front.shown = None
    await process.wait_for_line(r"^connected", 60, after=mark)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await exchange(reader, writer)
    writer.close()
    await process.terminate()
