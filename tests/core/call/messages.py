"""Call messages for tests: two users, one call, and a way to let a machine and a test talk in whole lists."""

from __future__ import annotations

from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.events import (
    Answer,
    CallMessage,
    CandidateLine,
    Candidates,
    Hangup,
    Invite,
    Negotiate,
    Reject,
    SelectAnswer,
    Version,
)
from mxrtc_bridge.core.call.machine import CallMachine
from mxrtc_bridge.core.call.values import Kind
from mxrtc_bridge.core.ids import CallId, PartyId, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.candidate import parse_candidate
from mxrtc_bridge.core.webrtc.sdp import DescriptionType

PEER = UserId("@rtc_build:example.org")
USER = UserId("@alice:example.org")
MALLORY = UserId("@mallory:example.net")
CALL = CallId("call-1")
PEER_PARTY = PartyId("PEERPARTY")
USER_PARTY = PartyId("USERPARTY")
OTHER_PARTY = PartyId("OTHERPARTY")

V0, V1 = Version.V0, Version.V1


def lines(count: int, start: int = 0) -> tuple[CandidateLine, ...]:
    return tuple(
        CandidateLine(f"candidate:{i} 1 udp 1 192.0.2.1 {5000 + i} typ host", "0", 0)
        for i in range(start, start + count)
    )


def taken(count: int, start: int = 0) -> call.AddCandidates:
    """What the machine makes of ``lines``."""
    read = (parse_candidate(line.candidate, AddressPolicy()) for line in lines(count, start))
    return call.AddCandidates(tuple(candidate for candidate in read if candidate is not None))


def party(version: Version, name: PartyId = USER_PARTY) -> PartyId | None:
    return name if version is V1 else None


def invite(version: Version = V1, *, lifetime_ms: int = 60_000, invitee: UserId | None = None) -> Invite:
    return Invite(CALL, party(version), version, "offer of the user", lifetime_ms, invitee)


def answer(name: PartyId = USER_PARTY, version: Version = V1) -> Answer:
    return Answer(CALL, party(version, name), version, f"answer of {name}")


def candidates(count: int, name: PartyId = USER_PARTY, version: Version = V1, start: int = 0) -> Candidates:
    return Candidates(CALL, party(version, name), version, lines(count, start))


def select(selected: PartyId | None, name: PartyId = USER_PARTY) -> SelectAnswer:
    return SelectAnswer(CALL, name, V1, selected)


def reject(name: PartyId = USER_PARTY, reason: str | None = None) -> Reject:
    return Reject(CALL, name, V1, reason)


def hangup(name: PartyId = USER_PARTY, version: Version = V1, reason: str = "user_hangup") -> Hangup:
    return Hangup(CALL, party(version, name), version, reason)


def negotiate(name: PartyId = USER_PARTY) -> Negotiate:
    return Negotiate(CALL, name, V1, DescriptionType.OFFER, "restart", 60_000)


class Bench:
    """A machine with a clock that the test pushes."""

    def __init__(self, role: call.CallRole, **settings: float) -> None:
        self.now = 1000.0
        self.machine = CallMachine(
            role,
            call_id=CALL,
            local=PEER,
            party_id=PEER_PARTY,
            remote=USER,
            addresses=AddressPolicy(),
            **settings,  # type: ignore[arg-type]
        )

    @property
    def state(self) -> call.CallState:
        return self.machine.state

    def feed(self, event: call.Event) -> list[call.Effect]:
        """Hand over one event; returns all that the machine wants done."""
        self.machine.handle(self.now, event)
        effects = []
        while (effect := self.machine.poll_effect()) is not None:
            effects.append(effect)
        return effects

    def hear(self, message: CallMessage, sender: UserId = USER) -> list[call.Effect]:
        return self.feed(call.Remote(sender, message))

    def wait(self, seconds: float) -> list[call.Effect]:
        self.now += seconds
        return self.feed(call.CallTick())


def callee(state: call.CallState, version: Version = V1) -> Bench:
    """A callee that has come to ``state`` without incident."""
    bench = Bench(call.CallRole.CALLEE)
    steps: list[tuple[call.CallState, call.Event]] = [
        (call.CallState.ADMITTING, call.Remote(USER, invite(version))),
        (call.CallState.ANSWERING, call.Admitted()),
        (call.CallState.CONNECTING, call.AnswerReady("our answer")),
        (call.CallState.CONNECTED, call.Connected()),
        (call.CallState.ENDED, call.HangUp()),
    ]
    return walk(bench, state, steps)


def caller(state: call.CallState, version: Version = V1) -> Bench:
    """A caller that has come to ``state`` without incident."""
    bench = Bench(call.CallRole.CALLER)
    steps: list[tuple[call.CallState, call.Event]] = [
        (call.CallState.OFFERING, call.PlaceCall()),
        (call.CallState.INVITING, call.OfferReady("our offer")),
        (call.CallState.CONNECTING, call.Remote(USER, answer(version=version))),
        (call.CallState.CONNECTED, call.Connected()),
        (call.CallState.ENDED, call.HangUp()),
    ]
    return walk(bench, state, steps)


def walk(bench: Bench, goal: call.CallState, steps: list[tuple[call.CallState, call.Event]]) -> Bench:
    for state, event in steps:
        if bench.state is goal:
            break
        bench.feed(event)
        assert bench.state is state
    return bench


AT = {call.CallRole.CALLER: caller, call.CallRole.CALLEE: callee}

SAMPLES: dict[Kind, call.Event | CallMessage] = {
    type(event): event
    for event in (
        *(
            call.PlaceCall(),
            call.Admitted(),
            call.Refused("no"),
            call.OfferReady("o"),
            call.AnswerReady("a"),
            call.CandidatesFound(lines(1)),
            call.Connected(),
        ),
        *(call.SendFailed("homeserver"), call.TransportFailed("ice_failed"), call.HangUp(), call.MemberLeft()),
        *(invite(), answer(), candidates(1), select(OTHER_PARTY), reject(), hangup(), negotiate()),
    )
}
"""One event of every kind but Tick, as they come from our own side or from the right user and party."""
