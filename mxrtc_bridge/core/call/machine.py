"""The call machine: one Matrix call, from the first event to the last, in either role.

It must never: wait for end-of-candidates or ``m.call.select_answer`` (clients leave both out), send anything after
its end, act on a message of another user or party, or grow with what the other side sends.

How it works: :data:`TABLES` has, for each role, each state and each kind of event, exactly one :class:`Rule`; this
file holds everything that affects transitions. Before a rule is looked up,

1. a deadline that has come is dealt with, whatever the event is, so that a late driver changes nothing;
2. a message that is not of this call, not from the other user or not from its chosen party is counted and dropped.
   No party is chosen before the first invite (callee) or the first answer (caller).

Rules whose reason is not obvious:

* *Answer and connect at once.* The caller's candidates may come later or never; of ours, those of slow servers follow.
* *Refuse with* ``m.call.reject``. Clients ignore a hangup from a party that has not answered. Version 0 has only it.
* *The first answer wins*; other parties learn it from ``m.call.select_answer``, which is also due for a reject.
* *A negotiate is counted and ignored.* Our transport cannot restart ICE: an answer with the old credentials would
  make the other side drop a path that works. If the path is dead, the transport says so and the call ends.
* *The reasons* ``ice_failed`` *and* ``ice_timeout`` mean before and after the connection was up (specification,
  ``m.call.hangup``), not the way in which it failed.
* *A homeserver that is away* does not end a call that is connected: the peer connection does not need it.

Times and ids come from outside. docs/reference/call-states.md is made from the tables.

One file: the table of the transitions, and everything that affects them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mxrtc_bridge.core.call import events, values
from mxrtc_bridge.core.call.events import CallMessage, Version
from mxrtc_bridge.core.call.limits import BUSY
from mxrtc_bridge.core.call.values import CallCounts, CallOutcome, CallRole, CallState, Kind
from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.ids import CallId, PartyId, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.candidate import Candidate, CandidateIntake

MAX_EARLY_PARTIES = 8
"""Parties whose candidates are kept before one of them is the other side."""


class RemoteCandidates:
    """Candidates of the other side: kept until there is a remote description, then passed on, bounded over the call.

    Before the first answer the caller cannot know which party's candidates will count, so they are kept by party, each
    with its own bound. The end-of-candidates mark is not kept: clients leave it out, and nothing here waits for it.

    Args:
        addresses: which addresses may be used.
    """

    def __init__(self, addresses: AddressPolicy) -> None:
        self._addresses = addresses
        self._waiting: dict[PartyId | None, list[Candidate]] = {}
        self._intakes: dict[PartyId | None, CandidateIntake] = {}
        self._beyond = 0
        self._passing = False

    @property
    def dropped(self) -> int:
        """How many lines were of no use, or came beyond the bound."""
        return self._beyond + sum(intake.dropped for intake in self._intakes.values())

    @property
    def waiting(self) -> int:
        """How many are kept."""
        return sum(map(len, self._waiting.values()))

    def receive(self, message: events.Candidates) -> tuple[Candidate, ...]:
        """Take a batch; returns the candidates to pass on now."""
        party = message.party_id
        if party not in self._intakes and len(self._intakes) == MAX_EARLY_PARTIES:
            self._beyond += len(message.candidates)
            return ()
        intake = self._intakes.setdefault(party, CandidateIntake(self._addresses))
        taken = intake.take(line.candidate for line in message.candidates)
        if self._passing:
            return taken
        self._waiting.setdefault(party, []).extend(taken)
        return ()

    def open_for(self, party: PartyId | None) -> tuple[Candidate, ...]:
        """Begin to pass on; returns what ``party`` has sent so far. What other parties have sent counts no more."""
        waiting = tuple(self._waiting.pop(party, ()))
        self._waiting.clear()
        self._intakes = {party: self._intakes.get(party) or CandidateIntake(self._addresses)}
        self._passing = True
        return waiting

    def clear(self) -> None:
        """Forget what waits: the call is over."""
        self._waiting.clear()


class CallMachine:
    """One call; see the head of this module.

    Args:
        role: which end we are.
        call_id: the id of the call.
        local: the user on this side.
        party_id: our party id in this call.
        remote: the user at the other end.
        addresses: which of the other side's addresses may be used.
        lifetime_ms: caller: lifetime of our invite; callee: upper bound for the lifetime of theirs.
        setup_timeout_s: time from both descriptions to a connection, and for making an offer.

    Raises:
        StateError: both users are the same, so that our own echo could not be told from the other side.
    """

    def __init__(
        self,
        role: CallRole,
        *,
        call_id: CallId,
        local: UserId,
        party_id: PartyId,
        remote: UserId,
        addresses: AddressPolicy,
        lifetime_ms: int = values.CALL_LIFETIME_MS,
        setup_timeout_s: float = values.SETUP_TIMEOUT_S,
    ) -> None:
        if local == remote:
            raise StateError(f"{local} cannot call itself")
        self._role = role
        self._call_id = call_id
        self._local = local
        self._party_id = party_id
        self._remote = remote
        self._lifetime_ms = lifetime_ms
        self._setup_timeout_s = setup_timeout_s
        self.state = CallState.IDLE
        self._deadline: float | None = None
        self._version = Version.V1
        self._party_chosen = False
        self.remote_party: PartyId | None = None
        """The party of the other side; None before it is known, and always with version 0."""
        self._offer = ""
        self._candidates = RemoteCandidates(addresses)
        self._counts = CallCounts()
        self._effects: deque[values.Effect] = deque()
        self._batches = 0

    @property
    def counts(self) -> CallCounts:
        return replace(
            self._counts, dropped_candidates=self._candidates.dropped, waiting_candidates=self._candidates.waiting
        )

    def handle(self, now: float, event: values.Event) -> None:
        """Take one event; afterwards all effects must be polled.

        Args:
            now: monotonic seconds.
            event: what happened.

        Raises:
            StateError: an event of our own side that cannot happen in this state; nothing has changed. No message
                of the other side does this.
        """
        if self._deadline is not None and now >= self._deadline:
            self._apply(now, values.CallTick())
        if isinstance(event, values.CallTick):
            return
        if not isinstance(event, values.Remote):
            self._apply(now, event)
        elif self._concerns_us(event):
            self._apply(now, event.message)
        else:
            self._counts = replace(self._counts, foreign_messages=self._counts.foreign_messages + 1)

    def poll_effect(self) -> values.Effect | None:
        """The next effect to carry out, or None."""
        return self._effects.popleft() if self._effects else None

    def next_deadline(self) -> float | None:
        """When ``CallTick`` is due at the latest, or None if nothing is waited for."""
        return self._deadline

    def _apply(self, now: float, event: values.Event | CallMessage) -> None:
        rule = TABLES[self._role][self.state][type(event)]
        if rule.refused:
            raise StateError(f"{type(event).__name__} is not possible for a {self._role.value} in {self.state.name}")
        if rule.action is not None:
            rule.action(self, now, event)

    def _concerns_us(self, event: values.Remote) -> bool:
        message = event.message
        if event.sender != self._remote or message.call_id != self._call_id:  # our own echo among them
            return False
        if self._party_chosen:
            return message.party_id == self.remote_party
        return not (isinstance(message, events.Invite) and message.invitee not in (None, self._local))

    # Setting up

    def _place(self, now: float, _event: values.PlaceCall) -> None:
        self._enter(CallState.OFFERING, now + self._setup_timeout_s)
        self._effects.append(values.CreateOffer())

    def _send_invite(self, now: float, event: values.OfferReady) -> None:
        self._enter(CallState.INVITING, now + self._lifetime_ms / 1000)
        invite = events.Invite(self._call_id, self._party_id, Version.V1, event.sdp, self._lifetime_ms, self._remote)
        self._effects.append(values.SendCallEvent(invite, "invite"))

    def _take_answer(self, now: float, answer: events.Answer) -> None:
        self._choose(answer)
        self._enter(CallState.CONNECTING, now + self._setup_timeout_s)
        if answer.party_id is not None:
            self._send_select(answer.party_id)
        self._effects.append(values.ApplyAnswer(answer.sdp))
        self._connect()

    def _judge(self, now: float, invite: events.Invite) -> None:
        self._choose(invite)
        self._offer = invite.sdp
        self._enter(CallState.ADMITTING, now + min(invite.lifetime_ms, self._lifetime_ms) / 1000)
        self._effects.append(values.Admit(invite))

    def _make_answer(self, _now: float, _event: values.Admitted) -> None:
        self._enter(CallState.ANSWERING, self._deadline)
        self._effects.append(values.CreateAnswer(self._offer))
        self._offer = ""

    def _send_answer(self, now: float, event: values.AnswerReady) -> None:
        self._enter(CallState.CONNECTING, now + self._setup_timeout_s)
        self._effects.append(
            values.SendCallEvent(events.Answer(self._call_id, self._own_party(), self._version, event.sdp), "answer")
        )
        self._connect()

    def _take_candidates(self, _now: float, message: events.Candidates) -> None:
        taken = self._candidates.receive(message)
        if taken:
            self._effects.append(values.AddCandidates(taken))

    def _send_candidates(self, _now: float, event: values.CandidatesFound) -> None:
        self._batches += 1
        message = events.Candidates(self._call_id, self._own_party(), self._version, event.lines, event.end)
        self._effects.append(values.SendCallEvent(message, f"candidates {self._batches}"))

    def _connected(self, _now: float, _event: values.Connected) -> None:
        self._enter(CallState.CONNECTED, None)

    def _compare_selection(self, _now: float, message: events.SelectAnswer) -> None:
        if message.selected_party_id not in (None, self._party_id):
            self._end(CallOutcome.ANSWERED_ELSEWHERE, "answered_elsewhere")

    def _count_negotiate(self, _now: float, _message: events.Negotiate) -> None:
        self._counts = replace(self._counts, ignored_negotiates=self._counts.ignored_negotiates + 1)

    # Ending

    def _end_quietly(self, _now: float, event: values.HangUp | values.SendFailed | values.TransportFailed) -> None:
        self._end(self._outcome_of(event), event.reason)

    def _decline(
        self, _now: float, event: values.Refused | values.HangUp | values.SendFailed | values.TransportFailed
    ) -> None:
        match event:
            case values.Refused():
                self._send_reject(event.reason, event.limit)
            # Busy is what every client takes for "later"; a reason that it does not know may look like a refusal.
            case values.HangUp(later=str(limit)) | values.TransportFailed(lack=str(limit)):
                self._send_reject(BUSY, limit)
            case values.HangUp():
                self._send_reject(event.reason, None)
            case _:
                self._send_reject("unknown_error", None)
        self._end(self._outcome_of(event), event.reason or "refused")

    def _hang_up(self, _now: float, event: values.HangUp | values.SendFailed) -> None:
        self._send_hangup(event.reason if isinstance(event, values.HangUp) else "unknown_error")
        self._end(self._outcome_of(event), event.reason)

    def _setup_failed(self, _now: float, event: values.TransportFailed) -> None:
        self._send_hangup("ice_failed" if event.reason.startswith("ice_") else "unknown_error")
        self._end(CallOutcome.FAILED, event.reason)

    def _connection_lost(self, _now: float, event: values.TransportFailed) -> None:
        self._send_hangup("user_hangup" if event.by_peer else "ice_timeout")
        self._end(CallOutcome.REMOTE_HANGUP if event.by_peer else CallOutcome.FAILED, event.reason)

    def _hung_up(self, _now: float, message: events.Hangup) -> None:
        self._end(CallOutcome.REMOTE_HANGUP, message.reason)

    def _rejected(self, _now: float, message: events.Reject) -> None:
        if message.party_id is not None:
            self._send_select(message.party_id)
        self._end(CallOutcome.REJECTED, message.reason or "rejected", message.limit)

    def _member_left(self, _now: float, _event: values.MemberLeft) -> None:
        self._end(CallOutcome.MEMBER_LEFT, "member_left")

    def _offer_late(self, _now: float, _event: values.CallTick) -> None:
        self._end(CallOutcome.TIMED_OUT, "setup_timeout")

    def _nobody_answered(self, _now: float, _event: values.CallTick) -> None:
        self._send_hangup("invite_timeout")
        self._end(CallOutcome.TIMED_OUT, "invite_timeout")

    def _invite_expired(self, _now: float, _event: values.CallTick) -> None:
        self._end(CallOutcome.TIMED_OUT, "invite_timeout")

    def _connection_late(self, _now: float, _event: values.CallTick) -> None:
        self._send_hangup("ice_failed")
        self._end(CallOutcome.TIMED_OUT, "setup_timeout")

    # What the rules are made of

    def _enter(self, state: CallState, deadline: float | None) -> None:
        self.state, self._deadline = state, deadline

    def _choose(self, message: events.Invite | events.Answer) -> None:
        self._party_chosen = True
        self.remote_party = message.party_id
        self._version = message.version

    def _connect(self) -> None:
        waiting = self._candidates.open_for(self.remote_party)
        if waiting:
            self._effects.append(values.AddCandidates(waiting))
        self._effects.append(values.Connect())

    def _end(self, outcome: CallOutcome, reason: str, limit: str | None = None) -> None:
        if self.state in _WITH_PEER:
            self._effects.append(values.ClosePeer())
        self._effects.append(values.CallEnded(outcome, reason, limit))
        self._enter(CallState.ENDED, None)
        self._offer = ""
        self._candidates.clear()

    def _own_party(self) -> PartyId | None:
        return None if self._version is Version.V0 else self._party_id

    def _send_hangup(self, reason: str) -> None:
        self._effects.append(
            values.SendCallEvent(events.Hangup(self._call_id, self._own_party(), self._version, reason), "hangup")
        )

    def _send_reject(self, reason: str | None, limit: str | None) -> None:
        if self._version is Version.V0:
            self._send_hangup(reason or "user_hangup")
        else:
            reject = events.Reject(self._call_id, self._party_id, Version.V1, reason, limit)
            self._effects.append(values.SendCallEvent(reject, "reject"))

    def _send_select(self, party: PartyId) -> None:
        self._effects.append(
            values.SendCallEvent(events.SelectAnswer(self._call_id, self._party_id, Version.V1, party), "select")
        )

    @staticmethod
    def _outcome_of(event: values.Refused | values.HangUp | values.SendFailed | values.TransportFailed) -> CallOutcome:
        if isinstance(event, values.Refused):
            return CallOutcome.REFUSED
        return CallOutcome.LOCAL_HANGUP if isinstance(event, values.HangUp) else CallOutcome.FAILED


_WITH_PEER = frozenset(
    {CallState.ANSWERING, CallState.OFFERING, CallState.INVITING, CallState.CONNECTING, CallState.CONNECTED}
)


# The tables


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of event means in one state."""

    says: str
    """For a person: what is done, or why nothing is."""
    action: Callable[[CallMachine, float, Any], None] | None = None
    """Takes the event or message of the kind that the rule stands under, hence ``Any``; None changes nothing."""
    leads_to: tuple[CallState, ...] = ()
    """The states in which the call may be afterwards."""
    refused: bool = False
    """The event is a mistake of our own side: :class:`StateError`."""


def _ignored(reason: str, *kinds: Kind) -> dict[Kind, Rule]:
    return dict.fromkeys(kinds, Rule(reason))


def _refused(*kinds: Kind) -> dict[Kind, Rule]:
    return dict.fromkeys(kinds, Rule("cannot happen here", refused=True))


_OVER = (CallState.ENDED,)
_M = CallMachine

_LEFT: dict[Kind, Rule] = {values.MemberLeft: Rule("end; nobody would read a message", _M._member_left, _OVER)}
_UNSIGNALLED: dict[Kind, Rule] = {
    values.HangUp: Rule("end; the other side knows nothing yet", _M._end_quietly, _OVER),
    values.SendFailed: Rule("end; the other side knows nothing yet", _M._end_quietly, _OVER),
    values.TransportFailed: Rule("end; the other side knows nothing yet", _M._end_quietly, _OVER),
    **_LEFT,
}
_UNANSWERED: dict[Kind, Rule] = {
    values.HangUp: Rule("reject", _M._decline, _OVER),
    values.SendFailed: Rule("reject", _M._decline, _OVER),
    values.TransportFailed: Rule("reject", _M._decline, _OVER),
    events.Hangup: Rule("end; the caller gave up", _M._hung_up, _OVER),
    events.SelectAnswer: Rule("end if another party was selected", _M._compare_selection, _OVER),
    values.CallTick: Rule("end; the invite has expired", _M._invite_expired, _OVER),
    events.Candidates: Rule("keep them, up to the bound", _M._take_candidates),
    **_LEFT,
    **_ignored("a call has one invite", events.Invite),
    **_ignored("only a callee sends this", events.Answer, events.Reject),
    **_ignored("nothing is agreed yet", events.Negotiate),
    **_refused(values.PlaceCall, values.OfferReady, values.CandidatesFound, values.Connected),
}
_ESTABLISHED: dict[Kind, Rule] = {
    values.HangUp: Rule("hang up", _M._hang_up, _OVER),
    events.Hangup: Rule("end", _M._hung_up, _OVER),
    events.Candidates: Rule("pass them on, up to the bound of the call", _M._take_candidates),
    events.Negotiate: Rule("count it; we cannot restart ICE", _M._count_negotiate),
    **_LEFT,
}
_CONNECTING: dict[Kind, Rule] = {
    **_ESTABLISHED,
    values.CandidatesFound: Rule("send them", _M._send_candidates),
    values.Connected: Rule("the call is up", _M._connected, (CallState.CONNECTED,)),
    values.TransportFailed: Rule("hang up", _M._setup_failed, _OVER),
    values.CallTick: Rule("hang up; the connection took too long", _M._connection_late, _OVER),
}
_CONNECTED: dict[Kind, Rule] = {
    **_ESTABLISHED,
    values.TransportFailed: Rule(
        "hang up with ice_timeout, or as usual if the other side has ended it", _M._connection_lost, _OVER
    ),
    values.SendFailed: Rule("ignored: the peer connection does not need the homeserver"),
    **_ignored("there is a path", values.CandidatesFound),
    **_ignored("no deadline", values.CallTick),
    **_refused(values.Connected),
}
_ENDED = _ignored("the call is over", *values.LOCAL_KINDS, *values.REMOTE_KINDS)

_ONLY_CALLEE = _refused(values.Admitted, values.Refused, values.AnswerReady)
_NOT_FOR_CALLER = _ignored("only a caller sends this", events.Invite, events.SelectAnswer)
_CALLER_ESTABLISHED: dict[Kind, Rule] = {
    **_ignored("the first answer has won", events.Answer, events.Reject),
    **_NOT_FOR_CALLER,
    **_ONLY_CALLEE,
    **_refused(values.PlaceCall, values.OfferReady),
}
_CALLEE_ESTABLISHED: dict[Kind, Rule] = {
    events.SelectAnswer: Rule("end if another party was selected", _M._compare_selection, _OVER),
    **_ignored("a call has one invite", events.Invite),
    **_ignored("only a callee sends this", events.Answer, events.Reject),
    **_refused(values.PlaceCall, values.OfferReady, values.Admitted, values.Refused, values.AnswerReady),
}

_CALLER: dict[CallState, dict[Kind, Rule]] = {
    CallState.IDLE: {
        values.PlaceCall: Rule("make an offer", _M._place, (CallState.OFFERING,)),
        **_UNSIGNALLED,
        **_ignored("no deadline", values.CallTick),
        **_ignored("nothing was sent that this could mean", *values.REMOTE_KINDS),
        **_ONLY_CALLEE,
        **_refused(values.OfferReady, values.CandidatesFound, values.Connected),
    },
    CallState.OFFERING: {
        values.OfferReady: Rule("send the invite", _M._send_invite, (CallState.INVITING,)),
        **_UNSIGNALLED,
        values.CallTick: Rule("end; the offer took too long", _M._offer_late, _OVER),
        **_ignored("nothing was sent that this could mean", *values.REMOTE_KINDS),
        **_ONLY_CALLEE,
        **_refused(values.PlaceCall, values.CandidatesFound, values.Connected),
    },
    CallState.INVITING: {
        values.CandidatesFound: Rule("send them", _M._send_candidates),
        events.Answer: Rule("send select_answer (v1), apply it, connect", _M._take_answer, (CallState.CONNECTING,)),
        events.Reject: Rule("send select_answer (v1), end", _M._rejected, _OVER),
        events.Hangup: Rule("end; some clients refuse so", _M._hung_up, _OVER),
        events.Candidates: Rule("keep them until their party answers, up to the bound", _M._take_candidates),
        values.HangUp: Rule("hang up", _M._hang_up, _OVER),
        values.SendFailed: Rule("hang up, should the invite have got through after all", _M._hang_up, _OVER),
        values.TransportFailed: Rule("hang up", _M._setup_failed, _OVER),
        values.CallTick: Rule("hang up with invite_timeout", _M._nobody_answered, _OVER),
        **_LEFT,
        **_NOT_FOR_CALLER,
        **_ignored("nothing is agreed yet", events.Negotiate),
        **_ONLY_CALLEE,
        **_refused(values.PlaceCall, values.OfferReady, values.Connected),
    },
    CallState.CONNECTING: {
        **_CONNECTING,
        values.SendFailed: Rule("ignored: what is on its way now, the call can do without"),
        **_CALLER_ESTABLISHED,
    },
    CallState.CONNECTED: {**_CONNECTED, **_CALLER_ESTABLISHED},
    CallState.ENDED: _ENDED,
}

_CALLEE: dict[CallState, dict[Kind, Rule]] = {
    CallState.IDLE: {
        events.Invite: Rule("have it checked", _M._judge, (CallState.ADMITTING,)),
        **_UNSIGNALLED,
        **_ignored("no deadline", values.CallTick),
        **_ignored(
            "there is no invite yet",
            events.Answer,
            events.Candidates,
            events.SelectAnswer,
            events.Reject,
            events.Hangup,
            events.Negotiate,
        ),
        **_refused(
            values.PlaceCall,
            values.OfferReady,
            values.Admitted,
            values.Refused,
            values.AnswerReady,
            values.CandidatesFound,
            values.Connected,
        ),
    },
    CallState.ADMITTING: {
        values.Admitted: Rule("make an answer", _M._make_answer, (CallState.ANSWERING,)),
        values.Refused: Rule("reject", _M._decline, _OVER),
        **_UNANSWERED,
        **_refused(values.AnswerReady),
    },
    CallState.ANSWERING: {
        values.AnswerReady: Rule("send it and connect at once", _M._send_answer, (CallState.CONNECTING,)),
        **_UNANSWERED,
        **_refused(values.Admitted, values.Refused),
    },
    CallState.CONNECTING: {
        **_CONNECTING,
        values.SendFailed: Rule("reject; the caller has no answer, so it would ignore a hangup", _M._decline, _OVER),
        **_CALLEE_ESTABLISHED,
    },
    CallState.CONNECTED: {**_CONNECTED, **_CALLEE_ESTABLISHED},
    CallState.ENDED: _ENDED,
}

TABLES: Mapping[CallRole, Mapping[CallState, Mapping[Kind, Rule]]] = {
    CallRole.CALLER: _CALLER,
    CallRole.CALLEE: _CALLEE,
}
"""One rule for each role, state and kind of event. A rule that leads to no state leaves the state as it is."""
