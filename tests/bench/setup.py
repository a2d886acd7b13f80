"""How long a call takes until bytes can pass: by a room, by devices, and in an encrypted room.

The first two with ``mxrtc``, in turn, and by devices once more where the homeserver announces messages; the last two
with matrix-js-sdk in Chromium, plain and encrypted, because only there a client has both. Ratios within each pair mean
something.
"""

from __future__ import annotations

import json
import statistics
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.peers import SWITCHES
from tests.e2e.pages import run_page
from tests.e2e.world import PASSWORD, World, digest, echo

CALLS = 12
PAGES = 3


async def measure_setup(folder: Path) -> dict[str, object]:
    """Medians in milliseconds, and ratios."""
    terminal = await _terminal(folder / "terminal", {})
    announced = await _terminal(folder / "announced", {"receive": "transactions"})
    browser = await _browser(folder / "browser")
    terminal["device, announced"] = announced["device"]
    return {
        "mxrtc, ms": terminal,
        "device_to_room": terminal["device"] / terminal["room"],
        "browser, ms": browser,
        "encrypted_to_plain": browser["encrypted"] / browser["plain"],
    }


async def _terminal(folder: Path, encryption: dict[str, str]) -> dict[str, float]:
    folder.mkdir()
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack, settings={"encryption": encryption}, extra_config=SWITCHES)
        world.grant("alice", "build/unused")
        await world.add_user("alice")
        bridge = await world.start_bridge()
        if encryption:
            await bridge.wait_for_line("are announced by transactions", 60)
        found: dict[str, list[float]] = {"room": [], "device": []}
        # The first of each makes a room, or a device.
        for number in range(CALLS + 1):
            for mode, times in found.items():
                world.signal = mode
                code, out, said = await world.run_mxrtc("alice", "--json", "ping", "build", "-c", "1")
                assert code == 0, said
                rows = [json.loads(line) for line in (out.decode() + said).splitlines() if line.startswith("{")]
                if number:
                    times += [row["setup_ms"] for row in rows if row["kind"] == "connected"]
        return {mode: statistics.median(times) for mode, times in found.items()}


async def _browser(folder: Path) -> dict[str, float]:
    folder.mkdir()
    found: dict[str, float] = {}
    for mode, script, function, homeserver in (
        ("plain", "page.js", "exchange", {}),
        ("encrypted", "encrypted.js", "encryptedCall", {"encryption_enabled_by_default_for_room_type": "all"}),
    ):
        place = folder / mode
        place.mkdir()
        async with AsyncExitStack() as stack:
            world = await World.start(place, stack, extra_config=homeserver)
            await world.serve("raw-echo", echo, raw=True)
            await world.serve("digest", digest)
            world.grant("alice", "build/raw-echo", "build/digest")
            world.settings["ice"] = {"interfaces": [], "remote": {"loopback": True, "private": True}}
            await world.homeserver.register_user("alice", PASSWORD)
            await world.start_bridge()
            times = []
            for _ in range(PAGES):
                result = await run_page(script, function, world, place)
                assert "failed" not in result, result
                times.append(result["setupMs"])
            found[mode] = statistics.median(times)
    return found
