"""No table grows without end, whoever fills it; what is in force stays."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from mautrix.util.async_db import Connection

from mxrtc_bridge.core.audit.chain import NO_LINES, AuditKind, AuditRecord, entry_after
from mxrtc_bridge.core.bounds.rows import Bound
from mxrtc_bridge.core.crypto.records import Changes, InboundRecord, OlmRecord, OutboundRecord, RoomEncryption
from mxrtc_bridge.core.crypto.records import UserRecord as User
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId, UserId
from mxrtc_bridge.storage import crypto, crypto_bounds
from mxrtc_bridge.storage.audit import AuditStore
from mxrtc_bridge.storage.crypto import DAY_MS, CryptoStore, CryptoUserStore
from mxrtc_bridge.storage.crypto_bounds import CryptoBounds
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.rooms import RoomStore
from tests.storage.table_bounds import BOUNDS

NOW = time.time_ns() // 1_000_000
PEER = UserId("@rtc_build:example.org")
ALICE = UserId("@alice:example.org")
ROOM = RoomId("!room:example.org")
SMALL = Bound(total=30, of_user=8, of_server=5, strangers=12)
INBOUND = InboundRecord(ROOM, "s", "pickle", ALICE, "curve", "ed", DeviceId("PHONE"), NOW)


async def tables(connection: Connection) -> set[str]:
    if str(connection.scheme.value).startswith("sqlite"):
        rows = await connection.fetch("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    else:
        rows = await connection.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
    return {row["name"] for row in rows}


async def test_every_table_says_how_it_is_bounded(database: Database) -> None:
    found = await database.transaction(tables)
    # Those of the library, with a row each.
    assert found - {"mxrtc_version", "database_owner"} == set(BOUNDS)
    for name, bound in BOUNDS.items():
        assert bound.first, name
        assert bound.rows is None or 0 < bound.rows < 1_000_000, name


@pytest.fixture
async def store(database: Database) -> CryptoUserStore:
    """A store whose alice was let in before."""
    record = AuditRecord(AuditKind.CALL, NOW, user=ALICE, allowed=True)
    await AuditStore(database).add([entry_after(NO_LINES, record)])
    return CryptoStore(database).of(PEER)


async def count(database: Database, table: str, condition: str = "1 = 1") -> int:
    async def ask(connection: Connection) -> int:
        return int(await connection.fetchval(f"SELECT COUNT(*) FROM {table} WHERE {condition}"))

    return await database.transaction(ask)


OLM_SMALL = CryptoBounds(tables=(replace(crypto_bounds.OLM, bound=SMALL),))
INBOUND_SMALL = CryptoBounds(tables=(replace(crypto_bounds.INBOUND, bound=SMALL),))
USERS_SMALL = CryptoBounds(
    tables=(replace(crypto_bounds.USERS, bound=replace(SMALL, of_user=1, strangers_bytes=5000)),)
)


def stranger(number: int) -> UserId:
    return UserId(f"@u{number}:s{number % 3}.evil.test")


async def test_sessions_of_strangers_are_bounded_as_they_come_and_push_out_nobody_who_is_known(
    database: Database, store: CryptoUserStore
) -> None:
    small = CryptoStore(database, bounds=OLM_SMALL, trim_every=32)
    store = small.of(PEER)
    await store.save(Changes(olm=[OlmRecord("alice", f"s{n}", "p", n, ALICE) for n in range(4)]))
    for number in range(320):
        await store.save(Changes(olm=[OlmRecord(f"c{number}", "s", "p", NOW + number, stranger(number))]))
        assert number % 50 or await count(database, "crypto_olm") <= 4 + SMALL.strangers + 32
    await small.prune(0)
    assert await count(database, "crypto_olm", "curve25519 = 'alice'") == 4
    assert await count(database, "crypto_olm") == 4 + SMALL.strangers
    assert len(await store.olm_sessions(f"c{319}")) == 1, "the newest stay"


async def test_keys_of_rooms_that_strangers_send_are_bounded(database: Database, store: CryptoUserStore) -> None:
    small = CryptoStore(database, bounds=INBOUND_SMALL)
    await store.save(Changes(inbound=[replace(INBOUND, received_ms=NOW - 1)]))
    junk = [
        replace(INBOUND, session_id=f"s{number}", user=stranger(number), received_ms=NOW + number)
        for number in range(200)
    ]
    for start in (0, 100):
        await store.save(Changes(inbound=junk[start : start + 100]))
    await small.prune(NOW)
    assert await count(database, "crypto_inbound") == 1 + SMALL.strangers
    assert await store.inbound(ROOM, "s", ALICE) is not None


async def test_devices_of_strangers_are_bounded_by_number_and_size_and_identities_stay(
    database: Database, store: CryptoUserStore
) -> None:
    small = CryptoStore(database, bounds=USERS_SMALL)
    carol = UserId("@carol:s1.evil.test")
    kept = [
        User(ALICE, "{}", 1, outdated=False, pinned_master="a"),
        User(carol, "{}", 1, outdated=False, pinned_master="c", verified_master="c"),
    ]
    await store.save(Changes(users=kept))
    await store.save(
        Changes(users=[User(stranger(n), "x" * 1000, NOW + n, outdated=False, pinned_master="m") for n in range(100)])
    )
    await small.prune(NOW)
    assert [await store.user(each.user) for each in kept] == kept
    assert await count(database, "crypto_user") == 2 + 5


async def test_an_index_goes_only_with_the_key_of_its_session(database: Database, store: CryptoUserStore) -> None:
    small = CryptoStore(database, bounds=CryptoBounds(index=15, index_of_session=10))
    await store.save(Changes(inbound=[replace(INBOUND, session_id=name) for name in ("long", "short", "few")]))
    for name, used in (("long", 12), ("short", 9), ("few", 8)):
        for index in range(used):
            assert await store.claim_index(ROOM, name, index, EventId(f"${name}{index}"), NOW)
    assert await small.prune(NOW) == 12 + 9
    assert await store.inbound(ROOM, "long", ALICE) is None
    assert await store.inbound(ROOM, "short", ALICE) is None
    assert await store.inbound(ROOM, "few", ALICE) is not None
    assert not await store.claim_index(ROOM, "few", 0, EventId("$again"), NOW)


async def test_our_sessions_of_rooms_end_with_their_use(database: Database, store: CryptoUserStore) -> None:
    small = CryptoStore(database, bounds=CryptoBounds(outbound=3))
    old = OutboundRecord(ROOM, "s", "p", created_ms=NOW - 32 * DAY_MS, messages=1, shared=frozenset())
    new = [replace(old, room=RoomId(f"!{n}:x"), created_ms=NOW - n) for n in range(5)]
    await store.save(Changes(outbound=[old, *new]))
    assert await small.prune(NOW) == 3
    assert [await store.outbound(each.room) for each in new] == [*new[:3], None, None]


async def test_that_a_room_is_encrypted_is_not_forgotten_while_a_peer_is_in_it(
    database: Database, store: CryptoUserStore
) -> None:
    small = CryptoStore(database, bounds=CryptoBounds(rooms=2))
    await RoomStore(database).upsert(PEER, ROOM, ALICE, NOW)
    rooms = [RoomEncryption(ROOM), *(RoomEncryption(RoomId(f"!{n}:x")) for n in range(5))]
    await store.save(Changes(rooms=rooms))
    # As if all had been of use long ago, and one were asked for now.
    await database.transaction(lambda connection: connection.execute("UPDATE crypto_room SET used_ms = 1"))
    assert await store.room(RoomId("!3:x")) == rooms[4]
    assert await small.prune(NOW) == 3
    assert await store.room(ROOM) == rooms[0]
    assert await store.room(RoomId("!3:x")) == rooms[4]


async def test_devices_of_strangers_are_forgotten_when_nobody_asks_for_them_any_more(
    database: Database, store: CryptoUserStore
) -> None:
    old = NOW - crypto.KEEP_STRANGER_MS - 1
    kept = [
        User(ALICE, "{}", old, outdated=False, pinned_master="a"),
        User(UserId("@carol:x"), "{}", old, outdated=False, pinned_master="c", verified_master="c"),
        User(UserId("@dave:x"), "{}", old + 2, outdated=False, pinned_master="d"),
    ]
    await store.save(Changes(users=[*kept, User(stranger(1), "{}", old, outdated=False, pinned_master="m")]))
    assert await CryptoStore(database).prune(NOW) == 1
    assert [await store.user(each.user) for each in kept] == kept
