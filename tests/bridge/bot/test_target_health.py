"""One look at a target serves all who ask for it, and is nobody's alone."""

from __future__ import annotations

import asyncio

from mxrtc_bridge.bridge.bot.target_health import TargetStates
from mxrtc_bridge.core.access.targets import Target, TcpTarget
from tests.engine.test_session_channels import Connector
from tests.fakes import FakeSink

TARGET = TcpTarget("127.0.0.1", 22)


class HangsAtFirst(Connector):
    """The first look never ends."""

    looks = 0

    async def connect(self, target: Target) -> FakeSink:
        self.looks += 1
        if self.looks == 1:
            await asyncio.Event().wait()
        return await super().connect(target)


async def test_look_that_one_gives_up_is_done_again_for_another_who_shares_it() -> None:
    connector = HangsAtFirst()
    states = TargetStates(connector, asyncio.get_running_loop().time)
    first = asyncio.create_task(states.of([TARGET]))
    while not connector.looks:
        await asyncio.sleep(0)
    second, given_up = asyncio.create_task(states.of([TARGET])), asyncio.create_task(states.of([TARGET]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    given_up.cancel()
    first.cancel()
    assert await second == {TARGET: True}
    await asyncio.gather(first, given_up, return_exceptions=True)
    assert first.cancelled()
    assert given_up.cancelled()
    assert connector.looks == 2
