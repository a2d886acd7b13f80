"""Which rooms peers are in, and what they do about those who come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import RoomFacts
from mxrtc_bridge.matrix.rooms import peers as peers_module
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from tests.matrix.rooms.peers_bench import (
    ALICE,
    BOT,
    MALLORY,
    PEER,
    PEER_2,
    ROOM,
    Bench,
    StoredRoom,
    stripped,
)

# --- start


async def test_start_registers_and_names_everybody_a_few_at_a_time() -> None:
    profiles = tuple(PeerProfile(UserId(f"@rtc_{n}:example.org"), f"Peer {n}") for n in range(50))
    bench = Bench(profiles=profiles)
    await bench.peers.start()
    assert bench.homeserver.names == {p.user_id: p.displayname for p in profiles}
    assert 1 < bench.homeserver.most_busy <= peers_module.CONCURRENCY


async def test_peer_that_cannot_be_used_is_not_touched_at_the_start_and_appears_by_a_reload() -> None:
    bench = Bench()
    await bench.peers.start(lambda user: user != PEER)
    assert (bench.homeserver.names, bench.peers.is_peer(PEER)) == ({PEER_2: "Logs"}, False)
    await bench.peers.reload(bench.profiles)
    assert (bench.homeserver.names, bench.peers.is_peer(PEER)) == ({PEER_2: "Logs", PEER: "Build"}, True)


async def test_start_fails_with_the_homeservers_sentence_when_a_user_cannot_be_registered() -> None:
    bench = Bench()
    bench.homeserver.failures["register"] = HomeserverError("could not register: M_EXCLUSIVE", 400, "M_EXCLUSIVE")
    with pytest.raises(HomeserverError, match="M_EXCLUSIVE"):
        await bench.peers.start()


# --- invitations


async def test_peer_joins_a_room_of_two_of_somebody_with_a_grant() -> None:
    bench = Bench()
    await bench.invited(invite_state=(stripped("m.room.create"), stripped("m.room.join_rules", join_rule="invite")))
    assert bench.index.members(ROOM) == {ALICE, PEER}
    assert bench.index.peer_in(ROOM) == PEER
    assert bench.directory.rooms == {(PEER, ROOM): StoredRoom(PEER, ROOM, ALICE, bench.now_ms)}
    assert (bench.homeserver.notices, bench.listener.heard, bench.homeserver.of("leave")) == ([], [], [])
    assert bench.joined == [(ROOM, PEER, ALICE)]


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
    assert (bench.directory.rooms, bench.joined) == ({}, [])


@pytest.mark.parametrize("read", [False, True])
async def test_a_room_that_cannot_be_read_is_told_so_and_nobody_is_told_of_it(read: bool) -> None:
    bench = Bench(reads_encrypted=lambda: read)
    bench.homeserver.facts[ROOM] = RoomFacts(encrypted=True, join_rule="invite", room_type=None)
    await bench.invited()
    assert (len(bench.homeserver.notices), len(bench.joined)) == ((0, 1) if read else (1, 0))


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
    assert (bench.index.members(ROOM), bench.joined) == (None, [])


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
