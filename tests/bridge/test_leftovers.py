"""Calls that the last run left open are hung up in every room in which that can be said."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.bridge.build import Pace
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.call.events import CallMessage
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, RoomId, UserId
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.storage.tables import Stores, open_stores
from tests.bridge.homeserver import ALICE, PEER, ROOM, FakeHomeserver
from tests.bridge.test_bridge import running
from tests.waiting import until


async def left_open(homeserver: FakeHomeserver, rooms: list[str]) -> None:
    """A call in each of the rooms, ``c0`` in the first."""
    async with open_stores(homeserver.config().database) as stores:
        for number, room in enumerate(rooms):
            record = CallRecord(RoomId(room), CallId(f"c{number}"), UserId(PEER), UserId(ALICE), PartyId("p"))
            assert await stores.calls.claim(record, EventId(f"$invite{number}"), 0)


async def until_none_is_open(stores: Stores) -> None:
    async with asyncio.timeout(10):
        while await stores.calls.open_calls():
            await asyncio.sleep(0.01)


async def test_call_of_the_last_run_is_hung_up_in_a_room_that_is_read_for_it(homeserver: FakeHomeserver) -> None:
    rooms = [f"!room{number}:example.org" for number in range(30)]
    homeserver.members |= {room: [ALICE, PEER] for room in rooms}
    async with open_stores(homeserver.config().database) as stores:
        record = CallRecord(RoomId(rooms[-1]), CallId("c"), UserId(PEER), UserId(ALICE), PartyId("p"))
        assert await stores.calls.claim(record, EventId("$invite"), 0)
    async with running(homeserver, rooms_read=False):
        await until(lambda: homeserver.sent)
        assert [kind for kind, _ in homeserver.sent] == ["m.call.hangup"]


async def test_calls_of_the_last_run_wait_for_no_room_but_their_own(homeserver: FakeHomeserver) -> None:
    """Nobody says who is in some rooms; the calls in the others are hung up meanwhile."""
    rooms = [f"!room{number}:example.org" for number in range(6)]
    homeserver.members |= {room: [ALICE, PEER] for room in rooms}
    homeserver.silent.update(rooms[:2])
    await left_open(homeserver, rooms)
    async with running(homeserver, rooms_read=False) as (bridge, _stores, _reload):
        await until(lambda: len(homeserver.sent) == 4)
        assert {content["call_id"] for _, content in homeserver.sent} == {"c2", "c3", "c4", "c5"}
        assert set(bridge.access.index.unread) == set(rooms[:2])


@pytest.mark.parametrize("stays_away", [True, False])
async def test_call_of_the_last_run_in_a_room_that_cannot_be_read_yet_stays_open_until_it_is_hung_up(
    homeserver: FakeHomeserver, stays_away: bool
) -> None:
    homeserver.members[ROOM] = [ALICE, PEER]
    homeserver.misled.add("joined_members")
    record = CallRecord(RoomId(ROOM), CallId("c"), UserId(PEER), UserId(ALICE), PartyId("p"))
    async with open_stores(homeserver.config().database) as stores:
        assert await stores.calls.claim(record, EventId("$invite"), 0)
    async with running(homeserver, Pace(leftovers=Backoff(0.05, 0.05)), rooms_read=False) as (_bridge, stores, _reload):
        await until(lambda: sum("joined_members" in each for each in homeserver.asked) >= 4)
        assert homeserver.sent == []
        if not stays_away:
            homeserver.misled.clear()
            await until(lambda: homeserver.sent)
            assert [kind for kind, _ in homeserver.sent] == ["m.call.hangup"]
            # It is noted once it has been said.
            await until_none_is_open(stores)
    async with open_stores(homeserver.config().database) as stores:
        assert await stores.calls.open_calls() == ([record] if stays_away else [])


async def test_rooms_in_which_nothing_can_be_said_keep_no_call_of_the_last_run_open_in_another(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one hang-up fails the others of that server are not tried for a moment, and then before it."""
    rooms = [f"!room{number}:example.org" for number in range(20)]
    homeserver.members |= {room: [ALICE, PEER] for room in rooms}
    broken, tried, send = {rooms[0], rooms[9]}, list[str](), Outbox.send

    async def refuse_some(outbox: Outbox, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> EventId:
        if room in broken:
            tried.append(room)
            raise HomeserverError("away")
        return await send(outbox, room, sender, message, step=step)

    monkeypatch.setattr(Outbox, "send", refuse_some)
    await left_open(homeserver, rooms)
    async with running(homeserver, Pace(leftovers=Backoff(0.01, 0.01))) as (_bridge, stores, _reload):
        await until(lambda: len(homeserver.sent) == 18 and min(map(tried.count, broken)) > 1)
        broken.clear()
        await until(lambda: len(homeserver.sent) == 20)
        await until_none_is_open(stores)
