"""Two call machines in one room that loses, repeats and reorders, with a third user who says what he likes.

Whatever happens, each machine ends exactly once, sends nothing afterwards, never waits without a deadline and keeps
its buffers bounded; and two machines that are both connected are connected to each other.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.call.codec import content_of, parse_message
from mxrtc_bridge.core.call.events import CallMessage, Candidates, SelectAnswer
from mxrtc_bridge.core.call.machine import MAX_EARLY_PARTIES, TABLES, CallMachine
from mxrtc_bridge.core.call.values import CallRole, CallState
from mxrtc_bridge.core.ids import PartyId, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.candidate import MAX_CANDIDATES
from tests.core.call.messages import (
    CALL,
    MALLORY,
    OTHER_PARTY,
    PEER,
    PEER_PARTY,
    USER,
    USER_PARTY,
    answer,
    candidates,
    hangup,
    invite,
    lines,
    negotiate,
    reject,
    select,
)
from tests.long import examples

LASTING = {CallState.IDLE, CallState.CONNECTED, CallState.ENDED}
CHOICE = st.integers(0, 1_000_000)

ASKS: dict[type[call.Effect], call.Event] = {
    call.Admit: call.Admitted(),
    call.CreateOffer: call.OfferReady("our offer"),
    call.CreateAnswer: call.AnswerReady("our answer"),
    call.Connect: call.Connected(),
}
"""What the session answers to an effect, if all goes well."""


class End:
    """One end: a machine, the work that it has asked for, and everything that it has ever wanted done."""

    def __init__(self, role: CallRole, user: UserId, party: PartyId, remote: UserId) -> None:
        self.role, self.user, self.party, self.remote = role, user, party, remote
        self.machine = CallMachine(
            role, call_id=CALL, local=user, party_id=party, remote=remote, addresses=AddressPolicy()
        )
        self.effects: list[call.Effect] = []
        self.asked: list[call.Event] = []

    def feed(self, now: float, event: call.Event) -> list[CallMessage]:
        """Hand over an event; returns the messages that go to the room."""
        before, chosen = self.machine.state, self.machine.remote_party
        due = (self.machine.next_deadline() or now + 1) <= now
        kind = type(event.message) if isinstance(event, call.Remote) else type(event)
        self.machine.handle(now, event)
        new = []
        while (effect := self.machine.poll_effect()) is not None:
            new.append(effect)
        states = {before, CallState.ENDED, *TABLES[self.role][before][kind].leads_to}
        assert self.machine.state in states, (before, event)
        if isinstance(event, call.Remote) and not due:
            foreign = event.sender != self.remote or (chosen is not None and event.message.party_id != chosen)
            assert not foreign or (new == [] and self.machine.state is before), event
        self.effects += new
        self.asked += [ASKS[type(effect)] for effect in new if type(effect) in ASKS]
        return [effect.message for effect in new if isinstance(effect, call.SendCallEvent)]

    def of(self, kind: type[call.Effect]) -> list[call.Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]


class TwoEndsInARoom(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.caller = End(CallRole.CALLER, USER, USER_PARTY, PEER)
        self.callee = End(CallRole.CALLEE, PEER, PEER_PARTY, USER)
        self.ends = (self.caller, self.callee)
        self.room: list[tuple[End, UserId, CallMessage]] = []

    def tell(self, sender: UserId, message: CallMessage) -> None:
        """Put a message in the room, as JSON would carry it; both ends see it, the sender as an echo."""
        event_type, content = content_of(message)
        self.room += [(end, sender, parse_message(event_type, content)) for end in self.ends]

    def feed(self, end: End, event: call.Event) -> None:
        for message in end.feed(self.now, event):
            self.tell(end.user, message)

    # The room

    @precondition(lambda self: self.caller.machine.state is CallState.IDLE)
    @rule()
    def place(self) -> None:
        self.feed(self.caller, call.PlaceCall())

    @precondition(lambda self: self.room)
    @rule(
        choice=CHOICE, in_order=st.sampled_from([True, True, True, False]), again=st.sampled_from([False] * 4 + [True])
    )
    def deliver(self, choice: int, in_order: bool, again: bool) -> None:
        index = 0 if in_order else choice % len(self.room)
        end, sender, message = self.room[index] if again else self.room.pop(index)
        self.feed(end, call.Remote(sender, message))

    @precondition(lambda self: self.room)
    @rule(choice=CHOICE)
    def lose(self, choice: int) -> None:
        self.room.pop(choice % len(self.room))

    @rule(
        sender=st.sampled_from([MALLORY, USER, PEER]),
        party=st.sampled_from([OTHER_PARTY, USER_PARTY, PEER_PARTY]),
        make=st.sampled_from([answer, hangup, reject, negotiate, lambda p: select(p, p), lambda p: candidates(3, p)]),
    )
    def interfere(self, sender: UserId, party: PartyId, make: object) -> None:
        """Another user, or another device of one of the two, takes part."""
        if sender != MALLORY:
            party = OTHER_PARTY
        assert callable(make)
        self.tell(sender, make(party))

    @rule(sender=st.sampled_from([MALLORY, USER]))
    def interfere_with_an_invite(self, sender: UserId) -> None:
        self.tell(sender, replace(invite(), party_id=OTHER_PARTY))

    @rule(
        end=st.sampled_from([0, 1]),
        count=st.sampled_from([1, MAX_CANDIDATES - 1, MAX_CANDIDATES]),
        start=st.integers(0, 200),
    )
    def trickle(self, end: int, count: int, start: int) -> None:
        sender = self.ends[end]
        self.tell(sender.user, replace(candidates(count), party_id=sender.party, candidates=lines(count, start)))

    # The two sessions

    @precondition(lambda self: any(end.asked for end in self.ends))
    @rule(choice=CHOICE, well=st.sampled_from([True] * 7 + [False]))
    def work_is_done(self, choice: int, well: bool) -> None:
        end = [end for end in self.ends if end.asked][choice % sum(bool(end.asked) for end in self.ends)]
        event = end.asked.pop(0)
        if not well:
            event = (
                call.Refused("user_busy") if isinstance(event, call.Admitted) else call.TransportFailed("ice_failed")
            )
        self.feed(end, event)

    @precondition(lambda self: any(end.machine.state is not CallState.IDLE for end in self.ends))
    @rule(
        end=st.sampled_from([0, 1]),
        event=st.sampled_from(
            [call.HangUp(), call.MemberLeft(), call.SendFailed("homeserver"), call.TransportFailed("consent_expired")]
        ),
        really=st.sampled_from([True, False, False, False, False]),
    )
    def something_happens(self, end: int, event: call.Event, really: bool) -> None:
        if really:
            self.feed(self.ends[end], event)

    @rule(steps=st.integers(1, 6))
    def all_goes_well_for_a_while(self, steps: int) -> None:
        """Random steps alone would hardly ever bring a call up."""
        if self.caller.machine.state is CallState.IDLE:
            self.place()
        for _ in range(steps):
            if any(end.asked for end in self.ends):
                self.work_is_done(0, well=True)
            elif self.room:
                self.deliver(0, in_order=True, again=False)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.01, 0.5, 0.5, 0.5, 5.0, 29.999, 90.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for end in self.ends:
            self.feed(end, call.CallTick())

    # What always holds

    @invariant()
    def a_call_ends_once_and_is_silent_afterwards(self) -> None:
        for end in self.ends:
            ended = end.machine.state is CallState.ENDED
            assert len(end.of(call.CallEnded)) == int(ended)
            if ended:
                assert isinstance(end.effects[-1], call.CallEnded)

    @invariant()
    def a_peer_connection_is_made_once_and_closed_once(self) -> None:
        for end in self.ends:
            made = len(end.of(call.CreateOffer)) + len(end.of(call.CreateAnswer))
            assert made <= 1
            assert len(end.of(call.ClosePeer)) == (made if end.machine.state is CallState.ENDED else 0)
            assert len(end.of(call.Connect)) <= 1
            assert len(end.of(call.Admit)) <= 1
            assert len(end.of(call.ApplyAnswer)) <= 1

    @invariant()
    def a_step_is_never_sent_twice(self) -> None:
        for end in self.ends:
            steps = [effect.step for effect in end.effects if isinstance(effect, call.SendCallEvent)]
            assert len(steps) == len(set(steps))

    @invariant()
    def whatever_waits_has_a_deadline_in_the_future(self) -> None:
        for end in self.ends:
            deadline = end.machine.next_deadline()
            assert (deadline is None) == (end.machine.state in LASTING)
            if deadline is not None:
                assert deadline <= self.now + 90

    @invariant()
    def candidates_are_bounded_and_come_after_the_description(self) -> None:
        for end in self.ends:
            batches = [effect for effect in end.effects if isinstance(effect, call.AddCandidates)]
            assert sum(len(batch.candidates) for batch in batches) <= MAX_CANDIDATES
            assert all(batch.candidates for batch in batches)
            assert end.machine.counts.waiting_candidates <= MAX_EARLY_PARTIES * MAX_CANDIDATES
            if batches:
                description = call.ApplyAnswer if end.role is CallRole.CALLER else call.SendCallEvent
                first = next(i for i, effect in enumerate(end.effects) if isinstance(effect, call.AddCandidates))
                assert any(isinstance(effect, description) for effect in end.effects[:first])

    @invariant()
    def effects_wait_for_nobody(self) -> None:
        assert all(end.machine.poll_effect() is None for end in self.ends)

    @invariant()
    def only_the_selected_answer_connects(self) -> None:
        if self.caller.machine.state is CallState.CONNECTED:
            chosen = self.caller.machine.remote_party
            assert chosen in (PEER_PARTY, OTHER_PARTY)
            selections = [
                effect.message.selected_party_id
                for effect in self.caller.effects
                if isinstance(effect, call.SendCallEvent) and isinstance(effect.message, SelectAnswer)
            ]
            assert selections == [chosen]
        if self.callee.machine.state is CallState.CONNECTED:
            assert self.callee.machine.remote_party in (USER_PARTY, OTHER_PARTY)

    def teardown(self) -> None:
        """A call that is left alone is over, or connected, within the sum of its deadlines."""
        for end in self.ends:
            for _ in range(3):
                self.now += 90
                self.feed(end, call.CallTick())
            assert end.machine.state in LASTING
            self.feed(end, call.HangUp())
            assert end.machine.state is CallState.ENDED
            self.feed(end, call.Remote(USER, Candidates(CALL, USER_PARTY, invite().version, lines(1))))
        self.a_call_ends_once_and_is_silent_afterwards()
        self.a_step_is_never_sent_twice()


TwoEndsInARoom.TestCase.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
TestTwoEndsInARoom = TwoEndsInARoom.TestCase


def test_two_machines_in_an_honest_room_connect_to_each_other() -> None:
    """The same two ends, without interference: the room alone carries the call."""
    world = TwoEndsInARoom()
    for _ in range(10):
        world.all_goes_well_for_a_while(5)
    assert [end.machine.state for end in world.ends] == [CallState.CONNECTED, CallState.CONNECTED]
    assert (world.caller.machine.remote_party, world.callee.machine.remote_party) == (PEER_PARTY, USER_PARTY)
    assert [effect.step for effect in world.caller.effects if isinstance(effect, call.SendCallEvent)] == [
        "invite",
        "select",
    ]
    assert [effect.step for effect in world.callee.effects if isinstance(effect, call.SendCallEvent)] == ["answer"]
    world.feed(world.callee, call.HangUp())
    while world.room:
        world.deliver(0, in_order=True, again=False)
    assert [end.machine.state for end in world.ends] == [CallState.ENDED, CallState.ENDED]
