"""Invitations: a budget for each who invites, and who waits until one is answered."""

from __future__ import annotations

import asyncio

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms import invitations
from mxrtc_bridge.matrix.rooms.invitations import UNANSWERED, Invitations, UnansweredInvitations
from tests.matrix.rooms.peers_bench import ALICE, BOT, MALLORY, PEER, Bench

BOB = UserId("@bob:example.org")


def room(number: int) -> RoomId:
    return RoomId(f"!{number}:example.org")


async def invite_often(bench: Bench, by: UserId, count: int, *, start: int = 0) -> None:
    for number in range(start, start + count):
        await bench.invited(by=by, room=room(number))


@pytest.mark.parametrize(
    ("by", "asked", "answered"),
    [(ALICE, "join", invitations.PER_MINUTE), (MALLORY, "leave", invitations.STRANGER_PER_MINUTE)],
)
async def test_flood_of_one_inviter_is_answered_up_to_a_budget_and_said_once(
    by: UserId, asked: str, answered: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    await invite_often(bench, by, 2000)
    assert len([entry for entry in bench.homeserver.of(asked) if entry[1] in map(room, range(2000))]) >= answered
    assert len(bench.homeserver.of("join", "leave")) <= answered + 16
    assert len(bench.peers.departures) == 0, "rooms that must be left have their own places"
    assert bench.peers.invitations.unanswered == UNANSWERED.sender
    assert caplog.text.count("invites too often") == 1


async def test_invitations_of_others_are_answered_beside_a_flood() -> None:
    bench = Bench(granted={(ALICE, PEER), (BOB, PEER)})
    await invite_often(bench, MALLORY, 1000)
    await invite_often(bench, ALICE, 1000, start=1000)
    await bench.invited(by=BOB, room=room(5000))
    assert bench.index.members(room(5000)) == {BOB, PEER}


async def test_what_was_not_answered_is_declined_at_the_next_sweep() -> None:
    bench = Bench()
    await invite_often(bench, MALLORY, 50)
    assert len(bench.homeserver.of("leave")) == invitations.STRANGER_PER_MINUTE
    await bench.peers.leave_idle(0)
    assert len(bench.homeserver.of("leave")) == 50
    assert bench.peers.invitations.unanswered == 0


async def test_invitation_that_was_not_answered_may_be_made_again() -> None:
    bench = Bench()
    await invite_often(bench, ALICE, 21)
    assert bench.index.members(room(20)) is None
    bench.now_ms += 60_000
    await bench.invited(room=room(20))
    await bench.peers.leave_idle(0)
    assert bench.index.members(room(20)) == {ALICE, PEER}


async def test_room_that_is_named_for_the_bot_is_joined_whoever_invites_and_however_often() -> None:
    bench = Bench(named={"admins": room(7)})
    await invite_often(bench, MALLORY, 20, start=100)
    await bench.invited(BOT, by=MALLORY, room=room(7))
    assert bench.bot_rooms.room("admins") == room(7)


def test_crowds_of_inviters_have_a_budget_by_server_and_together() -> None:
    now = 0.0
    budget = Invitations(lambda: now)
    ports = [UserId(f"@u{n}:evil.test:{8000 + n}") for n in range(200)]
    assert [budget.admits(user, has_right=True) for user in ports].count(True) == invitations.PER_MINUTE_OF_SERVER
    crowd = [UserId(f"@u:s{n}.test") for n in range(500)]
    assert [budget.admits(user, has_right=False) for user in crowd].count(True) == invitations.STRANGERS_PER_MINUTE
    assert budget.admits(BOB, has_right=True), "those with a right have their own"


async def test_events_of_a_room_wait_while_an_invitation_to_it_is_answered() -> None:
    answering = Invitations(lambda: 0.0)
    await answering.settled(room(1))
    with answering.answering(room(1)):
        waiting = asyncio.create_task(answering.settled(room(1)))
        await answering.settled(room(2))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_invitations_that_could_not_be_declined_are_tried_once_more_and_are_no_rooms_to_be_left() -> None:
    bench = Bench()
    bench.homeserver.failures["leave"] = HomeserverError("the other homeserver does not answer", 502)
    await invite_often(bench, MALLORY, 3)
    assert (len(bench.peers.departures), bench.peers.invitations.unanswered) == (0, 3)
    await bench.peers.leave_idle(0)
    assert (len(bench.peers.departures), bench.peers.invitations.unanswered) == (0, 0)
    assert len(bench.homeserver.of("leave")) == 6


async def test_sweep_is_not_held_up_by_servers_that_hang() -> None:
    hanging = asyncio.Event()
    invitations = Invitations(lambda: 0.0)
    for number in range(20):
        invitations.leave_unanswered(PEER, room(number), MALLORY, has_right=False)
    tried = []

    async def decline(_peer: UserId, room: RoomId) -> bool:
        tried.append(room)
        await hanging.wait()
        return False

    await invitations.decline_unanswered(decline, 0.01)
    assert len(tried) < 20
    assert invitations.unanswered == 20 - len(tried), "the others are tried at the next sweep"


def test_flood_of_one_inviter_takes_no_place_from_others(caplog: pytest.LogCaptureFixture) -> None:
    invitations = Invitations(lambda: 0.0, "example.org")
    for number in range(2000):
        invitations.leave_unanswered(PEER, room(number), MALLORY, has_right=True)
    for number in range(2000, 6000):
        invitations.leave_unanswered(PEER, room(number), UserId(f"@u{number}:evil.test"), has_right=False)
    assert invitations.unanswered == UNANSWERED.sender + UNANSWERED.server
    invitations.leave_unanswered(PEER, room(9000), BOB, has_right=False)
    assert invitations.unanswered == UNANSWERED.sender + UNANSWERED.server + 1
    assert caplog.text.count(f"an invitation of {MALLORY} stays without an answer") == 1


def test_servers_and_inviters_take_turns_when_invitations_are_declined() -> None:
    unanswered = UnansweredInvitations("example.org")
    users = [UserId(f"@{name}") for name in ("a:one.test", "a:one.test", "b:one.test", "c:two.test")]
    for number, user in enumerate(users):
        assert unanswered.add((PEER, room(number)), user, has_right=False)
    assert [each for _, each in unanswered.in_turns()] == [room(0), room(3), room(2), room(1)]
    unanswered.discard((PEER, room(0)))
    unanswered.discard((PEER, room(0)))
    assert len(unanswered) == 3


def test_places_of_invitations_are_free_again_once_they_have_an_answer() -> None:
    invitations = Invitations(lambda: 0.0)
    for number in range(1000):
        invitations.leave_unanswered(PEER, room(number), MALLORY, has_right=False)
        invitations.answered(PEER, room(number))
    assert invitations.unanswered == 0
    invitations.leave_unanswered(PEER, room(1), MALLORY, has_right=False)
    invitations.leave_unanswered(PEER, room(1), MALLORY, has_right=False)
    assert invitations.unanswered == 1
