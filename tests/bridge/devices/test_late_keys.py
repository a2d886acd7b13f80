"""Encrypted events whose key is late: they wait in nobody's way, in their own order, and not too many of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mxrtc_bridge.bridge.devices.late_keys import CHARS_OF_SESSION, EVENTS_OF_SESSION, SESSIONS, LateKeys, session_of
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import Opened
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, Obstacle, Undecryptable

OWN = "example.org"
ALICE, MALLORY = UserId(f"@alice:{OWN}"), UserId("@mallory:evil.test")
PEER, ROOM = UserId(f"@rtc_build:{OWN}"), RoomId(f"!r:{OWN}")
DEVICE = DeviceIdentity(ALICE, DeviceId("PHONE"), "e", "c")


def event(number: int, session: str = "s", sender: UserId = ALICE, **content: Any) -> RoomEvent:
    content = {"session_id": session, "ciphertext": "x", **content}
    return RoomEvent(EventId(f"${number}"), ROOM, "m.room.encrypted", sender, 0, content)


class Keys:
    """Keys that come when a test says so, and what was handled."""

    def __init__(self) -> None:
        self.now = 0.0
        self.late = LateKeys(OWN, lambda user: user == ALICE, lambda: self.now)
        self.come: dict[str, asyncio.Event] = {}
        self.handled: list[tuple[str, bool]] = []
        self.waits: list[float] = []
        self.handler: Any = None

    def came(self, session: str) -> asyncio.Event:
        return self.come.setdefault(session, asyncio.Event())

    async def open(self, each: RoomEvent, wait_s: float) -> Opened | Undecryptable:
        self.waits.append(wait_s)
        came = self.came(each.content["session_id"])
        if not came.is_set() and wait_s:
            waiting = asyncio.ensure_future(came.wait())
            while not waiting.done() and self.now < 60:
                await asyncio.sleep(0)
            waiting.cancel()
        return Opened(each, DEVICE) if came.is_set() else Undecryptable(Obstacle.NO_KEY, "s")

    async def handle(self, each: RoomEvent, opened: Opened | Undecryptable) -> None:
        if self.handler is not None:
            await self.handler(each)
        self.handled.append((each.event_id, isinstance(opened, Opened)))

    def put(self, each: RoomEvent) -> bool:
        return self.late.put(session_of(each, PEER), each, self.open, self.handle)


@asynccontextmanager
async def keys() -> AsyncIterator[Keys]:
    made = Keys()
    running = asyncio.create_task(made.late.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_events_of_a_session_are_handled_in_order_when_its_key_comes_and_no_other_waits_for_them() -> None:
    async with keys() as made:
        assert [made.put(event(n)) for n in (1, 2, 3)] == [True] * 3
        assert made.put(event(4, "other"))
        made.came("other").set()
        await settle()
        assert made.handled == [("$4", True)]
        made.came("s").set()
        await settle()
        assert made.handled[1:] == [("$1", True), ("$2", True), ("$3", True)]
        assert len(made.late) == len(made.late._shares) == 0


async def test_event_that_comes_while_the_first_is_handled_is_put_behind_it() -> None:
    async with keys() as made:
        go_on = asyncio.Event()

        async def slow(each: RoomEvent) -> None:
            if each.event_id == "$1":
                await go_on.wait()

        made.handler = slow
        made.put(event(1))
        made.came("s").set()
        await settle()
        assert made.late.holds(session_of(event(2), PEER))
        assert made.put(event(2))
        go_on.set()
        await settle()
        assert [name for name, _ in made.handled] == ["$1", "$2"]


async def test_session_waits_a_minute_as_a_whole_and_then_everybody_is_told() -> None:
    async with keys() as made:
        made.put(event(1))
        await settle()
        made.now = 40
        made.put(event(2))
        await settle()
        made.now = 60
        await settle()
        assert made.handled == [("$1", False), ("$2", False)]
        assert made.waits == [60, 0]


async def test_sender_has_a_few_sessions_and_a_session_a_few_events() -> None:
    async with keys() as made:
        assert [made.put(event(n, f"s{n}", MALLORY)) for n in range(40)] == [True] * 4 + [False] * 36
        assert [made.put(event(n, "s0", MALLORY)) for n in range(40)].count(True) == EVENTS_OF_SESSION - 1
        assert made.put(event(1)), "and others theirs"


async def test_session_holds_a_bounded_amount_of_text_but_always_one_event() -> None:
    async with keys() as made:
        assert made.put(event(1, ciphertext="x" * (CHARS_OF_SESSION + 1)))
        assert not made.put(event(2))
        assert made.put(event(3, "t", ciphertext="x" * CHARS_OF_SESSION))
        assert not made.put(event(4, "t"))


async def test_crowd_takes_no_place_of_those_with_a_right() -> None:
    """One server, many servers, and all that the bridge has."""
    async with keys() as made:
        one = [made.put(event(n, f"s{n}", UserId(f"@u{n}:evil.test"))) for n in range(100)]
        assert one.count(True) == SESSIONS.server
        many = [made.put(event(n, f"s{n}", UserId(f"@u:e{n}.test"))) for n in range(500)]
        assert one.count(True) + many.count(True) == SESSIONS.foreign
        own = [made.put(event(n, f"s{n}", UserId(f"@u{n}:{OWN}"))) for n in range(500)]
        assert own.count(True) == SESSIONS.others - SESSIONS.foreign
        assert [made.put(event(n, f"s{n}")) for n in range(5)] == [True] * 4 + [False]
        assert len(made.late) == SESSIONS.others + 4


async def test_event_that_cannot_be_handled_leaves_those_behind_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with keys() as made:

        async def fails(each: RoomEvent) -> None:
            if each.event_id in ("$1", "$2"):
                raise StorageError("full") if each.event_id == "$1" else KeyError("odd")

        made.handler = fails
        for n in (1, 2, 3):
            made.put(event(n))
        made.came("s").set()
        await settle()
        assert made.handled == [("$3", True)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


async def test_nothing_waits_before_and_after_the_run() -> None:
    made = Keys()
    assert not made.put(event(1))
    async with keys() as running:
        assert running.put(event(1))
    assert not running.put(event(2))
    assert len(running.late) == 0
