"""Certificates, rooms and notices are what was last written, also after a restart."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.storage.certificates import MAX_PEM_CHARS, CertificateStore
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.notice_times import NoticeStore
from mxrtc_bridge.storage.rooms import PeerRoomRow, RoomStore
from mxrtc_bridge.storage.tables import open_stores

BUILD, DB = UserId("@rtc_build:example.org"), UserId("@rtc_db:example.org")
ALICE, BOB = UserId("@alice:example.org"), UserId("@bob:example.org")
ROOM_A, ROOM_B = RoomId("!a"), RoomId("!b")


async def test_certificate_is_the_last_one_saved(url: str) -> None:
    async with await Database.open(url) as database:
        certificates = CertificateStore(database)
        assert await certificates.load(BUILD) is None
        await certificates.save(BUILD, "first")
        await certificates.save(BUILD, "second")
        await certificates.save(DB, "x" * MAX_PEM_CHARS)
    async with await Database.open(url) as database:
        assert await CertificateStore(database).load(BUILD) == "second"


async def test_certificate_that_is_too_long_is_refused_and_not_shown(database: Database) -> None:
    with pytest.raises(StateError, match="65537") as caught:
        await CertificateStore(database).save(BUILD, "K" * (MAX_PEM_CHARS + 1))
    assert "KK" not in str(caught.value)
    assert await CertificateStore(database).load(BUILD) is None


async def test_rooms_are_listed_by_idleness(database: Database) -> None:
    rooms = RoomStore(database)
    await rooms.upsert(BUILD, ROOM_A, ALICE, 300)
    await rooms.upsert(BUILD, ROOM_B, BOB, 100)
    await rooms.upsert(DB, ROOM_A, ALICE, 200)
    assert await rooms.all() == [
        PeerRoomRow(BUILD, ROOM_B, BOB),
        PeerRoomRow(DB, ROOM_A, ALICE),
        PeerRoomRow(BUILD, ROOM_A, ALICE),
    ]
    assert await rooms.idle_since(200) == [PeerRoomRow(BUILD, ROOM_B, BOB)]
    assert await rooms.idle_since(100) == []


async def test_room_is_changed_touched_and_removed(database: Database) -> None:
    rooms = RoomStore(database)
    await rooms.upsert(BUILD, ROOM_A, ALICE, 100)
    await rooms.upsert(BUILD, ROOM_A, BOB, 150)
    await rooms.touch(BUILD, ROOM_A, 200)
    await rooms.touch(BUILD, ROOM_A, 180)
    await rooms.touch(BUILD, ROOM_B, 500)
    assert await rooms.all() == [PeerRoomRow(BUILD, ROOM_A, BOB)]
    await rooms.remove(BUILD, ROOM_A)
    await rooms.remove(BUILD, ROOM_A)
    assert await rooms.all() == []


async def test_notice_is_allowed_once_in_a_while(url: str) -> None:
    async with await Database.open(url) as database:
        assert await NoticeStore(database).may_notify(ALICE, 1000, 500)
        assert await NoticeStore(database).may_notify(BOB, 1000, 500)
    async with await Database.open(url) as database:
        notices = NoticeStore(database)
        assert not await notices.may_notify(ALICE, 1499, 500)
        assert await notices.may_notify(ALICE, 1500, 500)
        assert not await notices.may_notify(ALICE, 1999, 500)


async def test_notice_is_allowed_to_one_of_many_at_the_same_moment(database: Database) -> None:
    notices = NoticeStore(database)
    allowed = await asyncio.gather(*(notices.may_notify(ALICE, 1000, 500) for _ in range(10)))
    assert sorted(allowed) == [False] * 9 + [True]


async def test_notice_is_not_blocked_for_ever_when_the_clock_was_wrong(database: Database) -> None:
    notices = NoticeStore(database)
    assert await notices.may_notify(ALICE, 10**15, 500)
    assert await notices.may_notify(ALICE, 1000, 500)
    assert not await notices.may_notify(ALICE, 1001, 500)


async def test_notices_remember_a_bounded_number_of_users(database: Database) -> None:
    """A crowd makes us forget the oldest, nobody else."""
    notices = NoticeStore(database, max_users=3)
    for number in range(10):
        assert await notices.may_notify(UserId(f"@u{number}:example.org"), 1000 + number, 500)
    allowed = [await notices.may_notify(UserId(f"@u{number}:example.org"), 1010, 500) for number in (9, 8, 7, 6)]
    assert allowed == [False, False, False, True]


async def test_stores_prune_together(url: str) -> None:
    async with open_stores(url) as stores:
        assert await stores.prune(10**13) == 0
        await stores.certificates.save(BUILD, "pem")
    async with open_stores(url) as stores:
        assert await stores.certificates.load(BUILD) == "pem"
