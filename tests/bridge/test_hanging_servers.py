"""Servers of callers that hang: what they leave to those that answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mxrtc_bridge.bridge.devices.lookups import (
    FRESH_S,
    NEW_AT_A_TIME,
    SILENT_AT_A_TIME,
    SILENT_S,
    YOUNG_MS,
    Standing,
)
from mxrtc_bridge.core.ids import UserId, server_of
from tests.bridge.devices.test_lookups import FAR, World

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def world() -> World:
    return World()


class Hanging:
    """A homeserver that waits without end for users of some servers."""

    def __init__(self, world: World) -> None:
        self.names: set[str] = set()
        self.under_way: Counter[str] = Counter()
        self._truth = world.server.query_keys
        world.server.query_keys = self._query  # type: ignore[method-assign]

    async def _query(self, users: Sequence[UserId]):  # type: ignore[no-untyped-def]
        for server in {server_of(user) for user in users} & self.names:
            self.under_way[server] += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.under_way[server] -= 1
        return await self._truth(users)


async def settled() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def end(judging: Sequence[asyncio.Task[Standing]]) -> None:
    for each in judging:
        each.cancel()
    await asyncio.gather(*judging, return_exceptions=True)


@pytest.mark.parametrize("count", [NEW_AT_A_TIME, 10, 50])
@pytest.mark.parametrize("known", ["it has answered before", "they have hung before"])
async def test_names_that_hang_keep_no_other_server_from_being_asked(world: World, known: str, count: int) -> None:
    """With a grant to everybody, anybody may call from as many names as they like."""
    hanging = Hanging(world)
    far = world.server.log_in(FAR, "PHONE")
    evil = [replace(far, user=UserId(f"@m{n}:evil{n}.test")) for n in range(count)]
    hanging.names = {server_of(each.user) for each in evil}
    if known == "it has answered before":
        assert await world.judge(far) is Standing.GOOD
    else:
        for each in evil:
            assert await world.judge(each) is Standing.UNKNOWN
    for _ in range(2):
        world.now_s += SILENT_S
        judging = [asyncio.create_task(world.judge(each)) for each in evil * 2]
        await settled()
        assert hanging.under_way.total() in (NEW_AT_A_TIME, SILENT_AT_A_TIME)
        assert await world.judge(far) is Standing.GOOD
        await end(judging)


async def test_server_that_has_answered_and_hangs_then_is_behind_those_that_answer(world: World) -> None:
    hanging = Hanging(world)
    far = world.server.log_in(FAR, "PHONE")
    evil = [world.server.log_in(UserId(f"@m{n}:evil{n}.test"), "PHONE") for n in range(10)]
    for each in (far, *evil):
        assert await world.judge(each) is Standing.GOOD
    hanging.names = {server_of(each.user) for each in evil}
    world.now_s += YOUNG_MS / 1000
    for each in evil:
        assert await world.judge(each) is Standing.UNKNOWN
    world.now_s += SILENT_S
    judging = [asyncio.create_task(world.judge(each)) for each in evil]
    await settled()
    assert hanging.under_way.total() == SILENT_AT_A_TIME
    assert await world.judge(far) is Standing.GOOD
    await end(judging)
    # One that answers again is among those that do.
    hanging.names.clear()
    world.now_s += SILENT_S
    assert await world.judge(evil[0]) is Standing.GOOD
    assert server_of(evil[0].user) in world.lookups.status().answering


async def test_servers_that_answer_are_remembered_up_to_a_number() -> None:
    world = World(max_remembered=3)
    for n in (0, 1, 2, 0, 3):
        world.now_s += FRESH_S + 0.1
        assert await world.judge(world.server.log_in(UserId(f"@u:s{n}.test"), "PHONE")) is Standing.GOOD
    assert list(world.lookups.status().answering) == ["s2.test", "s0.test", "s3.test"]
