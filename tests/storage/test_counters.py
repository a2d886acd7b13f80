"""Blocks of numbers: none is ever given twice, also over a restart and to two at a time."""

from __future__ import annotations

import asyncio

from mxrtc_bridge.storage.counters import CounterStore
from mxrtc_bridge.storage.database import Database


async def test_blocks_follow_each_other_and_counters_are_separate(database: Database) -> None:
    store = CounterStore(database)
    assert [await store.reserve("session", 10), await store.reserve("session", 1)] == [1, 11]
    assert await store.reserve("question", 3) == 1
    assert await store.reserve("session", 5) == 12


async def test_numbers_go_on_after_a_restart(url: str) -> None:
    first = []
    for _ in range(3):
        async with await Database.open(url) as database:
            first.append(await CounterStore(database).reserve("session", 64))
    assert first == [1, 65, 129]


async def test_reservations_at_the_same_time_share_nothing(database: Database) -> None:
    store = CounterStore(database)
    first = await asyncio.gather(*(store.reserve("session", 7) for _ in range(20)))
    assert sorted(first) == list(range(1, 141, 7))
