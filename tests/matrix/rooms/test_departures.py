"""Rooms that must be left: once, by whoever comes first, and later where it cannot be now."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.departures import Departures
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom
from tests.matrix.rooms.peers_bench import ALICE, MALLORY, PEER, PEER_2, ROOM, Bench, FakeDirectory, StoredRoom

OTHER = RoomId("!other:example.org")


class World:
    def __init__(self) -> None:
        self.bench = Bench()
        self.found: list[tuple[UserId, RoomId, UserId]] = []
        self.rights = {ALICE}
        self.bench.homeserver.members = {ROOM: {ALICE, PEER}, OTHER: {ALICE, PEER}}
        for room in (ROOM, OTHER):
            self.bench.directory.rooms[PEER, room] = StoredRoom(PEER, room, ALICE, 5)
        self.departures = Departures(
            self.bench.homeserver,
            self.bench.directory,
            self.bench.index,
            may_use=lambda peer, user: peer == PEER and user in self.rights,
            keep=lambda peer, room, user: self.found.append((peer, room, user)),
        )

    @property
    def left(self) -> list[object]:
        return [room for _, room, _ in self.bench.homeserver.of("leave")]


async def test_room_that_could_not_be_left_is_left_at_the_next_sweep() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.failures["leave"] = HomeserverError("away", 0)
    await bench.member(ALICE, "leave")
    assert bench.index.members(ROOM) is None
    bench.homeserver.failures.clear()
    await bench.peers.leave_idle(0)
    await bench.peers.leave_idle(0)
    assert bench.homeserver.of("leave") == [("leave", ROOM, PEER)] * 2
    assert bench.homeserver.members[ROOM] == set()


async def test_room_joined_again_is_not_left_by_the_sweep() -> None:
    bench = Bench()
    await bench.invited()
    bench.homeserver.failures["leave"] = HomeserverError("away", 0)
    await bench.member(ALICE, "leave")
    bench.homeserver.failures.clear()
    bench.homeserver.members[ROOM] = {ALICE}
    await bench.invited()
    await bench.peers.leave_idle(0)
    assert bench.index.members(ROOM) == {ALICE, PEER}


async def test_rooms_that_were_not_left_when_the_bridge_ended_are_left_after_the_next_start() -> None:
    """Also those of a peer that is in no configuration any more: nothing else remembers them."""
    bench, rooms = Bench(max_rooms_per_pair=20), [RoomId(f"!{number}:example.org") for number in range(20)]
    for room in rooms:
        await bench.invited(PEER_2 if room == rooms[0] else PEER, room=room)
    bench.granted.clear()
    profiles = (PeerProfile(PEER, "Build"),)
    await bench.peers.reload(profiles)
    again = Bench(bench.homeserver, bench.directory, granted=set(), profiles=profiles)
    await again.start()
    assert {each[1] for each in bench.homeserver.of("leave")} == set(rooms)
    assert again.directory.rooms == {}


async def test_rooms_that_must_be_left_are_left_once_by_all_who_leave_at_the_same_time() -> None:
    bench, rooms = Bench(max_rooms_per_pair=20), [RoomId(f"!{number}:example.org") for number in range(20)]
    for room in rooms:
        await bench.invited(room=room)
    bench.granted.clear()
    await bench.peers.reload(bench.profiles)
    await asyncio.gather(bench.peers.leave_unused(), bench.peers.leave_idle(0), bench.peers.leave_unused())
    assert len(bench.homeserver.of("leave")) == len(rooms)


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


async def test_room_whose_leaving_hangs_holds_up_no_other_and_is_asked_for_once() -> None:
    world = World()
    world.bench.homeserver.hanging.add(ROOM)
    world.departures.note(PEER, ROOM)
    hanging = asyncio.create_task(world.departures.leave_noted())
    while not world.left:
        await asyncio.sleep(0)
    world.departures.note(PEER, OTHER)
    async with asyncio.timeout(1):
        await world.departures.leave_noted()
    assert world.left == [ROOM, OTHER]
    assert (len(world.departures), world.departures.failed) == (1, 0)
    hanging.cancel()
    await asyncio.wait([hanging])
    assert world.departures.failed == 1, "it is left at the next time"


@pytest.mark.parametrize(
    ("saved_by", "found"),
    [(ALICE, [(PEER, ROOM, ALICE)]), (MALLORY, []), (None, [])],
    ids=["back", "lost", "never had"],
)
async def test_room_is_kept_only_where_its_user_has_the_right_back(
    saved_by: UserId | None, found: list[tuple[UserId, RoomId, UserId]]
) -> None:
    world = World()
    world.departures.note(PEER, ROOM, saved_by=saved_by)
    await world.departures.leave_noted()
    assert world.found == found
    assert world.left == ([] if found else [ROOM])
    assert len(world.departures) == 0


@pytest.mark.parametrize("is_left", [True, False])
async def test_right_that_comes_back_while_the_room_is_being_left_keeps_it_only_if_it_was_not_left(
    is_left: bool,
) -> None:
    world = World()
    world.rights.clear()
    world.departures.note(PEER, ROOM, saved_by=ALICE)
    if not is_left:
        world.bench.homeserver.failures["leave"] = HomeserverError("no answer", 0)
    leaving = asyncio.create_task(world.departures.leave_noted())
    while not world.left:
        await asyncio.sleep(0)
    world.rights.add(ALICE)
    world.departures.save()
    assert world.found == [], "it may be left already"
    await leaving
    assert world.found == ([] if is_left else [(PEER, ROOM, ALICE)])
    assert ((PEER, ROOM) in world.bench.directory.rooms) is not is_left
    assert len(world.departures) == 0


async def test_room_that_was_joined_again_before_the_answer_came_is_not_noted_as_one_to_be_left() -> None:
    """The homeserver has done it, and its answer was lost; it would be told as a room that cannot be left."""
    world = World()
    world.departures.note(PEER, ROOM, saved_by=ALICE)

    async def leave(room: RoomId, peer: UserId) -> None:
        world.bench.index.enter(PeerRoom(room, peer, ALICE, {ALICE, peer}))
        world.departures.forget(peer, room)
        raise HomeserverError("the answer was lost", 0)

    world.bench.homeserver.leave = leave  # type: ignore[method-assign]
    world.rights.clear()
    await world.departures.leave_noted()
    assert (len(world.departures), world.departures.failed) == (0, 0)
