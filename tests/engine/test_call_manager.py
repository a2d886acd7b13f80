"""The call manager: the order of trust, quotas, replays, rights that change, restarts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from mxrtc_bridge.core.access.policy import UNCONFIRMED
from mxrtc_bridge.core.call.events import (
    Answer,
    CandidateLine,
    Candidates,
    Hangup,
    Reject,
    SelectAnswer,
    Version,
)
from mxrtc_bridge.core.call.limits import BUSY_ANSWERS_A_MINUTE, STRANGERS_A_MINUTE, CallLimits
from mxrtc_bridge.core.call.route import DevicePair, Signalling
from mxrtc_bridge.core.call.values import CallState
from mxrtc_bridge.core.ids import CallId, DeviceId, EventId, PartyId, RoomId, UserId, server_of
from mxrtc_bridge.core.webrtc.ice import PathKind
from mxrtc_bridge.engine.ports import CallRecord
from mxrtc_bridge.sinks.files.threads import FileThreads
from tests.engine.call_bench import (
    ALICE,
    BOB,
    OFFER,
    PEER,
    ROOM,
    Bridge,
    connected,
    running,
)


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with running(Bridge()) as each:
        yield each


async def test_candidates_of_a_slow_server_follow_the_answer(bridge: Bridge) -> None:
    bridge.fate = "late"
    await bridge.invite()
    await bridge.until(lambda: len(bridge.sent) == 2)
    assert [type(message) for message in bridge.sent] == [Answer, Candidates]
    assert bridge.sent[1] == Candidates(
        CallId("c1"), PartyId("ours"), Version.V1, (CandidateLine("candidate:late", "0", 0),), end=True
    )


async def test_that_no_candidates_follow_is_said_also_where_it_turns_out_after_the_last(bridge: Bridge) -> None:
    bridge.fate = "late, and perhaps more"
    await bridge.invite()
    await bridge.until(lambda: len(bridge.sent) == 3)
    assert [(message.candidates != (), message.end) for message in bridge.sent if isinstance(message, Candidates)] == [
        (True, False),
        (False, True),
    ]


async def test_call_goes_on_when_candidates_that_follow_cannot_be_sent(bridge: Bridge) -> None:
    bridge.fate, bridge.refused = "late", (Candidates,)
    await bridge.invite()
    await bridge.until(lambda: len(bridge.sent) == 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert [session.state for session in bridge.manager.live.sessions] == [CallState.CONNECTING]


async def test_invite_is_answered_and_ends_with_the_hangup(bridge: Bridge) -> None:
    await bridge.invite()
    await bridge.until(connected(bridge))
    assert [type(message) for message in bridge.sent] == [Answer]
    await bridge.message(SelectAnswer(CallId("c1"), PartyId("theirs"), Version.V1, PartyId("ours")))
    await bridge.message(Hangup(CallId("c1"), PartyId("theirs"), Version.V1))
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert bridge.ended == {CallId("c1"): "user_hangup"}
    ((path, signalling, setup_s),) = bridge.counters.sessions
    assert (path, signalling, 0 <= setup_s < 5) == (PathKind.DIRECT, Signalling.ROOM, True)
    assert bridge.counters.counted == [("call", "remote_hangup")]


async def test_denied_user_is_rejected_without_a_peer_connection(bridge: Bridge) -> None:
    bridge.denied.add(ALICE)
    await bridge.invite()
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert [type(message) for message in bridge.sent] == [Reject]
    assert bridge.sent[0].reason is None  # type: ignore[union-attr]
    assert bridge.peers == []
    assert bridge.told == [ALICE]


FAR, OWN = "@m:evil{}.test", "@m{}:own.test"


@pytest.mark.parametrize(("crowd", "other"), [(FAR, OWN), (OWN, FAR)])
async def test_of_a_crowd_without_a_right_so_many_are_refused_as_cost_nobody_else(crowd: str, other: str) -> None:
    """From as many servers as they like, which are made up like users; the rest costs a look-up, and hears nothing."""
    async with running(Bridge(own_server="Own.test")) as bridge:
        strangers = [UserId(crowd.format(number)) for number in range(2 * STRANGERS_A_MINUTE)]
        bridge.denied.update(strangers, [other_one := UserId(other.format(1))])
        for number, user in enumerate(strangers):
            await bridge.invite(f"s{number}", sender=user, room=RoomId(f"!{number}:evil.test"))
        await bridge.until(lambda: not bridge.manager.live.sessions)
        # Some more for the time that it takes.
        assert STRANGERS_A_MINUTE <= len(bridge.told) == len(bridge.sent) <= STRANGERS_A_MINUTE + 40
        assert bridge.refusals().count("rate") == len(strangers) - len(bridge.sent)
        await bridge.invite("other", sender=other_one, room=RoomId("!other:evil.test"))
        await bridge.until(lambda: other_one in bridge.told)
        await bridge.invite()
        await bridge.until(connected(bridge))
        assert bridge.manager.live.sessions[-1].remote == ALICE


async def test_nobody_is_let_in_before_the_homeserver_has_confirmed_it(bridge: Bridge) -> None:
    """What is found out meanwhile counts; nothing else waits for it."""
    bridge.confirming.clear()
    await bridge.invite()
    await bridge.until(lambda: bridge.asked == [ALICE])
    assert bridge.sent == []
    bridge.denied.add(ALICE)
    bridge.confirming.set()
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert [type(message) for message in bridge.sent] == [Reject]
    assert bridge.peers == []


async def test_call_that_cannot_be_confirmed_is_refused_so_that_it_is_tried_again(bridge: Bridge) -> None:
    bridge.unconfirmed.add(ALICE)
    await bridge.invite()
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert [type(message) for message in bridge.sent] == [Reject]
    assert bridge.sent[0].reason == UNCONFIRMED  # type: ignore[union-attr]
    assert (bridge.decided, bridge.told, bridge.peers) == ([(ALICE, False, "membership not confirmed")], [], [])


async def test_every_decision_is_written_down_before_it_takes_effect(bridge: Bridge) -> None:
    await bridge.invite("c1")
    await bridge.until(connected(bridge))
    bridge.denied.add(ALICE)
    await bridge.invite("c2")
    await bridge.until(lambda: len(bridge.manager.live.sessions) == 1)
    assert bridge.decided == [(ALICE, True, "test"), (ALICE, False, "test")]
    bridge.manager.live.end_sessions(lambda _session: True, "kicked by a test")
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert bridge.audited_ends == [(ALICE, "kicked by a test")], "one that was never let in has no end"


async def test_nobody_is_let_in_whose_admission_cannot_be_written_down(bridge: Bridge) -> None:
    bridge.durable = False
    await bridge.invite()
    await bridge.until(lambda: bool(bridge.sent) and not bridge.manager.live.sessions)
    assert [(type(message), message.reason) for message in bridge.sent] == [(Reject, "user_busy")]  # type: ignore[union-attr]
    assert (bridge.peers, bridge.refusals(), bridge.audited_ends) == ([], ["audit"], [])


@pytest.mark.parametrize("members", [None, frozenset({PEER}), frozenset({PEER, ALICE, BOB}), frozenset({PEER, BOB})])
async def test_call_in_a_room_that_is_not_of_two_is_rejected(bridge: Bridge, members: frozenset[UserId] | None) -> None:
    if members is None:
        del bridge.room_members[ROOM]
    else:
        bridge.room_members[ROOM] = members
    await bridge.invite()
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert [type(message) for message in bridge.sent] == [Reject]
    assert bridge.peers == []


@pytest.mark.parametrize("sdp", ["", "v=0\r\n", OFFER.replace("m=application", "m=audio"), OFFER + "m=video 9 X 1\r\n"])
async def test_offer_that_the_filter_refuses_never_reaches_a_peer_connection(bridge: Bridge, sdp: str) -> None:
    await bridge.invite(sdp=sdp)
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert [type(message) for message in bridge.sent] == [Reject]
    assert bridge.peers == []


async def test_same_call_and_same_event_are_acted_on_once(bridge: Bridge) -> None:
    await bridge.invite()
    await bridge.until(connected(bridge))
    await bridge.message(Hangup(CallId("c1"), PartyId("theirs"), Version.V1))
    await bridge.until(lambda: not bridge.manager.live.sessions)
    await bridge.invite(event_id="$another")
    await bridge.invite("c2", event_id="$invite-c1")
    assert bridge.refusals() == ["replay", "replay"]
    assert not bridge.manager.live.sessions
    assert len(bridge.peers) == 1


@pytest.mark.parametrize(("age_ms", "begins"), [(0, True), (119_000, True), (121_000, False), (-121_000, False)])
async def test_stale_invite_is_ignored(bridge: Bridge, age_ms: int, begins: bool) -> None:
    await bridge.invite(age_ms=age_ms)
    assert bool(bridge.manager.live.sessions) is begins
    assert bool(bridge.claimed) is begins


@pytest.mark.parametrize("age_ms", [121_000, -121_000, 10**15])
async def test_a_device_whose_clock_is_wrong_is_told_so_at_its_pace_and_a_room_is_not(age_ms: int) -> None:
    route = DevicePair(PEER, ALICE, DeviceId("PHONE"))
    async with running(Bridge(invites_per_minute=2)) as bridge:
        for number in range(3):
            await bridge.invite(f"c{number}", age_ms=age_ms, room=route)
        await bridge.invite("c3", age_ms=age_ms)
        await bridge.until(lambda: len(bridge.sent) == 2)
        told = [(type(each), each.call_id, getattr(each, "reason", "")) for each in bridge.sent]
        assert told == [(Reject, "c0", "stale_invite"), (Reject, "c1", "stale_invite")]
        assert bridge.refusals() == ["stale_invite"] * 4
        assert not bridge.manager.live.sessions


async def test_invite_for_somebody_else_and_of_our_own_users_is_ignored(bridge: Bridge) -> None:
    await bridge.invite(invitee=BOB)
    await bridge.invite("c2", sender=UserId("@rtc_other:example.org"))
    assert not bridge.manager.live.sessions
    assert bridge.sent == []


async def test_each_session_has_a_number_of_its_own_and_a_replay_takes_none(bridge: Bridge) -> None:
    for call in ("c0", "c1", "c1", "c2"):
        await bridge.invite(call)
    assert [session.number for session in bridge.manager.live.sessions] == [7, 8, 9]


async def test_calls_beyond_the_limit_of_a_user_are_rejected_as_busy() -> None:
    async with running(Bridge(limits=CallLimits(per_user=2, per_server=10, total=10))) as bridge:
        for number in range(3):
            await bridge.invite(f"c{number}")
        await bridge.until(lambda: len(bridge.sent) == 3)
        assert sorted(type(message).__name__ for message in bridge.sent) == ["Answer", "Answer", "Reject"]
        assert bridge.refusals() == ["calls_limit"]
        (reject,) = [each for each in bridge.sent if isinstance(each, Reject)]
        assert (reject.reason, reject.limit) == ("user_busy", "calls_per_user 2")
        await bridge.message(Hangup(CallId("c0"), PartyId("theirs"), Version.V1))
        await bridge.until(lambda: CallId("c0") in bridge.ended)
        await bridge.invite("c3")
        await bridge.until(lambda: isinstance(bridge.sent[-1], Answer))


async def test_invites_beyond_the_rate_are_not_even_claimed() -> None:
    async with running(Bridge(invites_per_minute=2)) as bridge:
        bridge.denied.add(ALICE)
        for number in range(4):
            await bridge.invite(f"c{number}")
        assert len(bridge.claimed) == 4
        assert bridge.refusals() == ["rate", "rate"]
        await bridge.until(lambda: not bridge.manager.live.sessions)


@pytest.mark.parametrize(("version", "kind"), [(Version.V1, Reject), (Version.V0, Hangup)])
async def test_invites_beyond_the_rate_of_somebody_with_a_right_are_answered_as_busy_a_few_times(
    caplog: pytest.LogCaptureFixture, version: Version, kind: type
) -> None:
    async with running(Bridge(invites_per_minute=1)) as bridge:
        await bridge.invite("c0")
        await bridge.until(lambda: len(bridge.sent) == 1)
        for number in range(1, BUSY_ANSWERS_A_MINUTE + 5):
            await bridge.invite(f"c{number}", version=version)
        await bridge.until(lambda: len(bridge.sent) == 1 + BUSY_ANSWERS_A_MINUTE)
        assert {(type(each), each.reason) for each in bridge.sent[1:]} == {(kind, "user_busy")}  # type: ignore[union-attr]
        if kind is Reject:
            assert {each.limit for each in bridge.sent[1:] if isinstance(each, Reject)} == {"invites_per_minute 1"}
        assert [each.call_id for each in bridge.sent[1:]] == [f"c{n}" for n in range(1, BUSY_ANSWERS_A_MINUTE + 1)]
        assert bridge.refusals() == ["rate"] * (BUSY_ANSWERS_A_MINUTE + 4)
        assert len(bridge.claimed) == 2, "nothing of them is stored"
    lines = [record.getMessage() for record in caplog.records if "by a limit" in record.getMessage()]
    keys = "limits.invites_per_minute, invites_per_minute_per_server"
    without = f"{STRANGERS_A_MINUTE} a minute without a right"
    assert lines == [f"! a call from {ALICE} is refused by a limit: {keys}; {without}"]


async def test_users_of_our_own_homeserver_may_all_come_at_once() -> None:
    limits = CallLimits(per_user=1, per_server=20, total=200)
    own = server_of(ALICE)
    async with running(Bridge(limits=limits, own_server=own, invites_per_minute_of_server=20)) as bridge:
        for number in range(160):
            user, room = UserId(f"@u{number}:{own}"), RoomId(f"!{number}:example.org")
            bridge.room_members[room] = frozenset({PEER, user})
            await bridge.invite(f"c{number}", sender=user, room=room)
        await bridge.until(lambda: len(bridge.sent) == 160)
        assert {type(each) for each in bridge.sent} == {Answer}
        assert bridge.refusals() == []


async def test_users_of_another_homeserver_have_one_limit_together() -> None:
    limits = CallLimits(per_user=1, per_server=20, total=200)
    async with running(Bridge(limits=limits, own_server="example.org", invites_per_minute_of_server=30)) as bridge:
        for number in range(40):
            user, room = UserId(f"@u{number}:far.test"), RoomId(f"!{number}:far.test")
            bridge.room_members[room] = frozenset({PEER, user})
            await bridge.invite(f"c{number}", sender=user, room=room)
        await bridge.until(lambda: len(bridge.sent) == 40)
        assert Counter(type(each) for each in bridge.sent) == {Answer: 20, Reject: 20}
        assert Counter(bridge.refusals()) == {"rate": 10, "calls_limit": 10}


@pytest.mark.parametrize(("fate", "reason"), [("fails", "ice_failed"), ("raises", "internal_error")])
async def test_connection_that_does_not_come_up_ends_its_own_call_only(bridge: Bridge, fate: str, reason: str) -> None:
    await bridge.invite("good")
    await bridge.until(connected(bridge))
    bridge.fate = fate
    await bridge.invite("bad")
    await bridge.until(lambda: CallId("bad") in bridge.ended)
    assert bridge.ended == {CallId("bad"): reason}
    assert isinstance(bridge.sent[-1], Hangup)
    assert [session.call_id for session in bridge.manager.live.sessions] == ["good"]


@pytest.mark.parametrize(
    ("fate", "lack", "words"),
    [
        ("no ports", "no_ports", "no free UDP port within 5000-5001"),
        ("no files", "no_files", "too many files are open"),
        ("no memory", "no_memory", "there is no memory left"),
    ],
)
async def test_what_this_machine_lacks_is_no_lack_of_rights_and_a_warning_for_its_admin(
    bridge: Bridge, fate: str, lack: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    bridge.fate = fate
    await bridge.invite("c1")
    await bridge.until(lambda: CallId("c1") in bridge.ended)
    assert bridge.sent == [Reject(CallId("c1"), PartyId("ours"), Version.V1, "user_busy", lack)]
    warned = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert warned == [f"! call c1: this machine lacks what a call needs: {words}"]


async def test_setup_that_hangs_is_hung_up_at_its_deadline() -> None:
    async with running(Bridge(setup_s=0.05)) as bridge:
        bridge.fate = "hangs"
        await bridge.invite()
        async with asyncio.timeout(5):
            while bridge.manager.live.sessions:
                await asyncio.sleep(0.01)
        assert isinstance(bridge.sent[-1], Hangup)


async def test_connection_is_closed_and_its_place_given_back_although_a_disk_hangs() -> None:
    async with running(Bridge(disk_timeout_s=0.05)) as bridge:
        await bridge.invite()
        await bridge.until(connected(bridge))
        answers = threading.Event()
        workers = FileThreads()
        try:
            (channels,) = bridge.channels
            channels.spawn(workers.run(lambda: answers.wait(20)))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            bridge.denied.add(ALICE)
            bridge.manager.live.rights_changed()
            async with asyncio.timeout(5):
                while bridge.manager.live.sessions:
                    await asyncio.sleep(0.01)
            assert bridge.peers[0].closed
        finally:
            answers.set()
            await workers.drain()


async def test_connected_call_outlives_the_homeserver(bridge: Bridge) -> None:
    await bridge.invite()
    await bridge.until(connected(bridge))
    bridge.homeserver_down = True
    await bridge.invite("c2")
    await bridge.until(lambda: CallId("c2") in bridge.ended)
    assert [session.call_id for session in bridge.manager.live.sessions] == ["c1"]


async def test_calls_of_the_last_run_are_hung_up_at_the_start(bridge: Bridge) -> None:
    record = CallRecord(ROOM, CallId("old"), PEER, ALICE, PartyId("then"))
    await bridge.claim(record, EventId("$old"), 0)
    await bridge.manager.hang_up_leftovers(await bridge.manager.leftovers(), set())
    assert bridge.sent == [Hangup(CallId("old"), PartyId("then"), Version.V1, "unknown_error")]
    assert bridge.ended == {CallId("old"): "restart"}
    # What it has left in the room may go, the hangup included.
    assert bridge.over == [CallId("old")]
