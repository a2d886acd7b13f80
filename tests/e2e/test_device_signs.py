"""Messages for devices that the homeserver announces by transactions, with its experimental switches on and off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.bench.peers import SWITCHES, counting
from tests.e2e.test_outages import messages_for_devices
from tests.e2e.world import DOMAIN, World, echo
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.alone]

ANNOUNCED = "messages for devices are announced by transactions"


@pytest.fixture(params=[True, False], ids=["switched on", "switched off"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    switches = SWITCHES if request.param else {}
    async with AsyncExitStack() as stack:
        settings = {"encryption": {"enabled": "on", "receive": "transactions"}}
        world = await World.start(tmp_path, stack, settings=settings, extra_config=switches)
        await world.serve("echo", echo)
        world.grant("alice", "build/echo")
        world.signal = "device"
        address, counter = await stack.enter_async_context(counting(world.homeserver.url))
        world.settings["homeserver"] = {"address": address, "domain": DOMAIN}
        world.counter = counter  # type: ignore[attr-defined]
        world.switched_on = request.param  # type: ignore[attr-defined]
        await world.add_user("alice")
        yield world


async def ping(world: World) -> dict[str, Any]:
    code, out, errors = await world.run_mxrtc("alice", "--json", "ping", "-c", "1", "build")
    assert code == 0, errors
    return next(each for each in map(json.loads, out.splitlines()) if each["kind"] == "connected")


async def test_calls_come_at_once_and_nothing_is_missed_whether_it_is_announced_or_not(world: World) -> None:
    switched_on = world.switched_on  # type: ignore[attr-defined]
    registration = (world.folder / "registration.yaml").read_text()
    assert "org.matrix.msc3202: true" in registration
    bridge = await world.start_bridge()
    await bridge.wait_for_line(ANNOUNCED if switched_on else f"not {ANNOUNCED[len('messages for devices are ') :]}", 40)
    async with asyncio.timeout(30):
        # With signs nothing is left open: idle peers ask for nothing. Without them, two devices have a poll each.
        while world.counter.open != (0 if switched_on else 2):  # type: ignore[attr-defined]
            await asyncio.sleep(0.05)
    for _ in range(2):
        assert (await ping(world))["signalling"] == "device"

    # What comes while the bridge is down is fetched when it is up again, if the call is still young then. The caller
    # waits for 5 seconds, and a slow machine may take longer to start a bridge: then it is tried again.
    for _ in range(5):
        await bridge.terminate()
        kept = messages_for_devices(world)
        async with world.mxrtc("alice", "--json", "--signal", "device", "ping", "-c", "1", "build") as calling:
            await until(lambda kept=kept: messages_for_devices(world) > kept, 30)
            begun = asyncio.get_running_loop().time()
            bridge = await world.start_bridge()
            took_s = asyncio.get_running_loop().time() - begun
            code = await calling.wait(60)
        if code == 0:
            break
        assert took_s > 2.5, calling.tail()
    assert code == 0, calling.tail()
