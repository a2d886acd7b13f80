"""What many idle peers cost: processor time and requests, with a device for each of them and without.

Every peer with encryption has a long poll of its own, unless the homeserver announces messages.
The requests are counted on their way to the homeserver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.pipe import cpu_seconds
from tests.e2e.world import DOMAIN, World

PEERS = 50
MODES = {"off": {"enabled": "off"}, "on": {"enabled": "on"}, "announced": {"enabled": "on", "receive": "transactions"}}
SWITCHES = {
    "experimental_features": {"msc2409_to_device_messages_enabled": True, "msc3202_transaction_extensions": True}
}
"""With which Synapse announces messages for devices; the registration says whether it does."""
WARM_S = 15.0
WATCHED_S = 120.0
"""Longer than two long polls."""


class Counter:
    """Requests that have passed."""

    def __init__(self) -> None:
        self.requests = 0
        self.answers = 0

    @property
    def open(self) -> int:
        """Requests that wait for their answers, as long polls do."""
        return self.requests - self.answers


@asynccontextmanager
async def counting(target: str) -> AsyncIterator[tuple[str, Counter]]:
    """Pass connections on to a server, and count the requests on them; yields the address to use."""
    counter, parts = Counter(), urlsplit(target)

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(parts.hostname, parts.port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, mark: bytes, name: str) -> None:
            rest = b""
            try:
                while data := await source.read(65536):
                    # A mark may lie across the border of two reads.
                    seen = rest + data
                    setattr(counter, name, getattr(counter, name) + seen.count(mark))
                    rest = seen[-len(mark) + 1 :]
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(
            copy(reader, back, b" HTTP/1.1\r\n", "requests"), copy(there, writer, b"HTTP/1.1 ", "answers")
        )

    server = await asyncio.start_server(passed, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", counter
    finally:
        server.close()


async def measure_peers(folder: Path) -> dict[str, object]:
    """Fifty peers, nobody who calls them."""
    return {"peers": PEERS, **{mode: await _idle(folder / mode, section) for mode, section in MODES.items()}}


async def _idle(folder: Path, section: dict[str, str]) -> dict[str, float]:
    folder.mkdir()
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack, settings={"encryption": section}, extra_config=SWITCHES)
        address, counter = await stack.enter_async_context(counting(world.homeserver.url))
        services = {"unused": {"target": "tcp:127.0.0.1:1"}}
        world.settings = {
            "homeserver": {"address": address, "domain": DOMAIN},
            "peers": {f"p{number}": {"services": services} for number in range(PEERS)},
            "encryption": section,
        }
        bridge = await world.start_bridge()
        if section.get("receive") == "transactions":
            await bridge.wait_for_line("are announced by transactions", 60)
            while counter.open:
                await asyncio.sleep(0.1)
        await asyncio.sleep(WARM_S)
        requests, cpu = counter.requests, cpu_seconds(bridge)
        await asyncio.sleep(WATCHED_S)
        minutes = WATCHED_S / 60
        return {
            "requests_a_minute": (counter.requests - requests) / minutes,
            "cpu_percent": (cpu_seconds(bridge) - cpu) / WATCHED_S * 100,
        }
