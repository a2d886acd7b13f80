"""Events are stored once, kept in order, and forgotten when nobody needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from mautrix.util.async_db import Connection

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.inbox import ArrivedEvent, EventOutcome, StoredEvent
from mxrtc_bridge.storage.database import Database, DatabaseBounds
from mxrtc_bridge.storage.events import KEEP_MS, InboxStore
from mxrtc_bridge.storage.schema import UPGRADES


@dataclass(frozen=True, slots=True)
class Row(ArrivedEvent):
    """An arrival of a usual kind."""

    room_id: str = "!a"
    payload: str = "{}"
    sender: str = "@a:x"
    lane: str = "@a:x"


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return InboxStore(database)


async def keys(inbox: InboxStore, room_id: str = "!a", after: int = 0, limit: int = 100) -> list[str]:
    return [event.key for event in await inbox.waiting(room_id, "@a:x", after, limit)]


async def count(inbox: InboxStore) -> int:
    return sum(each.count for each in await inbox.count_waiting())


async def rows(database: Database) -> list[tuple[str, int, str, str | None]]:
    async def select(connection: Connection) -> list[tuple[str, int, str, str | None]]:
        found = await connection.fetch("SELECT event_id, state, payload, reason FROM event ORDER BY seq")
        return [tuple(row) for row in found]

    return await database.transaction(select)


async def test_store_gives_places_in_order_of_arrival(inbox: InboxStore) -> None:
    places = await inbox.store([Row("$1"), Row("$2"), Row("$3")], 10)
    assert None not in places
    assert places == sorted(places)  # type: ignore[type-var]
    assert await inbox.waiting("!a", "@a:x", 0, 100) == [
        StoredEvent(place, key, "@a:x", "{}") for place, key in zip(places, ("$1", "$2", "$3"), strict=True)
    ]


async def test_store_knows_an_event_again_whatever_brings_it(inbox: InboxStore) -> None:
    """In the same transaction, in a later one, and after it was settled."""
    first = await inbox.store([Row("$1"), Row("$1"), Row("$2")], 10)
    assert [place is None for place in first] == [False, True, False]
    assert await inbox.store([Row("$2", payload="other")], 11) == [None]
    await inbox.settle([EventOutcome("$1"), EventOutcome("$2", refusal="bad")], 12)
    assert await inbox.store([Row("$1"), Row("$2")], 13) == [None, None]
    assert await count(inbox) == 0


@pytest.mark.parametrize("count", [99, 100, 101, 1000])
async def test_store_keeps_the_order_of_many(inbox: InboxStore, count: int) -> None:
    """Also over the limit of rows that one statement inserts, with repetitions on both sides of it."""
    arrivals = [Row(f"${number}") for number in range(count)]
    places = await inbox.store([*arrivals, arrivals[0], arrivals[-1]], 10)
    assert places[count:] == [None, None]
    assert places[:count] == sorted(place for place in places if place is not None)
    assert await keys(inbox, limit=2000) == [row.key for row in arrivals]


async def test_store_of_nothing_returns_nothing(inbox: InboxStore) -> None:
    assert await inbox.store([], 1) == []


async def test_refused_arrival_is_kept_aside_and_never_waits(inbox: InboxStore, database: Database) -> None:
    await inbox.store([Row("hash:1", room_id="", refusal="not an object"), Row("$2")], 10)
    assert await keys(inbox, "") == []
    assert await count(inbox) == 1
    assert [(row[0], row[3]) for row in await rows(database) if row[1] == 2] == [("hash:1", "not an object")]


async def test_waiting_lanes_come_by_their_oldest_event(inbox: InboxStore) -> None:
    await inbox.store([Row("$1", "!a"), Row("$2", "!b"), Row("$3", "!c"), Row("$4", "!a")], 10)
    assert [room for room, _ in await inbox.waiting_lanes(10)] == ["!a", "!b", "!c"]
    await inbox.settle([EventOutcome("$1")], 11)
    assert [room for room, _ in await inbox.waiting_lanes(10)] == ["!b", "!c", "!a"]
    assert [room for room, _ in await inbox.waiting_lanes(2)] == ["!b", "!c"]


async def test_waiting_comes_in_pages(inbox: InboxStore) -> None:
    places = await inbox.store([Row(f"${number}") for number in range(5)], 10)
    assert await keys(inbox, limit=2) == ["$0", "$1"]
    assert await keys(inbox, after=places[1] or 0, limit=2) == ["$2", "$3"]
    assert await keys(inbox, after=places[4] or 0) == []


async def test_handled_event_leaves_no_content_behind(inbox: InboxStore, database: Database) -> None:
    """What people said to each other is not kept; what went wrong is, for the admin."""
    await inbox.store([Row("$1", payload="sdp"), Row("$2", payload="odd")], 10)
    await inbox.settle([EventOutcome("$1"), EventOutcome("$2", refusal="handler raised KeyError" + "!" * 300)], 11)
    assert await rows(database) == [
        ("$1", 1, "", None),
        ("$2", 2, "odd", ("handler raised KeyError" + "!" * 300)[:200]),
    ]


async def test_first_verdict_stays(inbox: InboxStore, database: Database) -> None:
    await inbox.store([Row("$1")], 10)
    await inbox.settle([EventOutcome("$1", refusal="bad")], 11)
    await inbox.settle([EventOutcome("$1"), EventOutcome("$unknown")], 12)
    assert await rows(database) == [("$1", 2, "{}", "bad")]


async def test_prune_forgets_old_settled_events_only(inbox: InboxStore) -> None:
    await inbox.store([Row("$old"), Row("$waits"), Row("$new"), Row("$aside", refusal="bad")], 0)
    await inbox.settle([EventOutcome("$old")], 1000)
    await inbox.settle([EventOutcome("$new")], 1001)
    assert await inbox.prune(1000 + KEEP_MS) == 1, "$aside, settled at 0"
    assert await inbox.prune(1001 + KEEP_MS) == 1, "$old"
    assert await keys(inbox) == ["$waits"]
    stored = await inbox.store([Row("$old"), Row("$waits"), Row("$new"), Row("$aside")], 1)
    assert [place is not None for place in stored] == [True, False, False, True]


async def test_prune_keeps_the_newest_of_too_many(database: Database) -> None:
    inbox = InboxStore(database, max_done=3, max_set_aside=2)
    await inbox.store([Row(f"$done{number}") for number in range(5)], 1)
    await inbox.store([Row(f"$aside{number}", refusal="bad") for number in range(5)], 1)
    await inbox.settle([EventOutcome(f"$done{number}") for number in range(5)], 1)
    assert await inbox.prune(2) == 5
    assert [row[0] for row in await rows(database)] == ["$done2", "$done3", "$done4", "$aside3", "$aside4"]
    assert await inbox.prune(2) == 0


async def test_prune_takes_more_than_one_batch(url: str) -> None:
    async with await Database.open(url, DatabaseBounds(prune_batch=3)) as database:
        inbox = InboxStore(database)
        await inbox.store([Row(f"$a{number}", refusal="bad") for number in range(10)], 1)
        assert await inbox.prune(2 + KEEP_MS) == 10


async def test_places_are_not_given_twice_after_pruning(inbox: InboxStore) -> None:
    """A room that remembers the last place it has read would miss an event with a lower one."""
    (first,) = await inbox.store([Row("$1", refusal="bad")], 1)
    await inbox.prune(2 + KEEP_MS)
    (second,) = await inbox.store([Row("$2")], 1)
    assert first is not None
    assert second is not None
    assert second > first


async def test_failed_store_stores_nothing(tmp_path: Path) -> None:
    """All events of a transaction, or none: the homeserver will send all of them again."""
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db", DatabaseBounds(patience_s=0.1)) as database:

        async def limit(connection: Connection) -> None:
            pages = await connection.fetchval("PRAGMA page_count")
            await connection.fetchval(f"PRAGMA max_page_count = {pages}")

        inbox = InboxStore(database)
        await database.transaction(limit)
        with pytest.raises(StorageError):
            await inbox.store([Row(f"${number}", payload="x" * 1000) for number in range(100)], 1)
        assert await count(inbox) == 0


async def test_what_was_taken_back_is_set_aside_without_its_content(inbox: InboxStore, database: Database) -> None:
    await inbox.store([Row("$1"), Row("$2")], 10)
    assert [each.key for each in await inbox.find_waiting(["$1", "$2", "$3"])] == ["$1", "$2"]
    await inbox.settle([EventOutcome("$1", refusal="redacted")], 11)
    await inbox.settle([EventOutcome("$2")], 12)
    assert await inbox.find_waiting(["$1", "$2", "$3"]) == []
    assert await inbox.find_waiting([]) == []
    assert await rows(database) == [("$1", 2, "", "redacted"), ("$2", 1, "", None)]


async def test_only_a_part_of_what_is_set_aside_is_kept(inbox: InboxStore, database: Database) -> None:
    await inbox.store([Row("$1", payload="x" * 100_000)], 10)
    await inbox.settle([EventOutcome("$1", refusal="odd")], 11)
    assert [len(row[2]) for row in await rows(database)] == [4096]


async def test_events_wait_by_lane_and_are_counted_by_sender(inbox: InboxStore) -> None:
    await inbox.store([Row("$1"), Row("$2", lane=""), Row("$3", lane="", sender="@b:x"), Row("$4")], 10)
    await inbox.store([Row("$5", room_id="!b")], 10)
    assert await inbox.waiting_lanes(10) == [("!a", "@a:x"), ("!a", ""), ("!b", "@a:x")]
    assert [each.sender for each in await inbox.waiting("!a", "", 0, 10)] == ["@a:x", "@b:x"]
    counts = {(each.room_id, each.lane, each.sender): each.count for each in await inbox.count_waiting()}
    assert counts == {
        ("!a", "@a:x", "@a:x"): 2, ("!a", "", "@a:x"): 1, ("!a", "", "@b:x"): 1, ("!b", "@a:x", "@a:x"): 1,
    }  # fmt: skip


async def test_events_that_wait_get_their_lanes_when_the_tables_are_brought_up_to_date(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [upgrade.__name__ for upgrade in UPGRADES.upgrades]
    with monkeypatch.context() as before:
        before.setattr(UPGRADES, "upgrades", UPGRADES.upgrades[: names.index("_add_lanes_of_events")])
        async with await Database.open(url) as old:

            async def insert(connection: Connection) -> None:
                for number, payload in enumerate(
                    (
                        '{"sender": "@a:x", "type": "m.call.invite"}',
                        '{"sender": "@b:x", "type": "m.room.member", "state_key": "@a:x"}',
                        "damaged",
                        '{"sender": "@a:x", "type": "m.call.hangup"}',
                    )
                ):
                    await connection.execute(
                        "INSERT INTO event (event_id, room_id, state, payload, received_ms) "
                        "VALUES ($1, '!a', 0, $2, 0)",
                        f"${number}",
                        payload,
                    )

            await old.transaction(insert)
    async with await Database.open(url) as database:
        inbox = InboxStore(database)
        assert await inbox.waiting_lanes(10) == [("!a", "@a:x"), ("!a", "")]
        assert await keys(inbox) == ["$0", "$3"]
        found = await inbox.waiting("!a", "", 0, 10)
        assert [(each.key, each.sender) for each in found] == [("$1", "@b:x"), ("$2", "")]
