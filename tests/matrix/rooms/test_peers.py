"""Which rooms peers are in, and what they do about those who come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.rooms import peers as peers_module
from mxrtc_bridge.matrix.rooms import refresh as refresh_module
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from tests import virtual_time
from tests.matrix.rooms.peers_bench import (
    ALICE,
    BOT,
    MALLORY,
    PEER,
    PEER_2,
    ROOM,
    Bench,
    FakeDirectory,
    StoredRoom,
    stripped,
)
from tests.waiting import until

# --- start


async def test_start_registers_and_names_everybody_a_few_at_a_time() -> None:
    profiles = tuple(PeerProfile(UserId(f"@rtc_{n}:example.org"), f"Peer {n}") for n in range(50))
    bench = Bench(profiles=profiles)
    await bench.peers.start()
    assert bench.homeserver.names == {p.user_id: p.displayname for p in profiles}
    assert 1 < bench.homeserver.most_busy <= peers_module.CONCURRENCY


async def test_start_fails_with_the_homeservers_sentence_when_a_user_cannot_be_registered() -> None:
    bench = Bench()
    bench.homeserver.failures["register"] = HomeserverError("could not register: M_EXCLUSIVE", 400, "M_EXCLUSIVE")
    with pytest.raises(HomeserverError, match="M_EXCLUSIVE"):
        await bench.peers.start()


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
    assert (bench.index.unread, bench.peers.reader.doubtful()) == ({}, frozenset())


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
    assert (bench.homeserver.members[ROOM], bench.peers.unleft) == ({ALICE, PEER}, 0)
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


# --- invitations


async def test_peer_joins_a_room_of_two_of_somebody_with_a_grant() -> None:
    bench = Bench()
    await bench.invited(invite_state=(stripped("m.room.create"), stripped("m.room.join_rules", join_rule="invite")))
    assert bench.index.members(ROOM) == {ALICE, PEER}
    assert bench.index.peer_in(ROOM) == PEER
    assert bench.directory.rooms == {(PEER, ROOM): StoredRoom(PEER, ROOM, ALICE, bench.now_ms)}
    assert (bench.homeserver.notices, bench.listener.heard, bench.homeserver.of("leave")) == ([], [], [])


@pytest.mark.parametrize(
    ("peer", "inviter", "state"),
    [
        (PEER, MALLORY, ()),
        (BOT, ALICE, ()),
        (UserId("@rtc_unknown:example.org"), ALICE, ()),
        (PEER, PEER_2, ()),
        (PEER, ALICE, (stripped("m.room.create", type="m.space"),)),
        (PEER, ALICE, (stripped("m.room.create", type=[5]),)),
        (PEER, ALICE, (stripped("m.room.join_rules", join_rule="public"),)),
        (PEER, ALICE, (stripped("m.room.join_rules", join_rule="knock"),)),
        (PEER, ALICE, (stripped("m.room.join_rules"),)),
        (PEER, ALICE, (stripped("m.room.join_rules", join_rule="invite"), stripped("m.room.create", type="x"))),
    ],
)
async def test_invitation_is_declined_without_joining_or_a_word(
    peer: UserId, inviter: UserId, state: tuple[Mapping[str, Any], ...]
) -> None:
    bench = Bench()
    bench.granted.add((PEER_2, PEER))
    await bench.invited(peer, inviter, invite_state=state)
    assert bench.homeserver.log == [("leave", ROOM, peer)]
    assert bench.index.members(ROOM) is None
    assert bench.directory.rooms == {}


@pytest.mark.parametrize(
    ("facts", "others"),
    [
        (RoomFacts(encrypted=False, join_rule="public", room_type=None), {ALICE}),
        (RoomFacts(encrypted=False, join_rule="restricted", room_type=None), {ALICE}),
        (RoomFacts(encrypted=False, join_rule="invite", room_type="m.space"), {ALICE}),
        (None, {ALICE, MALLORY}),
        (None, {MALLORY}),
        (None, set()),
    ],
)
async def test_peer_leaves_again_when_the_room_is_not_what_the_invitation_said(
    facts: RoomFacts | None, others: set[UserId]
) -> None:
    bench = Bench()
    bench.homeserver.members[ROOM] = set(others)
    if facts is not None:
        bench.homeserver.facts[ROOM] = facts
    await bench.invited()
    assert bench.homeserver.of("join", "leave", "notice") == [("join", ROOM, PEER), ("leave", ROOM, PEER)]
    assert bench.index.members(ROOM) is None


async def test_second_peer_does_not_join_the_room_of_another() -> None:
    bench = Bench()
    await bench.invited()
    await bench.invited(PEER_2)
    assert bench.index.members(ROOM) == {ALICE, PEER}
    assert bench.homeserver.of("join", "leave") == [("join", ROOM, PEER), ("leave", ROOM, PEER_2)]


async def test_oldest_room_is_left_when_a_user_makes_too_many() -> None:
    bench = Bench(max_rooms_per_pair=3)
    places = [RoomId(f"!{n}:example.org") for n in range(5)]
    for place in places:
        bench.now_ms += 1
        await bench.invited(room=place)
    await bench.invited(PEER_2, room=RoomId("!other:example.org"))
    assert [bench.index.members(place) is not None for place in places] == [False, False, True, True, True]
    assert bench.listener.heard == [("left", places[0], PEER), ("left", places[1], PEER)]


async def test_failing_join_is_one_log_line_and_the_next_invitation_works(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.homeserver.failures["join"] = HomeserverError("could not join: 504", 504)
    await bench.invited()
    assert bench.index.members(ROOM) is None
    assert [record.levelname for record in caplog.records if "was not handled" in record.message] == ["WARNING"]
    assert caplog.records[-1].exc_info is None
    bench.homeserver.failures.clear()
    await bench.invited()
    assert bench.index.members(ROOM) == {ALICE, PEER}


async def test_event_is_given_up_at_its_time_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(handle_timeout_s=0.01)

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.homeserver, "join", never)
    await bench.invited()
    assert "was not handled within" in caplog.text


@pytest.mark.parametrize("when", ["start", "reload"])
async def test_rooms_that_cannot_be_left_now_hold_nobody_up_and_are_left_later(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    former = UserId("@rtc_old:example.org")
    stuck, rooms = asyncio.Event(), [RoomId(f"!old{n}:example.org") for n in range(20)]
    peer = former if when == "start" else PEER
    bench = Bench(directory=FakeDirectory(*(StoredRoom(peer, room, ALICE, 5) for room in rooms)), leave_s=0.02)
    bench.homeserver.members = {room: {peer, ALICE} for room in rooms}
    leave, asked = bench.homeserver.leave, []

    async def slow(room: RoomId, as_user: UserId | None = None, reason: str | None = None) -> None:
        asked.append(room)
        await stuck.wait()
        await leave(room, as_user, reason)

    monkeypatch.setattr(bench.homeserver, "leave", slow)
    await asyncio.wait_for(bench.start(), 5)
    if when == "reload":
        await bench.peers.reload([PeerProfile(PEER_2, "Logs")])
        await asyncio.wait_for(bench.peers.leave_unused(), 5)
    assert set(asked) == set(rooms)
    assert bench.homeserver.of("leave") == []
    stuck.set()
    await bench.peers.leave_idle(0)
    assert {room for _, room, _ in bench.homeserver.of("leave")} == set(rooms)


@pytest.mark.parametrize(("status", "again"), [(403, False), (404, False), (200, True), (401, True), (502, True)])
async def test_only_who_is_not_there_need_not_leave_again(status: int, again: bool) -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.failures["leave"] = HomeserverError("no", status)
    await bench.peers.reload([])
    await bench.peers.leave_unused()
    bench.homeserver.failures.clear()
    await bench.peers.leave_idle(0)
    assert len(bench.homeserver.of("leave")) == (2 if again else 1)
