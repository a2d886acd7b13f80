"""What goes wrong around a call ends that call at most: defects, a database that refuses, a homeserver that is away."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mxrtc_bridge.core.call.events import Answer, CandidateLine, Candidates, Hangup, Reject, Version
from mxrtc_bridge.core.call.limits import CallLimits
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.errors import HomeserverError, StorageError, UnknownOutcomeError
from mxrtc_bridge.core.ids import CallId, DeviceId, EventId, PartyId, UserId
from mxrtc_bridge.engine.call_manager import CallSettings
from mxrtc_bridge.engine.ports import CallRecord
from tests.engine.call_bench import ALICE, BOB, PEER, ROOM, Bridge, connected, running


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_call_whose_end_cannot_be_stored_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Bridge()) as bridge:
        await bridge.invite("good")
        await bridge.until(connected(bridge))
        await bridge.invite("bad")
        await bridge.until(lambda: len(bridge.sent) == 2)

        async def locked(*_: object) -> None:
            raise StorageError("the database is locked")

        monkeypatch.setattr(bridge, "end", locked)
        await bridge.message(Hangup(CallId("bad"), PartyId("theirs"), Version.V1))
        await bridge.until(lambda: len(bridge.manager.live.sessions) == 1)
        await bridge.invite("next")
        await bridge.until(lambda: len(bridge.sent) == 3)
        assert {session.call_id for session in bridge.manager.live.sessions} == {"good", "next"}
        assert "was not stored: the database is locked" in caplog.text
        assert not errors(caplog)


async def test_defect_in_a_session_ends_its_own_call_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Bridge()) as bridge:
        await bridge.invite("good")
        await bridge.until(connected(bridge))
        send = bridge.send

        async def defective(*args: object, **more: object) -> None:
            if len(bridge.sent) == 1:
                raise RuntimeError("a defect of the sender")
            await send(*args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(bridge, "send", defective)
        await bridge.invite("bad")
        await bridge.until(lambda: CallId("bad") in bridge.ended)
        assert bridge.ended == {CallId("bad"): "internal_error"}
        assert bridge.counters.counted == [("call", "failed")]
        assert [session.call_id for session in bridge.manager.live.sessions] == ["good"]
        assert len(errors(caplog)) == 1


@pytest.mark.parametrize("age_ms", [0, 10**9])
async def test_defect_in_a_refusal_leaves_all_sessions_alone(
    age_ms: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Bridge(invites_per_minute=1)) as bridge:
        await bridge.invite("good")
        await bridge.until(connected(bridge))

        async def defective(*_: object, **__: object) -> None:
            raise RuntimeError("a defect of the sender")

        monkeypatch.setattr(bridge, "send", defective)
        device = DevicePair(PEER, BOB, DeviceId("PHONE"))
        await bridge.invite("bad", sender=BOB if age_ms else ALICE, age_ms=age_ms, room=device if age_ms else ROOM)
        await bridge.until(lambda: bool(errors(caplog)))
        assert [session.call_id for session in bridge.manager.live.sessions] == ["good"]
        assert len(errors(caplog)) == 1


@pytest.mark.parametrize("turns", range(6))
async def test_events_right_behind_the_invite_are_never_lost(turns: int) -> None:
    """A hangup that comes while the call is being started ends it, however many turns of the loop it comes later."""
    async with running(Bridge()) as bridge:
        await bridge.invite()
        for _ in range(turns):
            await asyncio.sleep(0)
        candidate = CandidateLine("candidate:1 1 udp 1 192.0.2.1 9 typ host", "0", 0)
        await bridge.message(Candidates(CallId("c1"), PartyId("theirs"), Version.V1, (candidate,)))
        await bridge.message(Hangup(CallId("c1"), PartyId("theirs"), Version.V1))
        await bridge.until(lambda: not bridge.manager.live.sessions)
        assert bridge.ended == {CallId("c1"): "user_hangup"}


async def test_invite_and_hangup_of_one_backlog_are_not_answered() -> None:
    async with running(Bridge()) as bridge:
        await bridge.invite()
        await bridge.message(Hangup(CallId("c1"), PartyId("theirs"), Version.V1))
        await bridge.until(lambda: not bridge.manager.live.sessions)
        assert bridge.sent == []
        assert bridge.peers == []


async def test_certificate_that_cannot_be_read_rejects_the_call_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_local: UserId) -> None:
        raise StorageError("the database is locked")

    async with running(Bridge()) as bridge:
        monkeypatch.setattr(bridge, "create", refuse)
        await bridge.invite()
        await bridge.until(lambda: not bridge.manager.live.sessions)
        assert [type(message) for message in bridge.sent] == [Reject]
        assert not errors(caplog)
        assert "the database is locked" in caplog.text


async def test_call_that_is_cancelled_without_a_goodbye_is_hung_up_by_the_next_run() -> None:
    bridge = Bridge()
    async with running(bridge):
        await bridge.invite()
        await bridge.until(connected(bridge))
    assert list(bridge.open) == ["c1"]
    await bridge.manager.hang_up_leftovers(await bridge.manager.leftovers(), set())
    assert isinstance(bridge.sent[-1], Hangup)
    assert bridge.open == {}


async def test_leftovers_are_tried_again_in_turns_when_the_homeserver_goes_away_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge, asked, away = Bridge(), list[str](), set[str]()
    for name in ("one", "two", "three"):
        await bridge.claim(CallRecord(ROOM, CallId(name), PEER, ALICE, PartyId("then")), EventId(f"${name}"), 0)

    async def fail(_route: object, _local: object, message: Hangup, *, step: str) -> None:
        asked.append(message.call_id)
        raise HomeserverError("the homeserver is away")

    def names(records: list[CallRecord]) -> list[str]:
        return [record.call_id for record in records]

    monkeypatch.setattr(bridge, "send", fail)
    skipped, failed = await bridge.manager.hang_up_leftovers(await bridge.manager.leftovers(), away)
    assert (asked, names(skipped), names(failed), away) == (["one"], ["two", "three"], ["one"], {"example.org"})
    skipped, failed = await bridge.manager.hang_up_leftovers([*skipped, *failed], set())
    assert (asked, names(skipped), names(failed)) == (["one", "two"], ["three", "one"], ["two"])
    monkeypatch.undo()
    assert await bridge.manager.hang_up_leftovers([*skipped, *failed], set()) == ([], [])
    assert bridge.open == {}


@pytest.mark.parametrize(
    ("failure", "left"), [(HomeserverError("no answer"), ["theirs"]), (RecursionError("ours"), [])]
)
async def test_leftover_that_cannot_be_hung_up_keeps_no_other_open(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, left: list[str]
) -> None:
    bridge = Bridge()
    for name, remote in (("theirs", UserId("@bob:silent.test")), ("ours", ALICE)):
        await bridge.claim(CallRecord(ROOM, CallId(name), PEER, remote, PartyId("then")), EventId(f"${name}"), 0)

    async def send(_route: object, _local: object, message: Hangup, *, step: str) -> None:
        assert step == "hangup"
        if message.call_id == "theirs":
            raise failure

    monkeypatch.setattr(bridge, "send", send)
    await bridge.manager.hang_up_leftovers(await bridge.manager.leftovers(), set())
    assert list(bridge.open) == left


async def test_leftover_in_a_room_that_was_left_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge()
    await bridge.claim(CallRecord(ROOM, CallId("old"), PEER, ALICE, PartyId("then")), EventId("$old"), 0)

    async def forbidden(*_: object, **__: object) -> None:
        raise HomeserverError("not in the room", 403, "M_FORBIDDEN")

    monkeypatch.setattr(bridge, "send", forbidden)
    await bridge.manager.hang_up_leftovers(await bridge.manager.leftovers(), set())
    assert bridge.open == {}


async def test_new_limits_hold_for_the_next_call_and_live_calls_stay() -> None:
    async with running(Bridge()) as bridge:
        await bridge.invite("c1")
        await bridge.until(connected(bridge))
        bridge.manager.reconfigure(CallSettings(limits=CallLimits(per_user=1), invites_per_minute=2), bridge)
        await bridge.invite("c2")
        await bridge.until(lambda: CallId("c2") in bridge.ended)
        assert [type(message) for message in bridge.sent] == [Answer, Reject]
        assert [session.call_id for session in bridge.manager.live.sessions] == ["c1"]
        await bridge.invite("c3")
        await bridge.invite("c4")
        assert bridge.refusals() == ["calls_limit", "rate"]
        await bridge.until(lambda: len(bridge.sent) == 3)


@pytest.mark.parametrize("waits_for", ["claim", "new_number"])
async def test_call_whose_claim_ends_after_the_farewell_is_left_for_the_next_start(
    monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    async with running(Bridge()) as bridge:
        go_on, ready = asyncio.Event(), bridge.claim if waits_for == "claim" else bridge.next_number

        async def slow(*args: object) -> object:
            await go_on.wait()
            return await ready(*args)

        monkeypatch.setattr(bridge, "claim", slow if waits_for == "claim" else bridge.claim)
        bridge.next_number = slow if waits_for == "new_number" else bridge.next_number  # type: ignore[assignment]
        handling = asyncio.create_task(bridge.invite())
        await asyncio.sleep(0)
        await bridge.manager.drain(5.0)
        go_on.set()
        await handling
        assert not bridge.manager.live.sessions
        assert not bridge.sent, "nobody is answered whom nobody would hang up"
        assert list(bridge.open) == ["c1"]


def cancelled_soon(handling: asyncio.Task[None]) -> None:
    """As the inbox does with what takes too long."""
    asyncio.get_running_loop().call_later(0, handling.cancel)


@pytest.mark.parametrize("version", [Version.V1, Version.V0])
@pytest.mark.parametrize("fails", ["no number", "a defect", "cancelled", "no links"])
async def test_call_that_fails_between_its_claim_and_its_session_is_refused_and_ended(
    fails: str, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_number() -> int:
        if fails == "cancelled":
            await asyncio.Event().wait()
        raise StorageError("the database is locked") if fails == "no number" else RuntimeError("a defect")

    async with running(Bridge()) as bridge:
        with monkeypatch.context() as patch:
            if fails == "no links":
                patch.setattr(bridge, "new_channels", lambda: 1 / 0)
            else:
                patch.setattr(bridge, "next_number", no_number)
            handling = asyncio.create_task(bridge.invite(version=version))
            if fails == "cancelled":
                cancelled_soon(handling)
            (outcome,) = await asyncio.gather(handling, return_exceptions=True)
        assert (outcome is None) == (fails == "no number"), "the inbox notes what is a defect of ours"
        await bridge.until(lambda: bool(bridge.ended))
        assert (bridge.open, bridge.ended, bridge.over) == ({}, {CallId("c1"): "unavailable"}, [CallId("c1")])
        (message,) = bridge.sent
        assert isinstance(message, Reject if version is Version.V1 else Hangup)
        assert message.reason == "user_busy"
        assert (bridge.refusals(), bridge.decided, bridge.manager.live.sessions) == (["unavailable"], [], ())
        await bridge.invite()
        assert bridge.refusals() == ["unavailable", "replay"], "what was refused once stays so"
        await bridge.invite("c2")
        await bridge.until(connected(bridge))


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("fails", ["unknown", "cancelled"])
async def test_claim_of_which_nobody_knows_whether_it_is_stored_leaves_no_call_open(
    fails: str, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Bridge()) as bridge:
        claim, attempts = bridge.claim, []

        async def unsure(record: CallRecord, event_id: EventId, now_ms: int, *, again: bool = False) -> bool:
            attempts.append(again)
            if len(attempts) > (2 if fails == "unknown" else 1):
                return record.call_id in bridge.open or await claim(record, event_id, now_ms)
            if stored and not again:
                await claim(record, event_id, now_ms)
            if fails == "cancelled":
                await asyncio.Event().wait()
            raise UnknownOutcomeError("the connection was lost")

        monkeypatch.setattr(bridge, "claim", unsure)
        handling = asyncio.create_task(bridge.invite())
        if fails == "cancelled":
            cancelled_soon(handling)
        await asyncio.gather(handling, return_exceptions=True)
        await bridge.until(lambda: bool(bridge.ended))
        assert (bridge.open, [type(message) for message in bridge.sent]) == ({}, [Reject])
        assert attempts[-1], "asked for by its key"


async def test_replay_whose_claim_is_cancelled_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(Bridge()) as bridge:
        await bridge.invite()
        await bridge.until(connected(bridge))
        await bridge.message(Hangup(CallId("c1"), PartyId("theirs"), Version.V1))
        await bridge.until(lambda: bool(bridge.ended))
        sent, claim = len(bridge.sent), bridge.claim

        async def slow(record: CallRecord, event_id: EventId, now_ms: int, *, again: bool = False) -> bool:
            if not again:
                await asyncio.Event().wait()
            return await claim(record, event_id, now_ms)

        monkeypatch.setattr(bridge, "claim", slow)
        handling = asyncio.create_task(bridge.invite())
        cancelled_soon(handling)
        await asyncio.gather(handling, return_exceptions=True)
        for _ in range(20):
            await asyncio.sleep(0)
        assert (len(bridge.sent), bridge.ended) == (sent, {CallId("c1"): "user_hangup"})


async def test_refusal_that_nobody_takes_ends_the_call_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_number() -> int:
        raise StorageError("the database is locked")

    async with running(Bridge()) as bridge:
        bridge.homeserver_down = True
        monkeypatch.setattr(bridge, "next_number", no_number)
        await bridge.invite()
        await bridge.until(lambda: bool(bridge.ended))
        assert bridge.open == {}


async def test_end_of_the_bridge_while_a_claim_is_waited_for_ends_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are cancelled together, as where something else has failed; a cancel that is swallowed would hang the end."""
    bridge, waiting = Bridge(), asyncio.Event()

    async def hangs(*_: object, **__: object) -> bool:
        waiting.set()
        return await asyncio.Event().wait()

    monkeypatch.setattr(bridge, "claim", hangs)
    living = asyncio.create_task(bridge.manager.run())
    await asyncio.sleep(0)
    handling = asyncio.create_task(bridge.invite())
    await waiting.wait()
    living.cancel()
    handling.cancel()
    await asyncio.gather(living, handling, return_exceptions=True)
    assert (living.cancelled(), handling.cancelled()) == (True, True)
    assert not bridge.sent


async def test_calls_to_which_nothing_can_be_said_are_a_line_for_each_caller(caplog: pytest.LogCaptureFixture) -> None:
    """As in a room in which the peer may not send."""
    caplog.set_level(logging.INFO)
    bridge = Bridge()
    bridge.denied = {ALICE, BOB}
    bridge.homeserver_down = True
    async with running(bridge):
        for number in range(20):
            await bridge.invite(f"c{number}", sender=(ALICE, BOB)[number % 2])
            await bridge.until(lambda number=number: CallId(f"c{number}") in bridge.ended)  # type: ignore[misc]
    assert caplog.text.count("not sent: the homeserver is away") == 2


async def test_invite_that_the_database_does_not_take_is_counted_once_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever hands it on tries again while the database is away; the caller has called once."""
    bridge = Bridge(invites_per_minute=1)
    claim, refusals = bridge.claim, [StorageError("the database is locked")] * 5

    async def away(*args: object, **more: object) -> bool:
        if refusals:
            raise refusals.pop()
        return await claim(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(bridge, "claim", away)
    async with running(bridge):
        for _ in range(5):
            with pytest.raises(StorageError):
                await bridge.invite()
        await bridge.invite()
        await bridge.until(lambda: len(bridge.manager.live.sessions) == 1)
        await bridge.invite("c2")
        assert len(bridge.manager.live.sessions) == 1, "the second call within a minute is one too many"


async def test_calls_go_on_when_what_owns_them_has_failed_and_is_run_again() -> None:
    bridge = Bridge()
    first = asyncio.create_task(bridge.manager.run())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with running(bridge):
        await bridge.invite()
        await bridge.until(connected(bridge))
    await bridge.manager.drain(0)
    async with running(bridge):
        await bridge.invite("c2")
        assert not bridge.manager.live.sessions, "the farewell was said"
