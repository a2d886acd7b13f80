"""The order in which the events of a call come does not matter."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.call.events import CandidateLine, Candidates, Hangup, SelectAnswer, Version
from mxrtc_bridge.core.ids import CallId, PartyId
from mxrtc_bridge.core.webrtc.candidate import Candidate, format_candidate
from tests.engine.call_bench import ALICE, BOB, Bridge, Peer, running

THEIRS, OTHERS = PartyId("theirs"), PartyId("others")
LINE = "candidate:1 1 udp 1 192.0.2.1 5000 typ host"


def candidates(party: PartyId = THEIRS) -> Candidates:
    return Candidates(CallId("c1"), party, Version.V1, (CandidateLine(LINE),))


def hangup(party: PartyId = THEIRS) -> Hangup:
    return Hangup(CallId("c1"), party, Version.V1)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    taken: list[Candidate] = []
    monkeypatch.setattr(Peer, "add_candidates", lambda _self, candidates: taken.extend(candidates))
    return taken


async def test_candidates_before_the_invite_are_used(added: list[Candidate]) -> None:
    async with running(Bridge()) as bridge:
        await bridge.message(candidates())
        await bridge.invite()
        await bridge.until(lambda: bool(added))
        assert [format_candidate(each) for each in added] == [LINE]


async def test_call_that_was_hung_up_before_its_invite_came_is_not_answered() -> None:
    async with running(Bridge()) as bridge:
        await bridge.message(hangup())
        await bridge.invite()
        await bridge.until(lambda: bool(bridge.ended))
        assert bridge.ended == {CallId("c1"): "user_hangup"}
        assert bridge.sent == []
        assert bridge.peers == []


async def test_selection_of_another_party_before_the_invite_counts() -> None:
    async with running(Bridge()) as bridge:
        await bridge.message(SelectAnswer(CallId("c1"), THEIRS, Version.V1, OTHERS))
        await bridge.invite()
        await bridge.until(lambda: bool(bridge.ended))
        assert bridge.ended == {CallId("c1"): "answered_elsewhere"}


async def test_what_others_said_before_the_invite_means_nothing(added: list[Candidate]) -> None:
    async with running(Bridge()) as bridge:
        await bridge.message(hangup(OTHERS))
        await bridge.message(candidates(OTHERS))
        await bridge.message(hangup(), sender=BOB)
        await bridge.invite()
        await bridge.until(lambda: any(each.connected_at for each in bridge.manager.live.sessions))
        assert (bridge.ended, added) == ({}, [])


async def test_nothing_is_kept_of_callers_without_a_right() -> None:
    async with running(Bridge()) as bridge:
        bridge.denied = {ALICE}
        await bridge.message(hangup())
        bridge.denied = set()
        await bridge.invite()
        await bridge.until(lambda: any(each.connected_at for each in bridge.manager.live.sessions))
