"""A COMMIT whose answer is lost: what was stored is stored once, and told as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import pytest
from mautrix.util.async_db import Connection

from mxrtc_bridge.core.access.grants import EndedGrant, GivenUp
from mxrtc_bridge.core.access.requests import AccessRequest, RequestState
from mxrtc_bridge.core.errors import StorageError, UnknownOutcomeError
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, RoomId, ServiceName, UserId
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.storage.audit import AuditContradictionError, AuditStore
from mxrtc_bridge.storage.calls import CallStore
from mxrtc_bridge.storage.database import KEEP_MARKS_MS, Database, DatabaseBounds
from mxrtc_bridge.storage.events import InboxStore
from mxrtc_bridge.storage.grants import GrantStore
from mxrtc_bridge.storage.notice_times import NoticeStore
from mxrtc_bridge.storage.requests import RequestStore
from tests.storage.failing_commits import Commits, failing_commits
from tests.storage.test_audit import entries
from tests.storage.test_database import count_notices, insert_notice
from tests.storage.test_grants import ADMIN, NOW, SSH, grant

ALICE = UserId("@alice:example.org")
ASKED = AccessRequest(0, ALICE, SSH.peer, SSH.name, 3600, "", RoomId("!room:example.org"), NOW)
CALL = CallRecord(RoomId("!r:example.org"), CallId("c"), SSH.peer, ALICE, PartyId("p"))


@dataclass(frozen=True)
class Arrival:
    key: str
    room_id: str = "!r:example.org"
    sender: str = "@alice:example.org"
    lane: str = "@alice:example.org"
    payload: str = "{}"
    refusal: str | None = None


@pytest.fixture
async def commits(url: str) -> AsyncIterator[Commits]:
    async with failing_commits(url) as made:
        yield made


@pytest.fixture
async def lossy_database(commits: Commits) -> AsyncIterator[Database]:
    async with await Database.open(commits.url, DatabaseBounds(patience_s=0.5)) as opened:
        # So that PostgreSQL's connection is there.
        await opened.read(count_notices)
        yield opened


async def test_work_is_committed_once_when_the_answer_is_lost(lossy_database: Database, commits: Commits) -> None:
    runs = 0

    async def insert(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        await insert_notice(connection, f"@{runs}:example.org")
        return runs

    commits.lose = 1
    assert await lossy_database.transaction(insert) == 1, "what the run has returned that was committed"
    assert (runs, await lossy_database.read(count_notices)) == (1, 1)


async def test_work_is_done_again_when_the_commit_was_not_carried_out(
    lossy_database: Database, commits: Commits
) -> None:
    commits.drop = 1
    await lossy_database.transaction(insert_notice)
    assert await lossy_database.read(count_notices) == 1


async def test_what_may_be_stored_is_not_told_as_not_stored(lossy_database: Database, commits: Commits) -> None:
    commits.drop = 1_000_000
    with pytest.raises(UnknownOutcomeError, match="has not said whether"):
        await lossy_database.transaction(insert_notice)
    commits.drop = 0
    assert await lossy_database.read(count_notices) == 0


async def test_what_failed_before_its_commit_is_told_as_not_stored(lossy_database: Database, commits: Commits) -> None:
    async def fail(connection: Connection) -> None:
        await insert_notice(connection)
        raise OSError("the network is unreachable")

    with pytest.raises(StorageError) as caught:
        await lossy_database.transaction(fail)
    assert not isinstance(caught.value, UnknownOutcomeError)
    assert await lossy_database.read(count_notices) == 0


async def test_readings_store_nothing(lossy_database: Database, commits: Commits) -> None:
    """Whoever writes in a reading loses it at once: PostgreSQL refuses it, SQLite forgets it."""
    refused: AbstractContextManager[object] = (
        nullcontext() if commits.url.startswith("sqlite") else pytest.raises(Exception, match="read-only")
    )
    with refused:
        await lossy_database.read(insert_notice)
    assert await lossy_database.read(count_notices) == 0


async def test_many_at_the_same_time_are_each_committed_once(lossy_database: Database, commits: Commits) -> None:
    async def insert(number: int) -> None:
        await lossy_database.transaction(lambda connection: insert_notice(connection, f"@{number}:example.org"))

    commits.lose = 7
    await asyncio.gather(*(insert(number) for number in range(30)))
    assert await lossy_database.read(count_notices) == 30


async def test_marks_do_not_grow_and_old_ones_are_forgotten(url: str) -> None:
    async def marks(connection: Connection) -> int:
        return int(await connection.fetchval("SELECT COUNT(*) FROM write_mark"))

    async def age(connection: Connection) -> None:
        await connection.execute("UPDATE write_mark SET noted_ms = noted_ms - $1", KEEP_MARKS_MS + 1000)

    async with await Database.open(url) as database:
        for number in range(20):
            await NoticeStore(database).may_notify(UserId(f"@{number}:example.org"), 1, 1)
        assert await database.read(marks) == 1
    async with await Database.open(url) as database:
        await database.transaction(age)
        assert await database.read(marks) == 2
    async with await Database.open(url) as database:
        await NoticeStore(database).may_notify(ALICE, 1, 1)
        assert await database.read(marks) == 1


# What is stored, one table after the other


async def test_a_grant_is_stored_once_and_its_end_is_its_end(lossy_database: Database, commits: Commits) -> None:
    store = GrantStore(lossy_database)
    commits.lose = 1
    number = await store.add(grant())
    assert number is not None
    commits.lose = 1
    assert await store.confirm(number)
    assert [each.number for each in await store.in_force(NOW)] == [number]
    commits.lose = 1
    await store.write([EndedGrant(replace(grant(), number=number), NOW, "revoked")])
    assert await store.in_force(NOW) == []


async def test_a_grant_is_the_same_for_the_same_key(lossy_database: Database) -> None:
    store = GrantStore(lossy_database)
    number = await store.add(grant(), key="k")
    assert await store.add(grant(), key="k") == number
    assert await store.add(grant(), key="other") != number


async def test_a_request_that_was_allowed_has_its_grant(lossy_database: Database, commits: Commits) -> None:
    grants, requests = GrantStore(lossy_database), RequestStore(lossy_database)
    commits.lose = 1
    number = await requests.add(ASKED)
    assert number is not None, "not: you have asked for this already"
    decided = replace(ASKED, number=number, state=RequestState.ALLOWED, decided_by=ADMIN, decided_ms=NOW)
    commits.lose = 1
    assert await grants.add(grant(), decided) is not None, "not: answered before"


async def test_a_refused_request_is_not_told_as_answered_before(lossy_database: Database, commits: Commits) -> None:
    requests = RequestStore(lossy_database)
    number = await requests.add(ASKED)
    assert number is not None
    commits.lose = 1
    assert await requests.settle(replace(ASKED, number=number, state=RequestState.DENIED))


async def test_the_first_invite_of_a_call_is_no_replay(lossy_database: Database, commits: Commits) -> None:
    commits.lose = 1
    assert await CallStore(lossy_database).claim(CALL, EventId("$1"), NOW)
    assert not await CallStore(lossy_database).claim(CALL, EventId("$1"), NOW)


async def test_events_that_arrive_are_new_the_first_time(lossy_database: Database, commits: Commits) -> None:
    store = InboxStore(lossy_database)
    commits.lose = 1
    assert None not in await store.store([Arrival("$1"), Arrival("$2")], NOW)
    assert await store.store([Arrival("$1")], NOW) == [None]


async def test_a_notice_is_sent_where_its_time_was_taken_down(lossy_database: Database, commits: Commits) -> None:
    commits.lose = 1
    assert await NoticeStore(lossy_database).may_notify(ALICE, NOW, 1000)
    assert not await NoticeStore(lossy_database).may_notify(ALICE, NOW, 1000)


# What is given up


async def test_a_grant_that_is_given_up_cannot_be_stored_afterwards(lossy_database: Database) -> None:
    """Its transaction may still be on its way."""
    store = GrantStore(lossy_database)
    await store.write([GivenUp(grant(), "k", NOW)])
    assert await store.add(grant(), key="k") is None
    assert await store.in_force(NOW) == []


async def test_a_grant_that_is_given_up_is_not_confirmed_afterwards(lossy_database: Database) -> None:
    store = GrantStore(lossy_database)
    number = await store.add(grant(), key="k")
    assert number is not None
    await store.write([GivenUp(grant(), "k", NOW)])
    assert not await store.confirm(number)
    assert await store.in_force(NOW) == []


@pytest.mark.parametrize("confirmed", [False, True])
async def test_giving_up_opens_the_request_again_once(lossy_database: Database, confirmed: bool) -> None:
    grants, requests = GrantStore(lossy_database), RequestStore(lossy_database)
    number = await requests.add(ASKED)
    assert number is not None
    decided = replace(ASKED, number=number, state=RequestState.ALLOWED, decided_by=ADMIN, decided_ms=NOW)
    given = await grants.add(grant(), decided, key="k")
    assert given is not None
    if confirmed:
        await grants.confirm(given)
    await grants.write([GivenUp(grant(), "k", NOW)])
    assert await requests.open_requests() == [replace(ASKED, number=number)]
    denied = replace(decided, state=RequestState.DENIED)
    assert await requests.settle(denied)
    await grants.write([GivenUp(grant(), "k", NOW)])
    assert await requests.get(number) == denied, "a second time it changes nothing"


async def test_giving_up_what_was_never_stored_opens_no_request(lossy_database: Database) -> None:
    requests = RequestStore(lossy_database)
    number = await requests.add(ASKED)
    assert number is not None
    await requests.settle(replace(ASKED, number=number, state=RequestState.DENIED))
    await GrantStore(lossy_database).write([GivenUp(grant(), "k", NOW)])
    assert await requests.open_requests() == []


async def test_a_text_that_the_database_refuses_keeps_nobody_else_from_ending(lossy_database: Database) -> None:
    """PostgreSQL stores no U+0000; what is given up is written without the reason that people gave."""
    store = GrantStore(lossy_database)
    odd = replace(grant(), reason="a\x00b", service=replace(SSH, name=ServiceName("db")))
    await store.write([GivenUp(odd, "k", NOW)])


@pytest.mark.parametrize(("lost", "dropped"), [(1, 0), (0, 1), (1, 1)])
async def test_lines_of_the_audit_are_stored_once(
    lossy_database: Database, commits: Commits, lost: int, dropped: int
) -> None:
    """They need no mark: their numbers and digests say whether they are stored."""
    store, made = AuditStore(lossy_database), entries(3)
    commits.lose, commits.drop = lost, dropped
    await store.add(made[:2])
    await store.add(made[2:])
    assert (commits.lose, commits.drop) == (0, 0)
    assert await store.digests(1, 10) == {each.head.number: each.head.digest for each in made}


async def test_another_line_is_a_contradiction_also_where_an_answer_was_lost(
    lossy_database: Database, commits: Commits
) -> None:
    store, (mine,), (other,) = AuditStore(lossy_database), entries(1), entries(1, rule="another")
    await store.add([other])
    commits.lose = 1
    with pytest.raises(AuditContradictionError):
        await store.add([mine])
    assert (await store.digests(1, 10)) == {1: other.head.digest}
