"""Notices: in order, bounded, and never anybody's problem but their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix.outbox.notices import MAX_KEPT, MAX_KEPT_PER_ROOM, MAX_PER_ROOM, SENDERS, Notices

BOT = UserId("@rtcbot:example.org")
ROOM = RoomId("!room:example.org")


class Server:
    def __init__(self) -> None:
        self.sent: list[tuple[RoomId, UserId, str, str | None, str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failures: list[Exception] = []
        self.busy = self.most_busy = 0

    async def send_notice(
        self, room: RoomId, sender: UserId, text: str, html: str | None = None, *, key: str, fields: object = None
    ) -> EventId:
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await self.open.wait()
        self.busy -= 1
        if self.failures:
            raise self.failures.pop()
        self.sent.append((room, sender, text, html, key))
        return EventId("$sent")

    def texts(self, room: RoomId = ROOM) -> list[str]:
        return [text for where, _, text, _, _ in self.sent if where == room]


@asynccontextmanager
async def running(notices: Notices, server: Server) -> AsyncIterator[None]:
    task = asyncio.create_task(notices.run(server))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def settle(notices: Notices) -> None:
    for _ in range(20 * MAX_PER_ROOM):
        await asyncio.sleep(0)


async def test_notices_of_a_room_are_sent_in_order_with_all_that_was_said() -> None:
    server = Server()
    notices = Notices()
    notices.post(ROOM, BOT, "posted before anybody sends", "<b>html</b>", key="first")
    async with running(notices, server):
        for number in range(10):
            notices.post(ROOM, BOT, str(number), key=f"key-{number}")
        await settle(notices)
    assert server.sent[0] == (ROOM, BOT, "posted before anybody sends", "<b>html</b>", "first")
    assert server.texts()[1:] == [str(number) for number in range(10)]
    assert notices.waiting == 0


async def test_slow_room_does_not_hold_back_others() -> None:
    server = Server()
    notices = Notices()
    for number in range(20):
        notices.post(RoomId(f"!{number}:example.org"), BOT, "text", key="key")
        notices.post(RoomId(f"!{number}:example.org"), BOT, "again", key="key-2")
    server.open.clear()
    async with running(notices, server):
        await settle(notices)
        assert server.most_busy == SENDERS
        server.open.set()
        await settle(notices)
    assert server.most_busy == SENDERS
    assert len(server.sent) == 40


async def test_at_the_limit_of_a_room_notices_are_left_out_and_counted() -> None:
    server = Server()
    notices = Notices()
    for number in range(MAX_PER_ROOM + 3):
        notices.post(ROOM, BOT, str(number), "<i>x</i>", key=str(number))
    assert notices.waiting == MAX_PER_ROOM
    async with running(notices, server):
        await settle(notices)
        notices.post(ROOM, BOT, "later", key="later")
        await settle(notices)
    texts = server.texts()
    assert texts[0] == "0\n(3 were left out before.)"
    assert server.sent[0][3] == "<i>x</i><br>(3 were left out before.)"
    assert texts[1:] == [*(str(number) for number in range(1, MAX_PER_ROOM)), "later"]


async def test_at_the_limit_of_all_rooms_nothing_grows() -> None:
    server = Server()
    notices = Notices(max_waiting=5)
    for number in range(100):
        notices.post(RoomId(f"!{number}:example.org"), BOT, "text", key="key")
    assert notices.waiting == 5
    assert notices.rooms == 5
    async with running(notices, server):
        await settle(notices)
    assert len(server.sent) == 5
    assert notices.rooms == 0


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (HomeserverError("forbidden", 403, "M_FORBIDDEN"), True),
        (StorageError("the database is away"), True),
        (ValueError("a defect"), False),
    ],
)
async def test_notice_that_cannot_be_sent_is_left_out_and_the_next_one_goes(
    failure: Exception, expected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.failures = [failure]
    notices = Notices()
    notices.post(ROOM, BOT, "lost secret", key="1")
    notices.post(ROOM, BOT, "sent", key="2")
    async with running(notices, server):
        await settle(notices)
    assert server.texts() == ["sent"]
    assert "was not sent" in caplog.text
    assert ("Traceback" in caplog.text) is not expected, "what is expected has no traceback"


@pytest.mark.parametrize("holds_two", [True, False])
async def test_notices_for_a_room_that_is_not_read_yet_wait_for_that_and_go_to_two_only(holds_two: bool) -> None:
    unread, server, other = {ROOM}, Server(), RoomId("!other:example.org")
    notices = Notices(is_unread=unread.__contains__)
    async with running(notices, server):
        for number in range(MAX_KEPT_PER_ROOM + 3):
            notices.post(ROOM, BOT, str(number), key=str(number))
        notices.post(other, BOT, "others do not wait", key="other")
        await settle(notices)
        assert [text for _, _, text, _, _ in server.sent] == ["others do not wait"]
        unread.clear()
        notices.room_was_read(ROOM, holds_two)
        await settle(notices)
    assert server.texts() == ([str(number) for number in range(MAX_KEPT_PER_ROOM)] if holds_two else [])
    assert notices.waiting == 0


async def test_rooms_that_are_not_read_for_long_keep_a_limited_number_of_notices(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notices = Notices(is_unread=lambda _room: True)
    for number in range(MAX_KEPT + 10):
        notices.post(RoomId(f"!{number}:example.org"), BOT, "text", key="key")
    assert notices.waiting == MAX_KEPT
    assert "too many wait for rooms to be read" in caplog.text
