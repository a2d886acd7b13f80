"""Requests in the database: decided once, found again, forgotten in the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from mxrtc_bridge.core.access.requests import AccessRequest, RequestState
from mxrtc_bridge.core.ids import EventId, RoomId, ServiceName, UserId
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.requests import KEEP_MS, RequestStore, reopen_in

ALICE, ADMIN = UserId("@alice:example.org"), UserId("@admin:example.org")
NOW = 1_700_000_000_000


def request(user: UserId = ALICE, service: str = "ssh", asked_ms: int = NOW) -> AccessRequest:
    peer = UserId("@rtc_build:example.org")
    return AccessRequest(0, user, peer, ServiceName(service), 7200, "a <b> 'c'", RoomId("!r:example.org"), asked_ms)


async def add(store: RequestStore, asked: AccessRequest) -> AccessRequest:
    number = await store.add(asked)
    assert number is not None
    return replace(asked, number=number)


def end(asked: AccessRequest, state: RequestState, now_ms: int = NOW) -> AccessRequest:
    return replace(asked, state=state, decided_by=ADMIN, decided_ms=now_ms)


async def test_a_request_comes_back_as_it_was(database: Database) -> None:
    store = RequestStore(database)
    asked = await add(store, request())
    await store.set_notice(asked.number, EventId("$notice"))
    noticed = replace(asked, notice=EventId("$notice"))
    assert await store.get(asked.number) == noticed
    assert await store.by_notice(EventId("$notice")) == noticed
    assert await store.open_requests() == [noticed]
    assert await store.of_user(ALICE, NOW) == [noticed]
    assert await store.count_open() == 1
    assert await store.get(asked.number + 1) is None
    assert await store.by_notice(EventId("$other")) is None


async def test_a_second_open_request_for_a_service_is_refused_by_the_database(database: Database) -> None:
    store = RequestStore(database)
    first = await add(store, request())
    assert await store.add(request()) is None
    await add(store, request(service="db"))
    await store.settle(end(first, RequestState.DENIED))
    await add(store, request())


async def test_of_two_answers_at_the_same_moment_one_counts(database: Database) -> None:
    store = RequestStore(database)
    asked = await add(store, request())
    answers = [RequestState.ALLOWED, RequestState.DENIED] * 5
    taken = await asyncio.gather(*(store.settle(end(asked, state)) for state in answers))
    assert sum(taken) == 1
    stored = await store.get(asked.number)
    assert stored == end(asked, answers[taken.index(True)])


async def test_a_decision_that_was_not_carried_out_is_taken_back(database: Database) -> None:
    store = RequestStore(database)
    asked = await add(store, request())
    await store.settle(end(asked, RequestState.ALLOWED))
    await database.transaction(lambda connection: reopen_in(connection, asked.number))
    assert await store.get(asked.number) == asked


async def test_a_decision_is_not_taken_back_over_a_later_request(database: Database) -> None:
    """The person has asked again meanwhile: one open request for a service, and it is the later one."""
    store = RequestStore(database)
    asked = await add(store, request())
    await store.settle(end(asked, RequestState.ALLOWED))
    later = await add(store, request())
    await database.transaction(lambda connection: reopen_in(connection, asked.number))
    assert await store.open_requests() == [later]
    was = await store.get(asked.number)
    assert was is not None
    assert was.state is RequestState.EXPIRED


async def test_a_refusal_is_never_taken_back(database: Database) -> None:
    store = RequestStore(database)
    asked = await add(store, request())
    await store.settle(end(asked, RequestState.DENIED))
    await database.transaction(lambda connection: reopen_in(connection, asked.number))
    assert await store.open_requests() == []


async def test_numbers_are_never_given_twice(database: Database) -> None:
    store = RequestStore(database)
    first = await add(store, request())
    await store.settle(end(first, RequestState.DENIED))
    assert await store.prune(NOW + KEEP_MS + 1) == 1
    assert (await add(store, request())).number > first.number


async def test_open_requests_are_kept_and_ended_ones_forgotten_by_age_and_number(database: Database) -> None:
    store = RequestStore(database, max_ended=2)
    waiting = await add(store, request())
    ended = []
    for number in range(4):
        asked = await add(store, request(service=f"s{number}"))
        await store.settle(end(asked, RequestState.EXPIRED, NOW + number))
        ended.append(asked.number)
    assert await store.prune(NOW + KEEP_MS + 1) == 2
    left = {r.number for r in await store.of_user(ALICE, 0)}
    assert left == {waiting.number, *ended[2:]}


async def test_requests_of_a_user_hold_what_was_decided_lately(database: Database) -> None:
    store = RequestStore(database)
    old = await add(store, request(asked_ms=NOW - 1000))
    await store.settle(end(old, RequestState.DENIED, NOW))
    older = await add(store, request(asked_ms=NOW - 1000))
    await store.settle(end(older, RequestState.DENIED, NOW - 900))
    assert [r.number for r in await store.of_user(ALICE, NOW)] == [old.number]
    assert await store.of_user(ADMIN, 0) == []
