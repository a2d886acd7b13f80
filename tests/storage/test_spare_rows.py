"""Nobody counts a table that cannot hold too much."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.core.audit.chain import NO_LINES, AuditEntry, AuditKind, AuditRecord, entry_after
from mxrtc_bridge.core.crypto.records import Changes, InboundRecord, OlmRecord, UserRecord
from mxrtc_bridge.core.ids import CallId, DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.core.inbox import ArrivedEvent, EventOutcome
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.storage.audit import AuditStore
from mxrtc_bridge.storage.calls import CallStore
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.events import InboxStore
from mxrtc_bridge.storage.spare_rows import SpareRows
from mxrtc_bridge.storage.tables import Stores
from tests.long import size

NOW = time.time_ns() // 1_000_000
STEPS = 100


class Work:
    """What the connections of SQLite that are opened meanwhile do, in hundreds of instructions of its machine."""

    def __init__(self) -> None:
        self.hundreds = 0

    def note(self) -> int:
        self.hundreds += 1
        return 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work, connect = Work(), sqlite3.connect

    def counted(*values: Any, **settings: Any) -> sqlite3.Connection:
        connection = connect(*values, **settings)
        connection.set_progress_handler(work.note, STEPS)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counted)
    return work


async def test_rows_are_counted_when_so_many_were_written_as_were_missing() -> None:
    counted: list[int] = []

    async def missing() -> int:
        counted.append(left)
        return left

    spare, left = SpareRows(tolerated=2), 5
    assert not await spare.may_be_exceeded(missing)
    spare.write(5)
    assert not await spare.may_be_exceeded(missing)
    assert counted == [5]
    spare.write(1)
    left = -1
    assert await spare.may_be_exceeded(missing)
    # Now it is full: so many may be too many for a while.
    spare.write(2)
    assert not await spare.may_be_exceeded(missing)
    spare.write(1)
    assert await spare.may_be_exceeded(missing)
    assert counted == [5, -1, -1]


async def test_what_is_written_during_the_counting_is_taken_for_not_counted() -> None:
    spare = SpareRows(tolerated=0)

    async def missing() -> int:
        spare.write(3)
        return 3

    assert not await spare.may_be_exceeded(missing)
    spare.write(1)

    async def none() -> int:
        return 0

    assert not await spare.may_be_exceeded(none)
    spare.write(1)

    async def too_many() -> int:
        return -1

    assert await spare.may_be_exceeded(too_many)


def call(number: int) -> CallRecord:
    return CallRecord(RoomId("!r:x"), CallId(f"c{number}"), UserId("@rtc_p:x"), UserId("@a:x"), None)


async def filled(database: Database, rows: int) -> Stores:
    stores, entries = Stores(database), list[AuditEntry]()
    for number in range(rows):
        record = AuditRecord(AuditKind.CALL, NOW, user=f"@u{number % 7}:x", allowed=True)
        entries.append(entry_after(entries[-1].head if entries else NO_LINES, record))
    await stores.audit.add(entries)
    await stores.inbox.store([ArrivedEvent(f"${number}", "!r:x", "{}") for number in range(rows)], NOW)
    await stores.inbox.settle([EventOutcome(f"${number}") for number in range(rows)], NOW)
    statement = (
        "INSERT INTO call (room_id, call_id, local_user, remote_user, event_id, claimed_ms, ended_ms) "
        "VALUES ('!r:x', $1, '@p:x', '@a:x', $1, 1, $2)"
    )
    await database.transaction(
        lambda connection: connection.executemany(statement, [(f"{number}", NOW) for number in range(rows)])
    )
    for first in range(0, rows, 100):
        store, numbers = stores.crypto.of(UserId(f"@rtc_p{first}:x")), range(first, first + 100)
        users = [UserId(f"@u{number}:s{number % 9}.test") for number in numbers]
        olm = [OlmRecord(f"c{user}", "s", "pickle", NOW, user) for user in users]
        keys = [InboundRecord(RoomId("!r:x"), "s", "p", user, "c", "e", DeviceId("D"), NOW) for user in users]
        known = [UserRecord(user, "{}", NOW, outdated=False, pinned_master="m") for user in users]
        await store.save(Changes(olm=olm, inbound=keys, users=known))
    return stores


async def test_pruning_with_nothing_to_do_costs_the_same_however_long_the_tables_are(
    tmp_path: Path, work: Work
) -> None:
    """And it does so from the second time on: after a start everything is counted once."""
    costs: list[tuple[int, int]] = []
    for rows in (500, size(10_000, 3000)):
        async with await Database.open(f"sqlite:///{tmp_path}/{rows}.db") as database:
            stores = await filled(database, rows)
            for cost in range(2):
                before = work.hundreds
                assert await stores.prune(NOW) == 0
                costs.append((rows, work.hundreds - before))
                assert cost or work.hundreds > before, "nothing was counted at all"
    (_, small_first), (_, small), (_, large_first), (_, large) = costs
    assert large_first > small_first + 500, "the first time reads everything"
    assert large <= small + 20, costs


async def test_what_is_too_much_goes_although_it_came_after_the_counting(database: Database) -> None:
    """The tolerance is a thousand rows of each."""
    audit, entries = AuditStore(database, max_of_user=20), list[AuditEntry]()
    inbox, calls = InboxStore(database, max_done=20), CallStore(database, max_ended=20)
    assert await audit.prune(NOW) + await inbox.prune(NOW) + await calls.prune(NOW) == 0
    for number in range(1021):
        record = AuditRecord(AuditKind.CALL, NOW, user="@a:x", allowed=True)
        entries.append(entry_after(entries[-1].head if entries else NO_LINES, record))
        await calls.claim(call(number), EventId(f"${number}"), NOW)
        await calls.end(call(number), "over", NOW)
    await audit.add(entries)
    await inbox.store([ArrivedEvent(f"${number}", "!r:x", "{}") for number in range(1021)], NOW)
    await inbox.settle([EventOutcome(f"${number}") for number in range(1021)], NOW)
    assert (await audit.prune(NOW), await inbox.prune(NOW), await calls.prune(NOW)) == (1001, 1001, 1001)
