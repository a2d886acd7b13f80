"""What many idle peers cost: processor time and requests, with a device for each of them and without.

Every peer with encryption has a long poll of its own. The requests are counted on their way to the homeserver.
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
WARM_S = 15.0
WATCHED_S = 120.0
"""Longer than two long polls."""


class Counter:
    """Requests that have passed."""

    def __init__(self) -> None:
        self.requests = 0


@asynccontextmanager
async def counting(target: str) -> AsyncIterator[tuple[str, Counter]]:
    """Pass connections on to a server, and count the requests on them; yields the address to use."""
    counter, parts = Counter(), urlsplit(target)

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(parts.hostname, parts.port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
            try:
                while data := await source.read(65536):
                    counter.requests += data.count(b" HTTP/1.1\r\n") if counted else 0
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(copy(reader, back, counted=True), copy(there, writer, counted=False))

    server = await asyncio.start_server(passed, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", counter
    finally:
        server.close()


async def measure_peers(folder: Path) -> dict[str, object]:
    """Fifty peers, nobody who calls them."""
    return {"peers": PEERS, **{mode: await _idle(folder / mode, mode) for mode in ("off", "on")}}


async def _idle(folder: Path, mode: str) -> dict[str, float]:
    folder.mkdir()
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        address, counter = await stack.enter_async_context(counting(world.homeserver.url))
        services = {"unused": {"target": "tcp:127.0.0.1:1"}}
        world.settings = {
            "homeserver": {"address": address, "domain": DOMAIN},
            "peers": {f"p{number}": {"services": services} for number in range(PEERS)},
            "encryption": {"enabled": mode},
        }
        bridge = await world.start_bridge()
        await asyncio.sleep(WARM_S)
        requests, cpu = counter.requests, cpu_seconds(bridge)
        await asyncio.sleep(WATCHED_S)
        minutes = WATCHED_S / 60
        return {
            "requests_a_minute": (counter.requests - requests) / minutes,
            "cpu_percent": (cpu_seconds(bridge) - cpu) / WATCHED_S * 100,
        }
