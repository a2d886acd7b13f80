"""Messages of verifications are taken at once, and nobody waits for the keys of whoever begins one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mxrtc_bridge.bridge.devices.verification_intake import REQUESTS_PER_MINUTE, VerificationIntake
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent

OWN = "example.org"
ALICE = UserId(f"@alice:{OWN}")
REQUEST, DONE = "m.key.verification.request", "m.key.verification.done"
DEVICE: Any = None


class Slow:
    """Verifications that wait for a server that does not answer, for users of some servers."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.done: list[tuple[str, str]] = []
        self.answers = asyncio.Event()

    async def handle(self, _device: object, event: ToDeviceEvent | RoomEvent) -> bool:
        self.begun.append((event.sender, event.type))
        if event.sender.endswith(".test"):
            await self.answers.wait()
        self.done.append((event.sender, event.type))
        return True

    handle_in_room = handle


@asynccontextmanager
async def intake() -> AsyncIterator[tuple[Slow, VerificationIntake, FairWork]]:
    slow, work = Slow(), FairWork("verifications", OWN, lambda user: user == ALICE)
    running = asyncio.create_task(work.run())
    await asyncio.sleep(0)
    try:
        yield slow, VerificationIntake(slow, work, lambda: 0.0), work
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def message(kind: str, sender: str = ALICE) -> ToDeviceEvent:
    return ToDeviceEvent(kind, UserId(sender), {}, None)


def in_room(kind: str, **content: Any) -> RoomEvent:
    return RoomEvent(EventId("$e"), RoomId("!r:x"), kind, ALICE, 0, content)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_slow_server_of_one_user_holds_up_no_message_of_another() -> None:
    async with intake() as (slow, taken, _):
        for number in range(100):
            assert taken.take(DEVICE, message(REQUEST, f"@u{number}:slow.test"))
        assert taken.take(DEVICE, message(REQUEST))
        await settle()
        assert slow.done == [(ALICE, REQUEST)]
        assert len(slow.begun) == 3, "two of the slow server, whatever its users are called"


async def test_messages_of_one_sender_are_dealt_with_in_order() -> None:
    async with intake() as (slow, taken, work):
        for kind in (REQUEST, DONE, DONE):
            taken.take(DEVICE, message(kind, "@u:slow.test"))
        await settle()
        assert slow.begun == [("@u:slow.test", REQUEST)]
        slow.answers.set()
        await work.idle()
        assert [kind for _, kind in slow.done] == [REQUEST, DONE, DONE]


async def test_requests_beyond_the_budget_are_dropped() -> None:
    async with intake() as (slow, taken, work):
        for _ in range(50):
            assert taken.take(DEVICE, message(REQUEST))
            await work.idle()
        assert len(slow.done) == REQUESTS_PER_MINUTE


@pytest.mark.parametrize(
    ("event", "taken"),
    [
        (in_room("m.room.message", msgtype=REQUEST), True),
        (in_room(DONE), True),
        (in_room(REQUEST), False),
        (in_room("m.room.message", msgtype="m.text"), False),
        (in_room("m.room.message", msgtype=DONE), False),
        (in_room("m.room.message", msgtype={"odd": 1}), False),
        (in_room("m.call.invite"), False),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_only_what_belongs_to_a_verification_is_taken_in_a_room(event: RoomEvent, taken: bool) -> None:
    async with intake() as (slow, made, work):
        assert made.take_in_room(DEVICE, event) is taken
        await work.idle()
        assert bool(slow.done) is taken
        assert not made.take(DEVICE, message("m.call.invite"))
