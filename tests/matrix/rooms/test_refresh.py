"""The homeserver is asked once for all that want to know, not too often, and again when it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId
from mxrtc_bridge.matrix.rooms import refresh as module
from mxrtc_bridge.matrix.rooms.refresh import Refresher

ROOM, OTHER = RoomId("!room:example.org"), RoomId("!other:example.org")


async def _nothing() -> None:
    pass


class World:
    """A homeserver that answers, lies about the age of its answer, or does not."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[RoomId] = []
        self.busy = self.most_busy = 0
        self.meanwhile: Callable[[], Awaitable[None]] = _nothing
        self.fails = False
        self.again: float | None = None
        self.refresher = Refresher("members", self.read, monotonic=lambda: self.now)

    async def read(self, room: RoomId) -> float | None:
        self.asked.append(room)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await asyncio.sleep(0)
            await self.meanwhile()
        finally:
            self.busy -= 1
        if self.fails:
            raise HomeserverError("away", 502)
        return self.again


@pytest.fixture
def world() -> World:
    return World()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_all_that_want_to_know_share_one_question(world: World) -> None:
    await asyncio.gather(*(world.refresher.confirm(ROOM, 5) for _ in range(10)))
    assert world.asked == [ROOM]
    world.now += 5
    await world.refresher.confirm(ROOM, 5)
    assert world.asked == [ROOM]
    world.now += 0.1
    await world.refresher.confirm(ROOM, 5)
    assert world.asked == [ROOM] * 2


async def test_doubt_that_comes_while_a_question_is_under_way_is_asked_about_again(world: World) -> None:
    async def doubt() -> None:
        world.meanwhile = _nothing
        world.refresher.doubt(ROOM)

    world.meanwhile = doubt
    await world.refresher.confirm(ROOM, 5)
    assert world.refresher.is_doubtful(ROOM)
    await world.refresher.confirm(ROOM)
    assert (world.asked, world.refresher.is_doubtful(ROOM)) == ([ROOM] * 2, False)
    await world.refresher.confirm(ROOM)
    assert len(world.asked) == 2


async def test_question_that_fails_is_raised_to_who_waits_and_nothing_counts_as_known(world: World) -> None:
    world.fails = True
    with pytest.raises(HomeserverError):
        await world.refresher.confirm(ROOM, 5)
    assert world.refresher.age(ROOM) is None
    world.fails = False
    await world.refresher.confirm(ROOM, 5)
    assert world.refresher.age(ROOM) == 0


async def test_cancelled_wait_leaves_the_others_their_answer(world: World) -> None:
    gate = asyncio.Event()

    async def hang() -> None:
        await gate.wait()

    world.meanwhile = hang
    first = asyncio.create_task(world.refresher.confirm(ROOM, 5))
    second = asyncio.create_task(world.refresher.confirm(ROOM, 5))
    await turns()
    first.cancel()
    await turns()
    gate.set()
    await second
    assert world.asked == [ROOM] * 2


async def test_doubtful_rooms_are_asked_for_in_the_background_few_at_a_time(world: World) -> None:
    rooms = [RoomId(f"!{number}:example.org") for number in range(30)]
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.refresher.run())
        for room in rooms:
            world.refresher.doubt(room)
            world.refresher.doubt(room)
        await turns(100)
        running.cancel()
    assert sorted(world.asked) == sorted(rooms)
    assert world.most_busy == module.PARALLEL


async def test_room_that_never_rests_is_not_asked_for_without_a_pause(world: World) -> None:
    """The pause grows with what an answer costs, and whoever must know now does not wait for it."""

    async def slow() -> None:
        world.now += 4
        world.refresher.doubt(ROOM)

    world.meanwhile = slow
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.refresher.run())
        world.refresher.doubt(ROOM)
        await turns(100)
        assert world.asked == [ROOM]
        world.now += 11
        world.refresher.doubt(ROOM)
        await turns()
        assert world.asked == [ROOM]
        world.now += 1
        world.refresher.doubt(ROOM)
        await turns()
        assert world.asked == [ROOM] * 2
        await world.refresher.confirm(ROOM)
        assert world.asked == [ROOM] * 3
        running.cancel()


async def test_homeserver_that_does_not_answer_is_asked_again_with_growing_pauses_and_logged_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.fails = True
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.refresher.run())
        world.refresher.doubt(ROOM)
        await turns()
        pauses, last = [], world.now
        while len(pauses) < 8:
            world.now += 1
            world.refresher.doubt(OTHER)
            count = world.asked.count(ROOM)
            await turns(5)
            if world.asked.count(ROOM) > count:
                pauses.append(world.now - last)
                last = world.now
        world.fails = False
        world.now += 61
        world.refresher.doubt(ROOM)
        await turns()
        assert not world.refresher.is_doubtful(ROOM)
        running.cancel()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert caplog.text.count(f"members of {ROOM} could not be asked for") == 1


async def test_answer_that_may_be_too_old_is_asked_for_again_after_a_while(world: World) -> None:
    world.again = 5.0
    await world.refresher.confirm(ROOM, 5)
    assert world.refresher.is_doubtful(ROOM)
    world.again = None
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.refresher.run())
        world.now += 4.9
        await turns()
        assert len(world.asked) == 1
        world.now += 0.1
        world.refresher.doubt(OTHER)
        await turns()
        assert world.asked == [ROOM, ROOM, OTHER]
        running.cancel()


async def test_forgotten_room_is_asked_for_no_more(world: World) -> None:
    world.refresher.doubt(ROOM)
    world.refresher.forget(ROOM)
    assert not world.refresher.is_doubtful(ROOM)

    async def forget() -> None:
        world.refresher.doubt(ROOM)
        world.refresher.forget(ROOM)

    world.meanwhile = forget
    await world.refresher.confirm(ROOM)
    assert (world.refresher.is_doubtful(ROOM), world.refresher.age(ROOM)) == (False, None)
