"""What encryption remembers comes back as it was, apart for each user, and on both databases."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace

import pytest

from mxrtc_bridge.core.crypto.records import (
    AccountRecord,
    Changes,
    InboundRecord,
    OlmRecord,
    OpenedRecord,
    OutboundRecord,
    RoomEncryption,
    UserRecord,
)
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.storage.crypto import (
    DAY_MS,
    KEEP_INBOUND_MS,
    KEEP_OLM_MS,
    KEEP_OPENED_MS,
    MAX_OLM,
    CryptoStore,
    CryptoUserStore,
)
from mxrtc_bridge.storage.database import Database

PEER, OTHER = UserId("@rtc_build:example.org"), UserId("@rtc_web:example.org")
ALICE = UserId("@alice:example.org")
ROOM = RoomId("!room:example.org")
ACCOUNT = AccountRecord(DeviceId("DEVICE"), "pickle", uploaded=True, fallback_ms=2**41, sync_token="s1")
INBOUND = InboundRecord(ROOM, "session", "pickle", ALICE, "curve", "ed", DeviceId("PHONE"), 5)
OUTBOUND = OutboundRecord(
    ROOM,
    "session",
    "pickle",
    created_ms=2**41,
    messages=7,
    shared=frozenset({(ALICE, DeviceId("PHONE"), "curve"), (ALICE, DeviceId("LAPTOP"), "curve2")}),
    withheld=frozenset({(ALICE, DeviceId("OLD"))}),
)
USER = UserRecord(ALICE, '{"devices":{}}', 2**41, outdated=False, pinned_master="m1", verified_master="m2")


@pytest.fixture
def store(database: Database) -> CryptoUserStore:
    return CryptoStore(database).of(PEER)


async def test_everything_comes_back_as_it_was(database: Database, store: CryptoUserStore) -> None:
    room = RoomEncryption(ROOM, 50, 2**40)
    olm = OlmRecord("curve", "s", "pickle", 3)
    await store.save(Changes(ACCOUNT, [olm], [INBOUND], [OUTBOUND], [USER], [room]))
    again = CryptoStore(database).of(PEER)
    assert await again.account() == ACCOUNT
    assert await again.olm_sessions("curve") == [olm]
    assert await again.inbound(ROOM, "session", ALICE) == INBOUND
    assert await again.outbound(ROOM) == OUTBOUND
    assert await again.user(ALICE) == USER
    assert await again.room(ROOM) == room


async def test_users_of_ours_see_nothing_of_each_other(database: Database, store: CryptoUserStore) -> None:
    await store.save(Changes(ACCOUNT, inbound=[INBOUND], outbound=[OUTBOUND], users=[USER]))
    other = CryptoStore(database).of(OTHER)
    assert [await other.account(), await other.outbound(ROOM), await other.user(ALICE)] == [None, None, None]
    assert await other.inbound(ROOM, "session", ALICE) is None
    assert await other.claim_index(ROOM, "session", 0, EventId("$a"), 0)
    assert await store.claim_index(ROOM, "session", 0, EventId("$b"), 0)


async def test_unknown_is_none(store: CryptoUserStore) -> None:
    assert [await store.account(), await store.outbound(ROOM), await store.user(ALICE), await store.room(ROOM)] == (
        [None] * 4
    )
    assert await store.olm_sessions("curve") == []


async def test_later_save_replaces_all_but_the_key_of_somebody_else(store: CryptoUserStore) -> None:
    await store.save(Changes(ACCOUNT, inbound=[INBOUND], outbound=[OUTBOUND], users=[USER]))
    account, outbound = replace(ACCOUNT, sync_token="s2"), replace(OUTBOUND, messages=8, shared=frozenset())
    user = replace(USER, verified_master=None)
    await store.save(Changes(account, inbound=[replace(INBOUND, pickle="x")], outbound=[outbound], users=[user]))
    assert [await store.account(), await store.outbound(ROOM), await store.user(ALICE)] == [account, outbound, user]
    assert await store.inbound(ROOM, "session", ALICE) == INBOUND


async def test_identities_that_were_compared_are_told_unless_our_users_disagree(database: Database) -> None:
    store = CryptoStore(database)
    bob, carol = UserId("@bob:example.org"), UserId("@carol:example.org")
    plain = replace(USER, user=carol, verified_master=None)
    await store.of(PEER).save(Changes(users=[USER, replace(USER, user=bob, verified_master="b1"), plain]))
    await store.of(OTHER).save(Changes(users=[USER, replace(USER, user=bob, verified_master="b2")]))
    assert await store.vouched() == {ALICE: "m2"}


async def test_newest_sessions_come_first_and_no_more_than_are_tried(store: CryptoUserStore) -> None:
    records = [OlmRecord("curve", f"s{number}", "pickle", number) for number in range(MAX_OLM + 2)]
    await store.save(Changes(olm=[*records, OlmRecord("another", "s", "pickle", 99)]))
    assert await store.olm_sessions("curve") == list(reversed(records))[:MAX_OLM]


async def test_index_is_taken_by_one_event(store: CryptoUserStore) -> None:
    assert [await store.claim_index(ROOM, "s", 1, EventId(event), 0) for event in ("$a", "$a", "$b")] == [
        True,
        True,
        False,
    ]
    assert await store.claim_index(ROOM, "s", 2, EventId("$b"), 0)


async def test_outdated_is_noted_for_those_who_are_known(store: CryptoUserStore) -> None:
    await store.save(Changes(users=[USER]))
    await store.mark_outdated([ALICE, OTHER])
    assert await store.user(ALICE) == replace(USER, outdated=True)
    assert await store.user(OTHER) is None
    await store.save(Changes(users=[USER, replace(USER, user=OTHER)]))
    await store.mark_outdated(None)
    known = [await store.user(user) for user in (ALICE, OTHER)]
    assert [record is not None and record.outdated for record in known] == [True, True]


async def test_who_is_outdated_already_costs_no_write(database: Database, store: CryptoUserStore) -> None:
    """Whoever changes their devices over and over would keep the database busy for all of ours."""
    await store.save(Changes(users=[USER]))
    await store.mark_outdated([ALICE])

    async def version() -> object:
        """Another one after each write."""
        if database.sqlite_file is None:
            return (await database.row("SELECT xmin::text AS version FROM crypto_user"))["version"]
        return seen_from_outside.execute("PRAGMA data_version").fetchone()

    seen_from_outside = sqlite3.connect(database.sqlite_file or ":memory:")
    with contextlib.closing(seen_from_outside):
        before = await version()
        await store.mark_outdated([ALICE])
        await store.mark_outdated(None)
        assert await version() == before
        await store.save(Changes(users=[USER]))
        await store.mark_outdated([ALICE])
        assert await version() != before


async def test_forgotten_device_leaves_what_is_known_of_others(store: CryptoUserStore) -> None:
    room = RoomEncryption(ROOM)
    await store.save(Changes(ACCOUNT, [OlmRecord("curve", "s", "p", 1)], [INBOUND], [OUTBOUND], [USER], [room]))
    await store.forget()
    assert [await store.account(), await store.outbound(ROOM)] == [None, None]
    assert await store.olm_sessions("curve") == []
    assert await store.inbound(ROOM, "session", ALICE) is None
    assert [await store.user(ALICE), await store.room(ROOM)] == [USER, room]


async def test_old_keys_are_forgotten_and_new_ones_are_not(database: Database, store: CryptoUserStore) -> None:
    now = 1000 * DAY_MS
    limit = now - KEEP_INBOUND_MS
    inbound = [replace(INBOUND, session_id=name, received_ms=ms) for name, ms in (("old", limit - 1), ("new", limit))]
    olm = [OlmRecord("curve", name, "p", now - KEEP_OLM_MS - age) for name, age in (("old", 1), ("new", 0))]
    await store.save(Changes(olm=olm, inbound=inbound))
    await store.claim_index(ROOM, "old", 0, EventId("$a"), limit - 1)
    await store.claim_index(ROOM, "new", 0, EventId("$a"), limit)
    assert await CryptoStore(database).prune(now) == 3
    assert [each.session_id for each in await store.olm_sessions("curve")] == ["new"]
    assert await store.inbound(ROOM, "old", ALICE) is None
    assert await store.inbound(ROOM, "new", ALICE) is not None
    assert not await store.claim_index(ROOM, "new", 0, EventId("$b"), limit)


async def test_opened_messages_stay_until_they_are_dealt_with_or_old(
    database: Database, store: CryptoUserStore
) -> None:
    records = [OpenedRecord(f"n{number}", ALICE, "sealed", number) for number in range(4)]
    await store.save(Changes(opened=reversed(records)))  # type: ignore[arg-type]
    assert await store.opened() == records, "the oldest first"
    assert await CryptoStore(database).of(OTHER).opened() == []
    await store.save(Changes(opened=[records[0]], dealt_with=["n1", "n2", "never heard of"]))
    assert await store.opened() == [records[0], records[3]]
    await store.forget()
    assert await store.opened() == [records[0], records[3]], "also when the device has been replaced"
    await CryptoStore(database).prune(KEEP_OPENED_MS + 3)
    assert await store.opened() == [records[3]]
