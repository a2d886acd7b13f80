"""Who is next."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.bounds.shares import ShareLimits
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.engine.round_robin import RoundRobin

OWN = "example.org"
LIMITS = ShareLimits(sender=1, server=2, foreign=3, others=4, total=6)


def user(name: str, server: str = OWN) -> UserId:
    return UserId(f"@{name}:{server}")


ADMIN = user("admin")


class Place:
    """Work that goes on until it is told to end."""

    def __init__(self, limits: ShareLimits = LIMITS) -> None:
        self.turns = RoundRobin(limits, OWN, lambda who: who.startswith("@admin"))
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def order(self, name: str, sender: UserId) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._work(name, sender))
        await settle()

    async def _work(self, name: str, sender: UserId) -> None:
        async with self.turns.of(sender):
            self.begun.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settle()

    async def end_all(self) -> None:
        while self.turns.active:
            for name in tuple(self.begun):
                self.ends[name].set()
            await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_work_of_one_sender_is_done_in_order_and_one_at_a_time() -> None:
    place = Place()
    for name in ("1", "2", "3"):
        await place.order(name, user("a"))
    assert place.begun == ["1"]
    await place.end("1")
    assert place.begun == ["1", "2"]
    await place.end_all()
    assert place.begun == ["1", "2", "3"]


async def test_slow_work_of_a_foreign_server_holds_its_own_places_only() -> None:
    place = Place()
    for n in range(10):
        await place.order(f"f{n}", user(f"u{n}", "slow.test"))
    assert place.begun == ["f0", "f1"]
    await place.order("other", user("u", "other.test"))
    await place.order("own", user("a"))
    await place.order("admin", ADMIN)
    assert place.begun == ["f0", "f1", "other", "own", "admin"]


async def test_crowd_of_strangers_leaves_places_for_those_with_a_right() -> None:
    place = Place()
    for n in range(10):
        await place.order(f"o{n}", user(f"u{n}"))
    assert place.begun == ["o0", "o1", "o2", "o3"]
    await place.order("admin", ADMIN)
    await place.order("second", user("admin2"))
    await place.order("third", user("admin3"))
    assert place.begun[4:] == ["admin", "second"]
    await place.end("o0")
    assert place.begun[6:] == ["third"], "and they come first when a place becomes free"


async def test_lines_and_servers_and_senders_take_turns() -> None:
    place = Place(ShareLimits(sender=1, server=1, foreign=1, others=1, total=1))
    await place.order("first", user("z"))
    for n in range(3):
        await place.order(f"x{n}", user(f"u{n}", "x.test"))
    await place.order("y0", user("u", "y.test"))
    for n in range(3):
        await place.order(f"a{n}", user("a"))
    await place.order("b0", user("b"))
    await place.end_all()
    foreign = [name for name in place.begun if name[0] in "xy"]
    own = [name for name in place.begun if name[0] in "ab"]
    assert foreign == ["x0", "y0", "x1", "x2"]
    assert own == ["a0", "b0", "a1", "a2"]
    assert abs(place.begun.index("x0") - place.begun.index("a0")) == 1


async def test_who_is_cancelled_while_waiting_gives_the_place_to_the_next() -> None:
    place = Place()
    for name in ("1", "2", "3"):
        await place.order(name, user("a"))
    place.tasks["2"].cancel()
    await settle()
    assert place.turns.waiting == 1
    await place.end("1")
    assert place.begun == ["1", "3"]
    place.tasks["3"].cancel()
    await settle()
    assert (place.turns.active, place.turns.waiting) == (0, 0)


async def test_who_is_cancelled_when_its_turn_has_just_come_gives_it_on() -> None:
    place = Place()
    for name in ("1", "2", "3"):
        await place.order(name, user("a"))
    place.ends["1"].set()
    while place.turns.waiting == 2:
        await asyncio.sleep(0)
    place.tasks["2"].cancel()
    await settle()
    assert place.begun == ["1", "3"]
    await place.end("3")
    assert (place.turns.active, place.turns.waiting) == (0, 0)


async def test_many_that_are_cancelled_leave_nothing_behind() -> None:
    place = Place()
    for n in range(200):
        await place.order(str(n), user(f"u{n % 20}", f"s{n % 7}.test" if n % 2 else OWN))
    for task in place.tasks.values():
        task.cancel()
    await asyncio.gather(*place.tasks.values(), return_exceptions=True)
    assert (place.turns.active, place.turns.waiting) == (0, 0)
    assert place.turns.servers == 0


def fair_work(limits: ShareLimits) -> FairWork:
    at_once = ShareLimits(sender=1, server=1, foreign=2, others=3, total=4)
    return FairWork("work", waiting=limits, at_once=at_once, own_server=OWN, has_right=lambda who: who == ADMIN)


async def test_fair_work_beyond_a_share_is_dropped_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    work, done = fair_work(ShareLimits(sender=2, server=3, foreign=4, others=5, total=6)), []

    async def job() -> None:
        done.append(1)

    taken = [work.put(user("a"), job) for _ in range(5)]
    assert taken == [True, True, False, False, False]
    assert len([r for r in caplog.records if "dropped" in r.message]) == 1
    running = asyncio.create_task(work.run())
    await work.idle()
    assert len(done) == 2
    assert work.put(user("a"), job)
    await work.idle()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_fair_work_names_a_share_once_however_many_names_have_filled_it(caplog: pytest.LogCaptureFixture) -> None:
    work = fair_work(ShareLimits(sender=2, server=3, foreign=4, others=5, total=6))

    async def job() -> None: ...

    for crowd in (["far.test"] * 50, [f"s{n}.test" for n in range(50)], [OWN] * 50):
        for number, server in enumerate(crowd):
            work.put(user(f"u{number}", server), job)
    said = [record.message.rsplit("the share ", 1)[1] for record in caplog.records if "dropped" in record.message]
    assert said == ["of one server is full", "of all foreign servers is full", "of all who have no right is full"]


async def test_fair_work_that_fails_ends_itself_only() -> None:
    work, done = fair_work(ShareLimits(sender=9, server=9, foreign=9, others=9, total=9)), []

    async def fails() -> None:
        raise ValueError("odd")

    async def job() -> None:
        done.append(1)

    running = asyncio.create_task(work.run())
    work.put(user("a"), fails)
    work.put(user("a"), job)
    await work.idle()
    assert done == [1]
    assert len(work) == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_fair_work_that_comes_between_two_owners_is_done_by_the_second() -> None:
    work, done = fair_work(ShareLimits(sender=2, server=3, foreign=4, others=5, total=6)), []

    async def job() -> None:
        done.append(1)

    for _ in range(3):
        running = asyncio.create_task(work.run())
        await asyncio.sleep(0)
        await work.idle()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert work.put(user("a"), job), "nothing of what was done keeps its place"
    running = asyncio.create_task(work.run())
    await work.idle()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(done) == 3
