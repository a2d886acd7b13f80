"""All who wait for the key of a session are woken when it comes."""

from __future__ import annotations

import asyncio
from typing import Any

from mxrtc_bridge.core.crypto.records import InboundRecord
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.crypto.inbound import MAX_WAITING, InboundSessions

NAME = (RoomId("!r:x"), "S", UserId("@a:x"))
RECORD = InboundRecord(*NAME[:2], "", NAME[2], "c", "e", "DEVICE", 0)


class Store:
    def __init__(self) -> None:
        self.has = False

    async def inbound(self, *_name: str) -> Any:
        return RECORD if self.has else None


def made(store: Store) -> InboundSessions:
    return InboundSessions(store, b"", wall_ms=lambda: 0)  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_every_waiter_is_woken_when_the_key_comes_also_when_another_has_given_up() -> None:
    store = Store()
    sessions = made(store)
    first = asyncio.create_task(sessions.wait_for_key(*NAME, 60))
    await settle()
    assert not await sessions.wait_for_key(*NAME, 0), "it has given up"
    second = asyncio.create_task(sessions.wait_for_key(*NAME, 60))
    third = asyncio.create_task(sessions.wait_for_key(*NAME, 60))
    await settle()
    third.cancel()
    await settle()
    store.has = True
    sessions.key_saved(RECORD)
    async with asyncio.timeout(1):
        assert await asyncio.gather(first, second) == [True, True]
    assert sessions.awaited == 0


async def test_keys_that_are_waited_for_are_bounded_and_forgotten_when_nobody_waits() -> None:
    sessions = made(Store())
    waiting = [
        asyncio.create_task(sessions.wait_for_key(NAME[0], f"S{n}", NAME[2], 60)) for n in range(MAX_WAITING * 2)
    ]
    await settle()
    assert sessions.awaited == MAX_WAITING
    assert [task.result() for task in waiting if task.done()] == [False] * MAX_WAITING
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert sessions.awaited == 0
