"""A message whose device could not be asked for in the order is heard when its server has answered beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from mxrtc_bridge.core.ids import UserId, server_of
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.receive_budget import ASK_S
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from tests import virtual_time
from tests.matrix.crypto.device_world import ALICE, Sender, Server, answer_of, peer_at

CAROL = UserId("@carol:good.test")


class Slow(Server):
    """Servers that hang give up after eight seconds, as behind Synapse."""

    async def query_keys(self, device: object, users: Sequence[UserId]) -> Mapping[str, object]:
        hangs = any(server_of(user) in self.hanging for user in users)
        self.asked.append(tuple(users))
        await asyncio.sleep(8 if hangs else 0.05)
        return {"device_keys": {}, "failures": {server_of(users[0]): {}}} if hangs else self.truth(users)


class World:
    def __init__(self) -> None:
        self.server, self.late = Slow(), list[ToDeviceEvent]()
        self.work = FairWork("test", "example.org", lambda user: user == CAROL)
        self.ours: CryptoDevice

    async def deliver(self, _device: CryptoDevice, event: ToDeviceEvent) -> None:
        self.late.append(event)

    async def strangers(self, count: int) -> None:
        """Have new names, whose servers hang, use up what there is for new names."""
        for number in range(count):
            stranger = Sender(UserId(f"@m:evil{number}.test"), self.server, self.ours, proves=False)
            self.server.hanging.add(f"evil{number}.test")
            await self.receives(stranger.says())

    async def receives(self, *messages: dict[str, Any]) -> list[UserId]:
        began_s = asyncio.get_running_loop().time()
        events = await self.ours.receive_sync(answer_of(*messages))
        assert asyncio.get_running_loop().time() - began_s <= ASK_S + 0.11
        return [event.sender for event in events]


def tell(story: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        made = World()
        running = asyncio.create_task(made.work.run())
        made.ours = await peer_at(made.server, later=made.work.put, deliver=made.deliver)
        try:
            await story(made)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    virtual_time.run(run())


def test_a_caller_with_a_right_is_heard_beside_strangers_who_have_used_up_the_time() -> None:
    async def story(made: World) -> None:
        carol = Sender(CAROL, made.server, made.ours, proves=False)
        alice = Sender(ALICE, made.server, made.ours, proves=False)
        await made.strangers(20)
        assert await made.receives(carol.says("io.example.first"), carol.says("io.example.second"), alice.says()) == [
            ALICE
        ]
        async with asyncio.timeout(1):
            while len(made.late) < 2:
                await asyncio.sleep(0.01)
        assert [(event.sender, event.type) for event in made.late] == [
            (CAROL, "io.example.first"),
            (CAROL, "io.example.second"),
        ]
        assert made.late[0].device is not None
        assert await made.receives(carol.says()) == [CAROL], "from now on it is known"
        await made.work.idle()
        assert {event.sender for event in made.late} == {CAROL}, "nothing is heard of devices that nobody vouches for"

    tell(story)


def test_a_message_that_proves_itself_is_handed_on_at_once_whatever_strangers_have_used_up() -> None:
    async def story(made: World) -> None:
        carol = Sender(CAROL, made.server, made.ours, proves=True)
        await made.strangers(4)
        assert await made.receives(carol.says()) == [CAROL]
        await made.work.idle()
        assert made.late == []

    tell(story)
