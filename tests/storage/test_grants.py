"""Given grants in the database: back after a restart, ended once, forgotten in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mxrtc_bridge.core.access.grants import ClaimedGrant, EndedGrant, StoredGrant
from mxrtc_bridge.core.access.policy import Service, Subject, parse_subject
from mxrtc_bridge.core.access.requests import AccessRequest, RequestState
from mxrtc_bridge.core.ids import Actor, LocalAdmin, RoomId, ServiceName, UserId
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.grants import KEEP_MS, GrantStore
from mxrtc_bridge.storage.requests import RequestStore

ADMIN, ROOT = UserId("@admin:example.org"), LocalAdmin("root")
SSH = Service(UserId("@rtc_build:example.org"), ServiceName("ssh"))
NOW = 1_700_000_000_000
HOUR = 3600 * 1000


def grant(
    subject: str | Subject = "@alice:example.org", *, once: bool = False, until_ms: int = NOW + HOUR
) -> StoredGrant:
    parsed = parse_subject(subject) if isinstance(subject, str) else subject
    return StoredGrant(0, parsed, SSH, ADMIN, NOW, until_ms, "a <b> 'c' \u202e", once)


async def add(store: GrantStore, given: StoredGrant) -> StoredGrant:
    number = await store.add(given)
    assert number is not None
    assert await store.confirm(number)
    return replace(given, number=number)


async def test_grants_come_back_as_they_were(database: Database) -> None:
    store = GrantStore(database)
    given = [await add(store, grant(text)) for text in ("@alice:example.org", "server:x.test", "room:!r:x.test", "*")]
    given.append(await add(store, grant(once=True)))
    given.append(await add(store, replace(grant(), giver=ROOT)))
    assert await store.in_force(NOW) == given
    assert len({each.number for each in given}) == 6


async def test_a_grant_gives_nothing_before_it_is_confirmed(database: Database) -> None:
    store = GrantStore(database)
    assert await store.add(grant()) is not None
    assert await store.in_force(NOW) == []


async def test_what_ended_while_nobody_looked_does_not_come_back(database: Database) -> None:
    store = GrantStore(database)
    short, long = await add(store, grant(until_ms=NOW + 1)), await add(store, grant())
    assert (await store.recover(NOW + 1)).in_force == [long]
    # A clock that is set back brings nothing back.
    assert await store.in_force(NOW) == [long]
    assert short.number != long.number


@pytest.mark.parametrize("by", [ADMIN, ROOT])
async def test_a_grant_ends_once(database: Database, by: Actor) -> None:
    store = GrantStore(database)
    given = await add(store, grant())
    await store.write([EndedGrant(given, NOW + 5, "revoked", by)])
    await store.write([EndedGrant(given, NOW + 9, "expired")])
    assert await store.in_force(NOW) == []

    async def read(connection: object) -> object:
        return await connection.fetchrow("SELECT ended_ms, ended_how, ended_by FROM given_grant")  # type: ignore[attr-defined]

    assert tuple(await database.transaction(read)) == (NOW + 5, "revoked", str(by))  # type: ignore[arg-type]


async def test_a_grant_that_a_session_had_claimed_is_over_after_a_restart(database: Database) -> None:
    store = GrantStore(database)
    used, unused = await add(store, grant(once=True)), await add(store, grant(once=True))
    await store.write([ClaimedGrant(used.number, NOW)])
    assert (await store.recover(NOW)).in_force == [unused]
    assert await store.in_force(NOW) == [unused]


async def test_ended_grants_are_forgotten_by_age_and_by_number(database: Database) -> None:
    store = GrantStore(database, max_ended=3)
    live = await add(store, grant())
    for number in range(6):
        await store.write([EndedGrant(await add(store, grant()), NOW + number, "expired")])
    assert await store.prune(NOW) == 3
    assert await store.prune(NOW) == 0
    assert await store.prune(NOW + KEEP_MS + 5) == 2
    assert await store.prune(NOW + 2 * KEEP_MS) == 1
    assert await store.in_force(NOW) == [live]


@pytest.mark.parametrize("by", [ADMIN, ROOT])
async def test_a_grant_and_its_decision_are_stored_together_or_not_at_all(database: Database, by: Actor) -> None:
    grants, requests = GrantStore(database), RequestStore(database)
    alice = UserId("@alice:example.org")
    asked = AccessRequest(0, alice, SSH.peer, SSH.name, 3600, "", RoomId("!room:example.org"), NOW)
    number = await requests.add(asked)
    assert number is not None
    decided = replace(asked, number=number, state=RequestState.ALLOWED, decided_by=by, decided_ms=NOW)
    assert (given := await grants.add(grant(), decided)) is not None
    assert await grants.confirm(given)
    settled = await requests.get(number)
    assert settled is not None
    assert (settled.state, settled.decided_by) == (RequestState.ALLOWED, by)
    assert await grants.add(grant(), decided) is None, "somebody was first"
    assert len(await grants.in_force(NOW)) == 1
