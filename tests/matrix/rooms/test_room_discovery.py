"""Rooms that peers are in at the start: found, read beside all else, and left where they are none for calls."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.rooms import refresh as refresh_module
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from tests import virtual_time
from tests.matrix.rooms.peers_bench import ALICE, MALLORY, PEER, PEER_2, ROOM, Bench, FakeDirectory, StoredRoom
from tests.waiting import until


async def test_start_learns_rooms_and_leaves_those_that_must_not_be() -> None:
    good, known, crowd, foreign, shared, empty, space = (
        RoomId(f"!{name}:example.org") for name in ["good", "known", "crowd", "foreign", "shared", "empty", "space"]
    )
    bench = Bench(
        directory=FakeDirectory(
            StoredRoom(PEER, known, ALICE, 5),
            StoredRoom(PEER, RoomId("!gone:example.org"), ALICE, 5),
            StoredRoom(UserId("@rtc_old:example.org"), RoomId("!old:example.org"), ALICE, 5),
        )
    )
    bench.homeserver.members = {
        good: {ALICE, PEER},
        known: {ALICE, PEER, MALLORY},
        crowd: {ALICE, PEER, MALLORY},
        foreign: {MALLORY, PEER},
        shared: {ALICE, PEER, PEER_2},
        empty: {PEER},
        space: {ALICE, PEER},
    }
    bench.homeserver.facts[space] = RoomFacts(encrypted=False, join_rule="invite", room_type="m.space")
    await bench.start()
    assert bench.index.members(good) == {ALICE, PEER}
    assert bench.index.members(known) == {ALICE, PEER, MALLORY}, "its owner is known, and the third may leave again"
    for room in (crowd, foreign, shared, empty, space):
        assert bench.index.members(room) is None
    left = {entry[1:] for entry in bench.homeserver.of("leave")}
    assert left == {(room, PEER) for room in (crowd, foreign, shared, empty, space)} | {
        (shared, PEER_2),
        (RoomId("!old:example.org"), UserId("@rtc_old:example.org")),
    }
    # A start is no use of a room: the known one keeps its time. What is no room any more is forgotten.
    assert bench.directory.rooms == {
        (PEER, good): StoredRoom(PEER, good, ALICE, bench.now_ms),
        (PEER, known): StoredRoom(PEER, known, ALICE, 5),
    }
    assert bench.homeserver.notices == []


async def test_start_fails_rather_than_overlooking_a_room_when_the_homeserver_is_away() -> None:
    bench = Bench()
    bench.homeserver.members = {ROOM: {ALICE, PEER}}
    bench.homeserver.failures["rooms"] = HomeserverError("away", 502)
    with pytest.raises(HomeserverError, match="away"):
        await bench.peers.start()


def many_rooms(number: int) -> list[RoomId]:
    return [RoomId(f"!r{each}:example.org") for each in range(number)]


async def test_start_asks_about_no_room_and_an_event_has_its_own_read_at_once() -> None:
    bench, rooms = Bench(), many_rooms(500)
    bench.homeserver.members = {room: {ALICE, PEER} for room in rooms}
    await bench.peers.start()
    assert bench.homeserver.of("members", "facts", "leave") == []
    assert all(bench.index.members(room) is None for room in rooms), "nobody is let in by what is not known"
    await bench.peers.settled(rooms[400])
    await bench.peers.settled(rooms[400])
    assert bench.homeserver.of("members", "facts") == [("members", rooms[400]), ("facts", rooms[400])]
    assert bench.index.members(rooms[400]) == {ALICE, PEER}
    assert len(bench.index) == 1


async def test_rooms_of_an_earlier_run_are_read_beside_all_else_each_once_and_few_at_a_time() -> None:
    bench, rooms = Bench(), many_rooms(100)
    bench.homeserver.members = {room: {ALICE, PEER} for room in rooms}
    await bench.peers.start()
    bench.homeserver.most_busy = 0
    running = asyncio.create_task(bench.peers.run())
    await until(lambda: len(bench.index) == 100)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sorted(bench.homeserver.of("members", "facts")) == sorted(
        (what, room) for what in ("members", "facts") for room in rooms
    )
    assert bench.homeserver.most_busy <= refresh_module.PARALLEL
    assert (bench.index.unread, bench.peers.discovery.reader.doubtful()) == ({}, frozenset())


@pytest.mark.parametrize("what", ["broken", "hanging"])
def test_room_that_cannot_be_read_keeps_no_other_from_being_read_and_is_read_later(what: str) -> None:
    async def story() -> None:
        bench, rooms = Bench(), many_rooms(40)
        bench.homeserver.members = {room: {ALICE, PEER} for room in rooms}
        getattr(bench.homeserver, what).add(rooms[3])
        await bench.peers.start()
        running = asyncio.create_task(bench.peers.run())
        await asyncio.sleep(1)
        assert {room for room in rooms if bench.index.get(room) is not None} == {*rooms} - {rooms[3]}
        getattr(bench.homeserver, what).clear()
        for _ in range(60):
            bench.now_ms += 1000
            await asyncio.sleep(1)
        assert bench.index.get(rooms[3]) is not None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    virtual_time.run(story())


def test_peer_that_the_homeserver_refuses_keeps_no_other_from_its_rooms_and_has_its_own_later() -> None:
    """As one whose account was locked."""

    async def story() -> None:
        bench = Bench()
        mine, other, old = (RoomId(f"!{name}:example.org") for name in ("mine", "other", "old"))
        bench.homeserver.members = {mine: {ALICE, PEER}, other: {ALICE, PEER_2}}
        bench.directory.rooms = {
            (PEER, mine): StoredRoom(PEER, mine, ALICE, 5),
            (PEER, old): StoredRoom(PEER, old, ALICE, 5),
        }
        bench.homeserver.locked = {PEER}
        await bench.peers.start()
        running = asyncio.create_task(bench.peers.run())
        await asyncio.sleep(20)
        assert [room.room_id for room in bench.index] == [other]
        bench.homeserver.failures["rooms"] = HomeserverError("away", 502)
        await asyncio.sleep(100)
        assert (PEER, mine) in bench.directory.rooms, "what is not known is not forgotten"
        bench.homeserver.locked = set()
        bench.homeserver.failures.clear()
        await asyncio.sleep(400)
        assert {room.room_id for room in bench.index} == {mine, other}
        assert {place for place, _ in bench.directory.rooms.items()} == {(PEER, mine), (PEER_2, other)}
        assert bench.homeserver.of("leave") == []
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    virtual_time.run(story())


def test_rooms_of_a_peer_that_was_refused_are_found_although_the_database_fails_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        bench = Bench()
        bench.homeserver.members = {ROOM: {ALICE, PEER}}
        bench.homeserver.locked = {PEER}
        await bench.peers.start()
        running = asyncio.create_task(bench.peers.run())
        await asyncio.sleep(0)
        bench.homeserver.locked = set()
        stored, failures = bench.directory.all, [StorageError("the database is locked")]

        async def fails_once() -> list[StoredRoom]:
            if failures:
                raise failures.pop()
            return await stored()

        monkeypatch.setattr(bench.directory, "all", fails_once)
        await asyncio.sleep(60)
        assert failures == []
        assert bench.index.members(ROOM) == {ALICE, PEER}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    virtual_time.run(story())


async def test_database_that_fails_while_rooms_are_left_keeps_no_room_from_being_left_or_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = many_rooms(20)
    bench = Bench(
        profiles=(PeerProfile(PEER, "Build"),), directory=FakeDirectory(*(StoredRoom(PEER_2, r, ALICE, 5) for r in old))
    )
    bench.homeserver.members = {room: {ALICE, PEER_2} for room in old} | {ROOM: {ALICE, PEER}}

    async def fails(*_: object) -> None:
        raise StorageError("the database is locked")

    monkeypatch.setattr(bench.directory, "remove", fails)
    await bench.peers.start()
    running = asyncio.create_task(bench.peers.run())
    await until(lambda: bench.index.get(ROOM) is not None and len(bench.homeserver.of("leave")) == len(old))
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_peer_that_is_configured_no_more_leaves_also_the_room_of_another() -> None:
    rooms = FakeDirectory(StoredRoom(PEER, ROOM, ALICE, 5), StoredRoom(PEER_2, ROOM, ALICE, 5))
    bench = Bench(profiles=(PeerProfile(PEER, "Build"),), directory=rooms)
    bench.homeserver.members[ROOM] = {ALICE, PEER, PEER_2}
    await bench.start()
    assert bench.index.peer_in(ROOM) == PEER
    assert (bench.homeserver.members[ROOM], len(bench.peers.departures)) == ({ALICE, PEER}, 0)
    assert list(rooms.rooms) == [(PEER, ROOM)]


@pytest.mark.parametrize(
    ("user", "membership", "fits"), [(MALLORY, "join", False), (ALICE, "leave", False), (ALICE, "join", True)]
)
async def test_what_arrives_before_a_room_is_read_counts_for_more_than_an_answer(
    user: UserId, membership: str, fits: bool
) -> None:
    """A homeserver of several processes may answer by what was true a moment before."""
    bench = Bench()
    bench.homeserver.members[ROOM] = {ALICE, PEER}
    await bench.peers.start()
    bench.homeserver.stale[ROOM] = frozenset({ALICE, PEER})
    await bench.member(user, membership)
    await bench.peers.settled(ROOM)
    assert (bench.index.members(ROOM) == {ALICE, PEER}) is fits


@pytest.mark.parametrize("peer_stays", [True, False])
async def test_room_whose_right_ends_before_it_is_read_is_left(peer_stays: bool) -> None:
    bench = Bench(directory=FakeDirectory(StoredRoom(PEER, ROOM, ALICE, 5)))
    bench.homeserver.members[ROOM] = {ALICE, PEER}
    await bench.peers.start()
    if peer_stays:
        bench.granted.clear()
    await bench.peers.reload(bench.profiles if peer_stays else [])
    await bench.peers.settled(ROOM)
    assert bench.index.members(ROOM) is None
    assert (bench.homeserver.of("leave"), bench.directory.rooms) == ([("leave", ROOM, PEER)], {})


async def test_second_peer_is_not_let_into_a_room_that_is_not_read_yet() -> None:
    bench = Bench()
    bench.homeserver.members[ROOM] = {ALICE, PEER}
    await bench.peers.start()
    await bench.invited(PEER_2)
    assert bench.homeserver.of("join", "leave") == [("leave", ROOM, PEER_2)]
    assert bench.index.peer_in(ROOM) == PEER


async def test_idle_room_that_is_not_read_yet_is_not_forgotten() -> None:
    bench = Bench(directory=FakeDirectory(StoredRoom(PEER, ROOM, ALICE, 5)))
    bench.homeserver.members[ROOM] = {ALICE, PEER}
    await bench.peers.start()
    assert await bench.peers.leave_idle(bench.now_ms) == 0
    await bench.peers.settled(ROOM)
    assert await bench.peers.leave_idle(bench.now_ms) == 1


async def test_what_a_user_is_told_in_a_room_that_is_not_read_yet_has_the_place_and_the_speaker() -> None:
    other, crowd = RoomId("!other:example.org"), RoomId("!crowd:example.org")
    bench = Bench(directory=FakeDirectory(*(StoredRoom(PEER, room, ALICE, 5) for room in (ROOM, crowd))))
    bench.homeserver.members = {crowd: {ALICE, PEER, MALLORY}, ROOM: {ALICE, PEER}, other: {MALLORY, PEER_2}}
    await bench.peers.start()
    assert (bench.index.chat_with(PEER, MALLORY), bench.index.chat_with(PEER_2, MALLORY)) == (None, None)
    assert bench.index.chat_with(PEER, ALICE) in (ROOM, crowd)
    assert (bench.index.teller_in(ROOM), bench.index.speaker_in(ROOM)) == (PEER, None)
    await bench.peers.settled(ROOM)
    assert (bench.index.chat_with(PEER, ALICE), bench.index.teller_in(ROOM)) == (ROOM, PEER)


async def test_peer_that_is_found_in_a_room_while_it_is_read_leaves_it() -> None:
    bench, asked = Bench(), asyncio.Event()
    bench.homeserver.members = {ROOM: {ALICE, PEER, PEER_2}}
    bench.homeserver.locked = {PEER_2}
    bench.directory.rooms[PEER, ROOM] = StoredRoom(PEER, ROOM, ALICE, 5)
    await bench.peers.start()
    bench.homeserver.locked = set()
    facts = bench.homeserver.room_facts

    async def meanwhile(room: RoomId, as_user: UserId | None = None, *, succession: bool = False) -> RoomFacts:
        if not asked.is_set():
            asked.set()
            bench.index.unread[room][PEER_2] = None
        return await facts(room, as_user, succession=succession)

    bench.homeserver.room_facts = meanwhile  # type: ignore[method-assign]
    await bench.peers.settled(ROOM)
    assert bench.homeserver.of("leave") == [("leave", ROOM, PEER_2)]
    assert (bench.index.unread, bench.index.peer_in(ROOM)) == ({}, PEER)


@pytest.mark.parametrize("peer_too", [False, True])
async def test_right_that_a_second_reload_gives_back_before_a_room_is_left_keeps_the_room(peer_too: bool) -> None:
    read: list[tuple[RoomId, bool]] = []
    bench = Bench(was_read=lambda room, fit: read.append((room, fit)))
    await bench.invited()
    if not peer_too:
        bench.granted.discard((ALICE, PEER))
    await bench.peers.reload([] if peer_too else bench.profiles)
    assert bench.index.get(ROOM) is None
    bench.granted.add((ALICE, PEER))
    await bench.peers.reload(bench.profiles)
    assert bench.index.get(ROOM) is None, "who is in it has to be asked for"
    await bench.peers.leave_unused()
    await bench.peers.settled(ROOM)
    assert bench.homeserver.of("leave") == []
    assert (bench.index.members(ROOM), len(bench.peers.departures), read) == ({ALICE, PEER}, 0, [(ROOM, True)])


@pytest.mark.parametrize("named", [True, False])
async def test_room_that_a_peer_has_made_is_left_where_no_answer_has_named_it(named: bool) -> None:
    bench = Bench()
    await bench.peers.start()
    with bench.peers.expecting(PEER):
        await bench.member(PEER, "join")
        if named:
            await bench.peers.adopt(ROOM, PEER, ALICE)
    for room in tuple(bench.peers.discovery.reader.doubtful()):
        await bench.peers.discovery.reader.confirm(room)
    assert bench.homeserver.of("leave") == ([] if named else [("leave", ROOM, PEER)])
    assert bench.index.peer_in(ROOM) == (PEER if named else None)
