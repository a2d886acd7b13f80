"""Rooms that must be left: once, by whoever comes first, and later where it cannot be now."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from tests.matrix.rooms.peers_bench import ALICE, PEER, PEER_2, ROOM, Bench, FakeDirectory, StoredRoom


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
