"""An answer that the calling side cannot use ends the call with the reason in words."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import pytest

from mxrtc_bridge.client.calls.connection import explain
from mxrtc_bridge.client.exit_codes import Exit
from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.events import Answer, CallMessage, Version
from mxrtc_bridge.core.call.machine import CallMachine
from mxrtc_bridge.core.ids import CallId, PartyId, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.engine.client_channels import ClientChannels
from mxrtc_bridge.engine.clock import LoopClock
from mxrtc_bridge.engine.ports import NoCounters
from mxrtc_bridge.engine.session import Session
from tests.engine.call_bench import ALICE, OFFER, PEER, ROOM
from tests.fakes import FakePeer
from tests.waiting import until

CALL = CallId("c1")
ANSWER = OFFER.replace("a=setup:actpass", "a=setup:active")


class Caller(FakePeer):
    """The peer connection of whoever calls; there is nothing to connect to."""

    def __init__(self) -> None:
        super().__init__(deque())
        self.other = FakePeer(self.network)

    async def create(self, _local: UserId) -> Caller:
        return self

    async def create_offer(self) -> str:
        return OFFER

    def apply_answer(self, _answer: object) -> None: ...

    async def connect(self) -> None:
        await asyncio.Event().wait()


async def ended(answer: str) -> tuple[call.CallEnded, str]:
    """How a call ends that is answered so, and what the session says of it."""
    sent, clock, addresses = list[CallMessage](), LoopClock(), AddressPolicy()

    class Outbox:
        async def send(self, _route: object, _local: object, message: CallMessage, *, step: str) -> None:
            assert step
            sent.append(message)

    machine = CallMachine(
        call.CallRole.CALLER, call_id=CALL, local=ALICE, party_id=PartyId("ours"), remote=PEER, addresses=addresses
    )
    session = Session(
        machine,
        call_id=CALL, route=ROOM, local=ALICE, remote=PEER, number=0, device=None,
        signaller=Outbox(), peers=Caller(),  # type: ignore[arg-type]
        links=ClientChannels(clock=clock, counters=NoCounters()), addresses=addresses, clock=clock,
    )  # fmt: skip
    running = asyncio.create_task(session.run())
    session.feed(call.PlaceCall())
    await until(lambda: sent)
    session.feed(call.Remote(PEER, Answer(CALL, PartyId("theirs"), Version.V1, answer)))
    return await asyncio.wait_for(running, 10), session.failure


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda sdp: "", "bad_line", "the description does not begin with v=0"),
        (lambda sdp: sdp.replace(":active", ":actpass"), "bad_attribute", "an answer must choose a=setup:active"),
        (
            lambda sdp: sdp + "m=au\N{RIGHT-TO-LEFT OVERRIDE}dio 9 X 1\r\n",
            "media_refused",
            "has a section for 'au\\u202edio'; only a data channel is served",
        ),
    ],
)
async def test_what_is_wrong_with_an_answer_is_told_in_words(
    change: Callable[[str], str], reason: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outcome, failure = await ended(change(ANSWER))
    assert (outcome.outcome, outcome.reason) == (call.CallOutcome.FAILED, reason)
    said = explain(outcome, None, None, failure)
    assert said.code is Exit.RETRY
    assert str(said).startswith("this side cannot use what the bridge says of itself: ")
    assert words in str(said)
    assert str(said).endswith(f"({reason}). Update mxrtc or the bridge, whichever is older")
    assert f"answer refused: {reason}: " in caplog.text
    assert words in caplog.text
