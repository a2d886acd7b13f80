"""What ends sessions from outside: rights and rooms that change, time, a stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mxrtc_bridge.core.call.events import Hangup, Reject
from mxrtc_bridge.core.ids import CallId, UserId
from mxrtc_bridge.engine.bridge_channels import BridgeChannels
from tests.engine.call_bench import ALICE, BOB, PEER, ROOM, Bridge, connected, running
from tests.waiting import until


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with running(Bridge()) as each:
        yield each


async def test_right_that_ends_ends_the_live_session(bridge: Bridge) -> None:
    await bridge.invite()
    await bridge.until(connected(bridge))
    bridge.denied.add(ALICE)
    bridge.manager.live.rights_changed()
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert isinstance(bridge.sent[-1], Hangup)


async def test_what_changes_for_some_is_judged_for_them_alone(bridge: Bridge) -> None:
    """Each member who leaves a room would cost a look at all sessions otherwise."""
    await bridge.invite()
    await bridge.until(connected(bridge))
    bridge.denied.add(ALICE)
    bridge.manager.live.rights_changed((UserId("@bob:example.org"),))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(bridge.manager.live.sessions) == 1
    bridge.manager.live.rights_changed((ALICE,))
    await bridge.until(lambda: not bridge.manager.live.sessions)


async def test_right_that_expires_ends_the_live_session(bridge: Bridge) -> None:
    await bridge.invite()
    await bridge.until(connected(bridge))
    bridge.changes_at = bridge.clock.wall_ms() + 80
    bridge.manager.live.rights_changed()
    bridge.denied.add(ALICE)
    async with asyncio.timeout(5):
        while bridge.manager.live.sessions:
            await asyncio.sleep(0.01)


async def test_leaving_or_a_third_member_ends_the_call(bridge: Bridge) -> None:
    await bridge.invite("c1")
    await bridge.until(connected(bridge))
    bridge.manager.live.member_left(ROOM, ALICE)
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert len(bridge.sent) == 1, "nobody is there to read a hangup"
    await bridge.invite("c2")
    await bridge.until(connected(bridge))
    bridge.room_members[ROOM] = frozenset({PEER, ALICE, BOB})
    bridge.manager.live.room_changed(ROOM)
    await bridge.until(lambda: not bridge.manager.live.sessions)
    assert isinstance(bridge.sent[-1], Hangup)


async def test_drain_ends_live_sessions_and_takes_no_new_ones(bridge: Bridge) -> None:
    await bridge.invite()
    await bridge.until(connected(bridge))
    await bridge.manager.drain(5.0)
    assert not bridge.manager.live.sessions
    await bridge.invite("c2")
    assert not bridge.manager.live.sessions


async def test_stop_before_the_answer_is_no_refusal(bridge: Bridge) -> None:
    """A command that calls again, as it does after each restart, would end for good."""
    bridge.confirming.clear()
    await bridge.invite()
    await bridge.until(lambda: bridge.asked)
    await bridge.manager.drain(5.0)
    assert [(type(each), each.reason, each.limit) for each in bridge.sent if isinstance(each, Reject)] == [
        (Reject, "user_busy", "stopping")
    ]


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_session_that_lasts_too_long_ends_and_says_so_at_both_ends(
    greeted: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    said: list[tuple[str, str]] = []

    def say_bye(_links: BridgeChannels, code: str, message: str) -> bool:
        said.append((code, message))
        return greeted

    monkeypatch.setattr(BridgeChannels, "say_bye", say_bye)
    async with running(Bridge(session_max_s=0.05)) as bridge:
        await bridge.invite()
        await until(lambda: bridge.ended)
        assert bridge.ended == {CallId("c1"): "session_max"}
        ((code, message),) = said
        assert code == "limit"
        assert "session_max" in message
        assert bridge.audited_ends == [(ALICE, message)]
        assert "has lasted for session_max" in caplog.text
        assert isinstance(bridge.sent[-1], Hangup)
        assert bridge.sent[-1].reason == "session_max"
