"""A message of a device that nobody knows is heard when it was looked up beside the reading, and in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId, server_of
from mxrtc_bridge.matrix.crypto.late_senders import LOOK_S, MESSAGES_OF_DEVICE, PROVEN_S
from tests.honesty import Honesty
from tests.matrix.crypto.device_world import ALICE, Sender, Server, World, tell

CAROL = UserId("@carol:good.test")


class Slow(Server):
    """Servers that hang give up after eight seconds, as behind Synapse."""

    failing = 0

    async def query_keys(self, users: Sequence[UserId]) -> Mapping[str, object]:
        hangs = any(server_of(user) in self.hanging for user in users)
        self.asked.append(tuple(users))
        await asyncio.sleep(8 if hangs else 0.05)
        if self.failing:
            self.failing -= 1
            raise HomeserverError("away", 502)
        return {"device_keys": {}, "failures": {server_of(users[0]): {}}} if hangs else self.truth(users)


class SlowWorld(World):
    def __init__(self) -> None:
        super().__init__(lambda user: user == CAROL)
        self.server = Slow()

    async def strangers(self, count: int, *, proves: bool = False) -> None:
        """Have new names, whose servers hang, write one message each."""
        for number in range(count):
            stranger = Sender(UserId(f"@m:evil{number}.test"), self.server, self.ours, proves=proves)
            self.server.hanging.add(f"evil{number}.test")
            await self.receives(stranger.says())

    def heard(self, *users: UserId) -> list[str]:
        return [event.type for event in self.received if event.sender in users]


def test_caller_with_a_right_is_heard_at_once_beside_strangers_whose_servers_hang() -> None:
    world = SlowWorld()

    async def story(made: World) -> None:
        carol = Sender(CAROL, made.server, made.ours, proves=False)
        alice = Sender(ALICE, made.server, made.ours, proves=False)
        await world.strangers(20)
        await made.receives(carol.says("io.example.first"), carol.says("io.example.second"), alice.says())
        await asyncio.sleep(0.2)
        assert world.heard(CAROL) == ["io.example.first", "io.example.second"]
        assert len(world.heard(ALICE)) == 1
        assert all(event.device is not None and event.device.device == "DEVICE" for event in made.received)
        await made.receives(carol.says("io.example.third"))
        assert world.heard(CAROL)[-1] == "io.example.third", "from now on it is known, and read in its order"
        await made.work.idle()
        assert {event.sender for event in made.received} == {CAROL, ALICE}, "nobody vouches for the others"

    tell(story, world)


def test_messages_that_come_while_their_device_is_looked_up_stay_in_order() -> None:
    world = SlowWorld()

    async def story(made: World) -> None:
        carol = Sender(CAROL, made.server, made.ours, proves=False)
        types = [f"io.example.{number}" for number in range(300)]
        for start in range(0, 300, 100):
            await made.receives(*(carol.says(each) for each in types[start : start + 100]))
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        assert world.heard(CAROL) == types

    tell(story, world)


def test_message_that_proves_its_device_is_heard_after_a_moment_although_its_server_hangs() -> None:
    world = SlowWorld()

    async def story(made: World) -> None:
        made.server.hanging.add("good.test")
        carol = Sender(CAROL, made.server, made.ours, proves=True)
        await made.receives(carol.says())
        await asyncio.sleep(PROVEN_S + 0.01)
        assert len(world.heard(CAROL)) == 1

    tell(story, world)


def test_homeserver_that_is_away_for_a_moment_is_asked_again() -> None:
    world = SlowWorld()

    async def story(made: World) -> None:
        assert isinstance(made.server, Slow)
        carol = Sender(CAROL, made.server, made.ours, proves=False)
        made.server.failing = 1
        await made.receives(carol.says())
        await asyncio.sleep(LOOK_S)
        assert len(world.heard(CAROL)) == 1

    tell(story, world)


def test_database_that_is_busy_while_a_device_is_looked_up_loses_no_message() -> None:
    world = SlowWorld()

    async def story(made: World) -> None:
        carol = Sender(CAROL, made.server, made.ours, proves=False)
        await made.receives(carol.says())
        made.store.honesty = Honesty.WRONG
        await asyncio.sleep(5)
        made.store.honesty = Honesty.TRUE
        await asyncio.sleep(5)
        assert len(world.heard(CAROL)) == 1

    tell(story, world)


@pytest.mark.parametrize("proves", [True, False])
def test_what_strangers_have_waiting_is_bounded(proves: bool) -> None:
    world = SlowWorld()

    async def story(made: World) -> None:
        stranger = Sender(UserId("@m:evil.test"), made.server, made.ours, proves=proves)
        made.server.hanging.add("evil.test")
        types = [f"io.example.{number}" for number in range(MESSAGES_OF_DEVICE + 50)]
        for each in types:
            await made.receives(stranger.says(each))
        assert len(made.work) == 1, "one device is one piece of work, however much it sends"
        await made.work.idle()
        # What has no place is dropped: nothing overtakes what waits.
        assert [event.type for event in made.received] == (types[:MESSAGES_OF_DEVICE] if proves else [])

    tell(story, world)
