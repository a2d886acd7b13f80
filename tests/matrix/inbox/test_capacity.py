"""Nobody's flood is others' wait: places in the inbox, by sender, server and room."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from mxrtc_bridge.core.bounds.shares import host_of
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.rate_limited_log import SUBJECTS
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.inbox.capacity import CapacityLimits
from mxrtc_bridge.matrix.inbox.inbox import InboxLimits
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.events import InboxStore
from tests.long import size
from tests.matrix.inbox.bench import (
    ALICE,
    MemoryStore,
    Recorder,
    kill,
    make_inbox,
    plenty,
    raw_event,
    running,
    shares,
)

MALLORY, ADMIN = "@mallory:evil.test", "@admin:example.org"


class Slow:
    """A handler that never ends for some, and takes down what it gets of others."""

    def __init__(self, is_slow: Any = lambda event: event.sender != ALICE) -> None:
        self.begun: list[RoomEvent] = []
        self.handled: list[RoomEvent] = []
        self.opened = asyncio.Event()
        self._is_slow = is_slow

    async def __call__(self, event: RoomEvent) -> None:
        self.begun.append(event)
        if self._is_slow(event):
            await self.opened.wait()
        self.handled.append(event)

    def senders(self) -> Counter[str]:
        return Counter(event.sender for event in self.begun)


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def flood(inbox: Any, count: int, *, start: int = 1000, page: int = 1000, **changes: Any) -> None:
    for first in range(start, start + count, page):
        events = [raw_event(n, sender=MALLORY, **changes) for n in range(first, min(first + page, start + count))]
        inbox.look(events)
        await inbox.accept(str(first), events)


async def test_flood_into_one_room_leaves_the_next_transaction_of_another_room_alone() -> None:
    """100,000 events, each of which takes for ever."""
    number = size(100_000, 20_000)
    slow, metrics = Slow(), Metrics()
    async with running(make_inbox(MemoryStore(), slow, metrics=metrics)) as inbox:
        await flood(inbox, number, page=10_000)
        before = time.monotonic()
        await inbox.accept("next", [raw_event(1, 1)])
        await turns()
        assert time.monotonic() - before < 1
        assert [event.sender for event in slow.handled] == [ALICE]
        assert f'mxrtc_events_total{{outcome="dropped"}} {number - 500}.0'.encode() in metrics.render()
        slow.opened.set()
        await inbox.idle()
    assert slow.senders() == {MALLORY: 500, ALICE: 1}


async def test_flood_of_one_sender_does_not_delay_anybody_else_in_the_room() -> None:
    slow = Slow()
    async with running(make_inbox(MemoryStore(), slow)) as inbox:
        await flood(inbox, 10_000)
        await inbox.accept("next", [raw_event(1), raw_event(2)])
        await turns()
        assert [event.content["number"] for event in slow.handled] == [1, 2]
        slow.opened.set()


async def test_flood_that_is_handled_is_passed_by_others_after_a_few() -> None:
    """In a room in which many events of one sender wait already."""
    recorder = Recorder(delay=lambda: 3)
    async with running(make_inbox(MemoryStore(), recorder)) as inbox:
        await flood(inbox, 500)
        await inbox.accept("next", [raw_event(1)])
        await inbox.idle()
    assert recorder.numbers.index(1) < 10
    assert [n for n in recorder.numbers if n >= 1000] == list(range(1000, 1500)), "and order is kept for each sender"


async def test_changes_of_a_room_have_places_of_their_own() -> None:
    """A flood takes none of them, and slow messages hold up none."""
    slow = Slow(lambda event: event.type != "m.room.member")
    async with running(make_inbox(MemoryStore(), slow)) as inbox:
        await flood(inbox, 2000)
        leave = {"type": "m.room.member", "state_key": MALLORY, "content": {"membership": "leave", "number": 1}}
        await inbox.accept("kick", [raw_event(1, **leave), raw_event(2, sender=MALLORY, **leave)])
        await turns()
        assert [event.type for event in slow.handled] == ["m.room.member"] * 2
        slow.opened.set()


async def test_changes_of_rooms_that_take_long_leave_the_places_of_other_events_alone() -> None:
    """Joins of a slow server, as many as may be done at a time."""
    slow = Slow(lambda event: event.type == "m.room.member")
    invite = {"type": "m.room.member", "state_key": "@rtc_build:example.org", "content": {"membership": "invite"}}
    async with running(make_inbox(MemoryStore(), slow)) as inbox:
        await inbox.accept("1", [raw_event(n, n, sender=f"@u{n}:example.org", **invite) for n in range(200)])
        await turns()
        assert len(slow.begun) == 12
        await inbox.accept("2", [raw_event(n, n) for n in range(300, 350)])
        await turns(300)
        assert slow.senders()[ALICE] == 50
        slow.opened.set()


async def test_changes_of_a_room_are_handled_in_order_whoever_makes_them() -> None:
    recorder = Recorder(delay=lambda: 3)
    who = [ALICE, MALLORY, ADMIN]
    events = [
        raw_event(n, sender=who[n % 3], type="m.room.member", state_key=f"@u{n}:x", content={"number": n})
        for n in range(60)
    ]
    async with running(make_inbox(MemoryStore(), recorder)) as inbox:
        await inbox.accept("1", events)
        await inbox.idle()
    assert recorder.numbers == list(range(60))


@pytest.mark.parametrize(
    ("senders", "taken"),
    [
        ([f"@u{n}:evil.test:{8000 + n}" for n in range(40)], 10),
        ([f"@u:s{n}.test" for n in range(40)], 20),
        ([f"@u{n}:example.org" for n in range(40)], 30),
    ],
    ids=["one server on many ports", "many servers", "many of our own"],
)
async def test_crowd_gets_its_share_and_those_with_a_right_get_through(senders: list[str], taken: int) -> None:
    slow = Slow(lambda _event: True)
    limits = CapacityLimits(waiting=shares(sender=5, server=10, foreign=20, others=30, total=40))
    inbox = make_inbox(
        MemoryStore(), slow, limits=InboxLimits(places=limits, retry_s=0), has_right=lambda user: user == ADMIN
    )
    async with running(inbox):
        events = [raw_event(n, n, sender=sender) for n, sender in enumerate(senders)]
        await inbox.accept("1", events)
        assert inbox.status().waiting == taken
        await inbox.accept("2", [raw_event(100, sender=ADMIN)])
        assert inbox.status().waiting == taken + 1
        slow.opened.set()
        await inbox.idle()
        assert inbox.status().waiting == 0


async def test_full_room_takes_from_those_with_a_right() -> None:
    slow = Slow(lambda _event: True)
    places = CapacityLimits(waiting=shares(room=10))
    limits = InboxLimits(places=places, retry_s=0)
    async with running(make_inbox(MemoryStore(), slow, limits=limits, has_right=lambda user: user == ADMIN)) as inbox:
        await inbox.accept("1", [raw_event(n, sender=f"@u{n}:example.org") for n in range(20)])
        assert inbox.status().waiting == 10
        await inbox.accept("2", [raw_event(50, 1), raw_event(51, sender=ADMIN)])
        assert inbox.status().waiting == 12
        slow.opened.set()


async def test_slow_handlers_of_one_server_leave_room_for_others() -> None:
    """However many users it has; of one sender two are handled at a time, in different rooms."""
    slow = Slow()
    async with running(make_inbox(MemoryStore(), slow)) as inbox:
        await inbox.accept("1", [raw_event(n, n, sender=f"@u{n}:evil.test") for n in range(100)])
        await inbox.accept("2", [raw_event(n, n, sender="@one:other.test") for n in range(100, 120)])
        await turns()
        assert Counter(host_of(UserId(event.sender)) for event in slow.begun) == {"evil.test": 8, "other.test": 2}
        await inbox.accept("3", [raw_event(n, n) for n in range(200, 300)])
        await turns(500)
        assert slow.senders()[ALICE] == 100
        slow.opened.set()


async def test_places_are_counted_anew_after_a_new_start(tmp_path: Any) -> None:
    """With the real store: what an earlier run has stored fills the shares of this one."""
    limits = InboxLimits(places=CapacityLimits(waiting=shares(sender=50), changes=shares(sender=7)))
    member = {"type": "m.room.member", "state_key": "@x:y"}
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
        store = InboxStore(database)
        inbox = make_inbox(store, Slow(), limits=limits)
        task = asyncio.create_task(inbox.run())
        inbox.set_ready(True)
        while not inbox.ready:
            await asyncio.sleep(0)
        await flood(inbox, 40)
        await flood(inbox, 5, start=5000, **member)
        await kill(task)
        slow = Slow()
        async with running(make_inbox(store, slow, limits=limits)) as again:
            await flood(again, 100, start=2000)
            await flood(again, 20, start=6000, **member)
            assert again.status().waiting == 50 + 7
            slow.opened.set()
            await again.idle()
            assert again.status().waiting == 0
        assert await store.count_waiting() == []


async def test_places_are_right_again_after_a_commit_whose_answer_was_lost() -> None:
    faults = iter(["", "", "after", "", "before"])
    slow = Slow(lambda _event: True)
    async with running(make_inbox(MemoryStore(fault=lambda: next(faults, "")), slow)) as inbox:
        await inbox.idle()
        with pytest.raises(StorageError):
            await inbox.accept("1", [raw_event(1), raw_event(2)])
        with pytest.raises(StorageError):
            await inbox.accept("2", [raw_event(3)])
        await inbox.accept("1", [raw_event(1), raw_event(2)])
        assert inbox.status().waiting == 2
        await inbox.accept("2", [raw_event(3)])
        assert inbox.status().waiting == 3
        slow.opened.set()
        await inbox.idle()
        assert inbox.status().waiting == 0
    assert sorted(event.content["number"] for event in slow.handled) == [1, 2, 3]


async def test_repeated_events_take_no_place() -> None:
    slow = Slow(lambda _event: True)
    async with running(make_inbox(MemoryStore(), slow)) as inbox:
        for _ in range(100):
            await inbox.accept("1", [raw_event(n) for n in range(10)])
        assert inbox.status().waiting == 10
        slow.opened.set()


async def test_lanes_of_a_crowd_leave_workers_for_those_with_a_right() -> None:
    slow = Slow(lambda event: event.sender != ADMIN)
    limits = InboxLimits(lanes=10, places=plenty(), retry_s=0)
    async with running(make_inbox(MemoryStore(), slow, limits=limits, has_right=lambda user: user == ADMIN)) as inbox:
        await inbox.accept("1", [raw_event(n, n, sender=f"@u{n}:evil.test") for n in range(100)])
        await turns()
        assert inbox.status().lanes == 8
        await inbox.accept("2", [raw_event(200, 200, sender=ADMIN)])
        await turns(200)
        assert [event.sender for event in slow.handled] == [ADMIN]
        slow.opened.set()
        await inbox.idle()
    assert len(slow.handled) == 101


async def test_log_says_once_what_a_flood_does(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond its places, in events that cannot be read, and in events whose handler fails."""

    async def fails(event: RoomEvent) -> None:
        raise KeyError("odd")

    caplog.set_level("INFO")
    async with running(make_inbox(MemoryStore(), fails)) as inbox:
        await flood(inbox, 10_000)
        await inbox.accept("odd", [raw_event(n, sender=5) for n in range(20_000, 25_000)])
        await inbox.idle()
    assert len(caplog.records) == 3, caplog.text
    texts = sorted(record.message.split(": ")[-1] for record in caplog.records)
    assert texts[0].startswith("bad_id") or texts[1].startswith("bad_id") or "user id" in caplog.text


async def test_only_some_of_the_events_that_cannot_be_read_are_kept() -> None:
    store, metrics = MemoryStore(), Metrics()
    async with running(make_inbox(store, Recorder(), metrics=metrics)) as inbox:
        await inbox.accept("odd", [raw_event(n, sender=5) for n in range(5000)])
    assert store.states() == {"aside": 500}
    assert b'mxrtc_events_total{outcome="set_aside"} 5000.0' in metrics.render()


async def test_memory_does_not_grow_with_the_names_that_a_crowd_invents(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow(lambda _event: True)
    limits = CapacityLimits(waiting=shares(server=100, foreign=200))
    async with running(make_inbox(MemoryStore(), slow, limits=InboxLimits(places=limits, retry_s=0))) as inbox:
        for start in range(0, 20_000, 1000):
            events = [raw_event(n, n, sender=f"@u{n}:s{n % 50}.test") for n in range(start, start + 1000)]
            await inbox.accept(str(start), events)
        assert inbox.status().longest_table <= 200
        assert inbox.status().lanes <= 200
        assert 0 < caplog.text.count("are dropped") <= SUBJECTS
        slow.opened.set()
