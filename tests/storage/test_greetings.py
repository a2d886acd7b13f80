"""Rooms that were greeted: once each, also over a restart, and not without end."""

from __future__ import annotations

import asyncio

from mxrtc_bridge.core.ids import RoomId
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.greetings import GreetingStore

ROOM, OTHER = RoomId("!room:example.org"), RoomId("!other:example.org")


async def test_a_room_is_the_first_once_also_after_a_restart(url: str) -> None:
    first = []
    for _ in range(2):
        async with await Database.open(url) as database:
            first.append(await GreetingStore(database).is_first(ROOM, 1))
    assert first == [True, False]


async def test_of_two_at_a_time_one_is_the_first(database: Database) -> None:
    store = GreetingStore(database)
    assert sorted(await asyncio.gather(*(store.is_first(ROOM, 1) for _ in range(4)))) == [False, False, False, True]


async def test_beyond_the_limit_the_room_that_was_greeted_longest_ago_is_forgotten(database: Database) -> None:
    store = GreetingStore(database, max_rooms=2)
    rooms = [RoomId(f"!{number}:example.org") for number in range(3)]
    for number, room in enumerate(rooms):
        assert await store.is_first(room, number)
    assert not await store.is_first(rooms[1], 9)
    assert not await store.is_first(rooms[2], 9)
    assert await store.is_first(rooms[0], 9)
