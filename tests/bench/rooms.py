"""What rooms with peers cost: a start, and a reload that takes the right to all of them away while it adds a peer.

A real homeserver, a bridge as a process, 50 peers without encryption. The requests are counted on their way.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from tests.bench.peers import Counter, counting
from tests.e2e.world import DOMAIN, PASSWORD, World

PEERS = 50
ROOMS = (10, 100, 500)
AT_ONCE = 4
QUIET_S = 2.0
"""Without a request for so long, the bridge has looked at all rooms, or left them."""
OFF = {"encryption": {"enabled": "off"}}


async def measure_rooms(folder: Path) -> dict[str, object]:
    """The same bridge with more and more rooms."""
    results: dict[str, object] = {}
    for rooms in ROOMS:
        inner = folder / str(rooms)
        await asyncio.to_thread(inner.mkdir)
        results[f"{rooms} rooms"] = await _measure(inner, rooms)
    return results


async def _measure(folder: Path, rooms: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack, settings=OFF)
        address, counter = await stack.enter_async_context(counting(world.homeserver.url))
        _configure(world, address, PEERS)
        world.grant("alice", *(f"p{number}/unused" for number in range(PEERS)))
        await world.homeserver.register_user("alice", PASSWORD)
        await _run(world, counter)
        await _make_rooms(world, rooms)
        await _run(world, counter)  # what it finds is new to it
        began = time.monotonic()
        ready, requests, bridge = await _start(world, counter, began)
        settled = await _quiet(counter) - began
        found = {"ready_s": ready, "requests_until_ready": requests, "looked_at_s": settled}
        found["requests"] = float(counter.requests)
        _configure(world, address, PEERS + 1)
        world.grants.clear()
        counter.requests, began = 0, time.monotonic()
        code, said = await world.run_admin("reload")
        found["reload_answers_s"] = time.monotonic() - began
        found["reload_says_what_is_left"] = float("Still under way" in said)
        assert code == 0, said
        await bridge.wait_for_line("configuration reloaded", 120)
        found["reload_done_s"] = await _quiet(counter) - began
        found["reload_requests"] = float(counter.requests)
        await bridge.terminate()
        return found


def _configure(world: World, address: str, peers: int) -> None:
    services = {"unused": {"target": "tcp:127.0.0.1:1"}}
    world.settings = {
        "homeserver": {"address": address, "domain": DOMAIN},
        "peers": {f"p{number}": {"services": services} for number in range(peers)},
        **OFF,
    }


async def _start(world: World, counter: Counter, began: float) -> tuple[float, float, Any]:
    counter.requests = 0
    bridge = world.admin("run")
    await bridge.__aenter__()
    await bridge.wait_for_line("bridge ready", 120)
    return time.monotonic() - began, float(counter.requests), bridge


async def _run(world: World, counter: Counter) -> None:
    """Have the bridge do all that a first start does."""
    _, _, bridge = await _start(world, counter, time.monotonic())
    await _quiet(counter)
    await bridge.terminate()


async def _quiet(counter: Counter) -> float:
    """Wait until nothing is asked any more; returns when that began."""
    seen, since = counter.requests, time.monotonic()
    while time.monotonic() - since < QUIET_S:
        await asyncio.sleep(0.02)
        if counter.requests != seen:
            seen, since = counter.requests, time.monotonic()
    return since


async def _make_rooms(world: World, rooms: int) -> None:
    """Have each peer make its share, for a user who joins them."""
    alice = await world.homeserver.login("alice", PASSWORD)
    base, todo = f"{world.homeserver.url}/_matrix/client/v3", iter(range(rooms))
    by_peer, by_alice = {"Authorization": f"Bearer {'as' * 24}"}, {"Authorization": f"Bearer {alice.access_token}"}

    async def make(http: ClientSession) -> None:
        for number in todo:
            query = {"user_id": f"@rtc_p{number % PEERS}:{DOMAIN}"}
            content = {"invite": [alice.user_id], "preset": "trusted_private_chat", "is_direct": True}
            async with http.post(f"{base}/createRoom", params=query, json=content, headers=by_peer) as answer:
                room = (await answer.json())["room_id"]
            async with http.post(f"{base}/rooms/{room}/join", json={}, headers=by_alice) as answer:
                assert answer.status == 200, await answer.text()

    async with ClientSession() as http:
        await asyncio.gather(*(make(http) for _ in range(AT_ONCE)))
