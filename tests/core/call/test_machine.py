"""The call machine by story: every assertion names the whole list of effects, so that nothing extra slips by.

In all stories our side is a virtual user and the other side is Alice; the caller's stories only turn the call round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mxrtc_bridge.core.call.events import (
    Answer,
    CallMessage,
    CandidateLine,
    Candidates,
    Hangup,
    Invite,
    Reject,
    SelectAnswer,
    Version,
)
from mxrtc_bridge.core.call.machine import MAX_EARLY_PARTIES, TABLES, CallMachine
from mxrtc_bridge.core.call.values import (
    CALL_LIFETIME_MS,
    SETUP_TIMEOUT_S,
    AddCandidates,
    Admit,
    Admitted,
    AnswerReady,
    ApplyAnswer,
    CallCounts,
    CallEnded,
    CallOutcome,
    CallRole,
    CallState,
    CandidatesFound,
    ClosePeer,
    Connect,
    Connected,
    CreateAnswer,
    CreateOffer,
    HangUp,
    MemberLeft,
    OfferReady,
    PlaceCall,
    Refused,
    Remote,
    SendCallEvent,
    SendFailed,
    TransportFailed,
)
from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.ids import CallId, PartyId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.candidate import MAX_CANDIDATE_LINES, MAX_CANDIDATES
from tests.core.call.messages import (
    AT,
    CALL,
    MALLORY,
    OTHER_PARTY,
    PEER,
    PEER_PARTY,
    SAMPLES,
    USER,
    USER_PARTY,
    V0,
    V1,
    Bench,
    answer,
    callee,
    caller,
    candidates,
    hangup,
    invite,
    negotiate,
    reject,
    select,
    taken,
)

OUR_ANSWER = SendCallEvent(Answer(CALL, PEER_PARTY, V1, "our answer"), "answer")


def our_hangup(reason: str) -> SendCallEvent:
    return SendCallEvent(Hangup(CALL, PEER_PARTY, V1, reason), "hangup")


def our_select(selected: PartyId) -> SendCallEvent:
    return SendCallEvent(SelectAnswer(CALL, PEER_PARTY, V1, selected), "select")


def our_reject(reason: str | None, limit: str | None = None) -> SendCallEvent:
    return SendCallEvent(Reject(CALL, PEER_PARTY, V1, reason, limit), "reject")


# A call comes in


def test_a_callee_answers_and_connects_without_waiting_for_anything() -> None:
    bench = Bench(CallRole.CALLEE)
    assert bench.hear(invite(invitee=PEER)) == [Admit(invite(invitee=PEER))]
    assert bench.feed(Admitted()) == [CreateAnswer("offer of the user")]
    assert bench.feed(AnswerReady("our answer")) == [OUR_ANSWER, Connect()]
    assert bench.feed(Connected()) == []
    assert bench.machine.remote_party == USER_PARTY
    assert bench.state is CallState.CONNECTED


@pytest.mark.parametrize("state", [CallState.ADMITTING, CallState.ANSWERING])
def test_candidates_that_come_before_the_answer_are_kept_for_it(state: CallState) -> None:
    bench = callee(state)
    assert bench.hear(candidates(2)) == []
    if state is CallState.ADMITTING:
        bench.feed(Admitted())
    assert bench.hear(candidates(1, start=2)) == []
    assert bench.feed(AnswerReady("our answer")) == [OUR_ANSWER, taken(3), Connect()]
    assert bench.hear(candidates(1, start=3)) == [taken(1, start=3)]


@pytest.mark.parametrize(
    ("bench", "version", "party"),
    [
        (caller(CallState.INVITING), V1, PEER_PARTY),
        (caller(CallState.CONNECTING), V1, PEER_PARTY),
        (caller(CallState.CONNECTING, V0), V0, None),
        (callee(CallState.CONNECTING), V1, PEER_PARTY),
        (callee(CallState.CONNECTING, V0), V0, None),
    ],
)
def test_candidates_that_are_found_late_are_sent_each_batch_as_a_step_of_its_own(
    bench: Bench, version: Version, party: PartyId | None
) -> None:
    found = [(CandidateLine(f"candidate:{number}", "0", 0),) for number in (1, 2)]
    effects = [effect for end, batch in enumerate(found) for effect in bench.feed(CandidatesFound(batch, bool(end)))]
    assert effects == [
        SendCallEvent(Candidates(CALL, party, version, found[0]), "candidates 1"),
        SendCallEvent(Candidates(CALL, party, version, found[1], end=True), "candidates 2"),
    ]


@pytest.mark.parametrize("start", [caller, callee])
def test_candidates_that_are_found_when_there_is_a_path_are_not_sent(start: Callable[[CallState], Bench]) -> None:
    bench = start(CallState.CONNECTED)
    assert bench.feed(CandidatesFound((CandidateLine("candidate:1", "0", 0),))) == []


@pytest.mark.parametrize("selected", [PEER_PARTY, None])
@pytest.mark.parametrize("state", [CallState.ADMITTING, CallState.ANSWERING, CallState.CONNECTING, CallState.CONNECTED])
def test_a_selection_of_our_answer_changes_nothing(state: CallState, selected: PartyId | None) -> None:
    bench = callee(state)
    assert bench.hear(select(selected)) == []
    assert bench.state is state


@pytest.mark.parametrize("state", [CallState.ANSWERING, CallState.CONNECTING, CallState.CONNECTED])
def test_a_callee_that_was_not_selected_ends_silently(state: CallState) -> None:
    ended = CallEnded(CallOutcome.ANSWERED_ELSEWHERE, "answered_elsewhere")
    assert callee(state).hear(select(OTHER_PARTY)) == [ClosePeer(), ended]


def test_an_invite_to_somebody_else_is_not_for_us() -> None:
    bench = Bench(CallRole.CALLEE)
    assert bench.hear(invite(invitee=MALLORY)) == []
    assert bench.state is CallState.IDLE


def test_a_replayed_invite_is_ignored() -> None:
    for state in (CallState.ADMITTING, CallState.ANSWERING, CallState.CONNECTING, CallState.CONNECTED, CallState.ENDED):
        assert callee(state).hear(invite()) == []


def test_a_late_verdict_changes_nothing_after_the_caller_gave_up() -> None:
    bench = callee(CallState.ADMITTING)
    assert bench.hear(hangup()) == [CallEnded(CallOutcome.REMOTE_HANGUP, "user_hangup")]
    assert bench.feed(Admitted()) == []
    assert bench.feed(Refused(None)) == []


# A call is refused


@pytest.mark.parametrize(("reason", "shown"), [(None, "refused"), ("user_busy", "user_busy")])
def test_a_refused_invite_is_rejected_with_the_reason_as_given(reason: str | None, shown: str) -> None:
    bench = callee(CallState.ADMITTING)
    assert bench.feed(Refused(reason)) == [our_reject(reason), CallEnded(CallOutcome.REFUSED, shown)]


@pytest.mark.parametrize("state", [CallState.ADMITTING, CallState.ANSWERING])
def test_a_callee_that_has_not_answered_hangs_up_by_reject(state: CallState) -> None:
    close = [ClosePeer()] if state is CallState.ANSWERING else []
    ended = CallEnded(CallOutcome.LOCAL_HANGUP, "user_busy")
    assert callee(state).feed(HangUp("user_busy")) == [our_reject("user_busy"), *close, ended]


@pytest.mark.parametrize("state", [CallState.ADMITTING, CallState.ANSWERING])
def test_a_callee_that_may_be_called_again_rejects_as_busy_and_says_why(state: CallState) -> None:
    close = [ClosePeer()] if state is CallState.ANSWERING else []
    ended = CallEnded(CallOutcome.LOCAL_HANGUP, "user_hangup")
    assert callee(state).feed(HangUp(later="stopping")) == [our_reject("user_busy", "stopping"), *close, ended]


@pytest.mark.parametrize("event", [TransportFailed("internal_error"), SendFailed("homeserver")])
def test_an_answer_that_cannot_be_made_is_a_reject(event: TransportFailed | SendFailed) -> None:
    ended = CallEnded(CallOutcome.FAILED, event.reason)
    assert callee(CallState.ANSWERING).feed(event) == [our_reject("unknown_error"), ClosePeer(), ended]
    assert callee(CallState.ADMITTING).feed(event) == [our_reject("unknown_error"), ended]


def test_what_our_machine_lacks_is_told_as_busy_and_by_its_name() -> None:
    reject = Reject(CALL, PEER_PARTY, V1, "user_busy", "no_ports")
    expected = [SendCallEvent(reject, "reject"), ClosePeer(), CallEnded(CallOutcome.FAILED, "no_ports")]
    assert callee(CallState.ANSWERING).feed(TransportFailed("no_ports", lack="no_ports")) == expected


def test_an_answer_that_cannot_be_sent_is_a_reject_because_the_caller_would_ignore_a_hangup() -> None:
    expected = [our_reject("unknown_error"), ClosePeer(), CallEnded(CallOutcome.FAILED, "homeserver")]
    assert callee(CallState.CONNECTING).feed(SendFailed("homeserver")) == expected


# A call goes out


def test_a_caller_takes_the_first_answer_and_says_so() -> None:
    bench = Bench(CallRole.CALLER)
    assert bench.feed(PlaceCall()) == [CreateOffer()]
    our_invite = Invite(CALL, PEER_PARTY, V1, "our offer", CALL_LIFETIME_MS, USER)
    assert bench.feed(OfferReady("our offer")) == [SendCallEvent(our_invite, "invite")]
    assert bench.machine.remote_party is None
    expected = [our_select(USER_PARTY), ApplyAnswer(f"answer of {USER_PARTY}"), Connect()]
    assert bench.hear(answer()) == expected
    assert bench.hear(answer()) == []
    assert bench.hear(answer(OTHER_PARTY)) == []
    assert bench.feed(Connected()) == []
    assert bench.machine.remote_party == USER_PARTY
    assert bench.state is CallState.CONNECTED


def test_candidates_of_several_parties_wait_for_the_answer_and_only_those_of_its_party_count() -> None:
    bench = caller(CallState.INVITING)
    assert bench.hear(candidates(MAX_CANDIDATES - 1, OTHER_PARTY)) == []
    assert bench.hear(candidates(1)) == []
    assert bench.hear(answer())[-2:] == [taken(1), Connect()]
    assert bench.hear(candidates(1, OTHER_PARTY)) == []
    rest = candidates(MAX_CANDIDATES - 1, start=1)
    assert bench.hear(rest) == [taken(MAX_CANDIDATES - 1, start=1)], "lines of other parties count no more"
    assert bench.machine.counts == CallCounts(foreign_messages=1)


def test_a_party_that_is_not_the_other_side_takes_no_place_of_its_candidates() -> None:
    bench = caller(CallState.INVITING)
    for number in range(MAX_EARLY_PARTIES - 1):
        assert bench.hear(candidates(MAX_CANDIDATES, PartyId(f"other{number}"))) == []
    assert bench.hear(candidates(MAX_CANDIDATES)) == []
    assert bench.hear(candidates(1, PartyId("one-too-many"))) == []
    assert bench.machine.counts == CallCounts(
        dropped_candidates=1, waiting_candidates=MAX_EARLY_PARTIES * MAX_CANDIDATES
    )
    assert bench.hear(answer())[-2:] == [taken(MAX_CANDIDATES), Connect()]


@pytest.mark.parametrize("state", [CallState.ANSWERING, CallState.CONNECTED])
def test_candidates_that_are_of_no_use_cost_only_themselves(state: CallState) -> None:
    useless = [
        *(f"candidate:{i} 1 tcp 1518280447 192.0.2.1 {5000 + i} typ host tcptype active" for i in range(150)),
        *(f"candidate:{i} 1 udp 1 {i}5e7d0f7c.local 5000 typ host" for i in range(150)),
        *(f"candidate:{i} 1 udp 1 2001:db8::{i:x} 5000 typ host" for i in range(1, 65)),
        *("candidate:1 1 udp 0 192.0.2.1 5000 typ host", "candidate:1 1 udp 1 fe80::1%eth0 5000 typ host", "junk"),
    ]
    bench = callee(state)
    effects = bench.hear(replace(candidates(0), candidates=tuple(map(CandidateLine, useless))))
    effects += bench.hear(candidates(3))
    if state is CallState.ANSWERING:
        effects += bench.feed(AnswerReady("our answer"))
    passed = [one for effect in effects if isinstance(effect, AddCandidates) for one in effect.candidates]
    assert passed[64:] == list(taken(3).candidates)
    assert {one.address.version for one in passed[:64]} == {6}


def test_no_more_lines_are_looked_at_in_a_call_than_the_bound() -> None:
    bench = callee(CallState.CONNECTED)
    bench.hear(replace(candidates(0), candidates=(CandidateLine("junk"),) * (MAX_CANDIDATE_LINES - 1)))
    assert bench.hear(candidates(2)) == [taken(1)]


def test_a_reject_ends_the_call_for_all_devices() -> None:
    bench = caller(CallState.INVITING)
    expected = [our_select(OTHER_PARTY), ClosePeer(), CallEnded(CallOutcome.REJECTED, "user_busy")]
    assert bench.hear(reject(OTHER_PARTY, "user_busy")) == expected


def test_a_reject_without_a_reason_has_a_word_of_its_own() -> None:
    assert caller(CallState.INVITING).hear(reject())[-1] == CallEnded(CallOutcome.REJECTED, "rejected")


def test_a_reject_after_the_answer_is_too_late() -> None:
    for state in (CallState.CONNECTING, CallState.CONNECTED):
        assert caller(state).hear(reject()) == []


def test_a_callee_that_hangs_up_before_its_answer_was_taken_ends_the_call() -> None:
    expected = [ClosePeer(), CallEnded(CallOutcome.REMOTE_HANGUP, "user_busy")]
    assert caller(CallState.INVITING).hear(hangup(reason="user_busy")) == expected


def test_a_caller_hangs_up_before_the_answer() -> None:
    expected = [our_hangup("replaced"), ClosePeer(), CallEnded(CallOutcome.LOCAL_HANGUP, "replaced")]
    assert caller(CallState.INVITING).feed(HangUp("replaced")) == expected


@pytest.mark.parametrize("event", [HangUp("user_hangup"), TransportFailed("no_socket"), SendFailed("homeserver")])
def test_a_call_that_nobody_knows_of_ends_without_a_message(event: HangUp | TransportFailed | SendFailed) -> None:
    outcome = CallOutcome.LOCAL_HANGUP if isinstance(event, HangUp) else CallOutcome.FAILED
    assert caller(CallState.OFFERING).feed(event) == [ClosePeer(), CallEnded(outcome, event.reason)]
    for begin in AT.values():
        assert begin(CallState.IDLE).feed(event) == [CallEnded(outcome, event.reason)]


def test_an_invite_that_could_not_be_sent_is_hung_up_all_the_same() -> None:
    expected = [our_hangup("unknown_error"), ClosePeer(), CallEnded(CallOutcome.FAILED, "homeserver")]
    assert caller(CallState.INVITING).feed(SendFailed("homeserver")) == expected


def test_an_offer_that_was_made_too_late_is_not_sent() -> None:
    bench = caller(CallState.OFFERING)
    bench.feed(HangUp())
    assert bench.feed(OfferReady("our offer")) == []


# The remote side closes first


@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
@pytest.mark.parametrize("state", [CallState.CONNECTING, CallState.CONNECTED])
def test_a_remote_hangup_ends_the_call_without_an_answer(begin: type, state: CallState) -> None:
    bench = begin(state)
    assert bench.hear(hangup(reason="ice_failed")) == [ClosePeer(), CallEnded(CallOutcome.REMOTE_HANGUP, "ice_failed")]
    assert bench.hear(hangup()) == []


@pytest.mark.parametrize(
    ("role", "state"),
    [
        (role, state)
        for role in CallRole
        for state in TABLES[role]
        if state not in (CallState.IDLE, CallState.ADMITTING, CallState.ENDED)
    ],
)
def test_a_member_that_left_is_told_nothing(role: CallRole, state: CallState) -> None:
    assert AT[role](state).feed(MemberLeft()) == [ClosePeer(), CallEnded(CallOutcome.MEMBER_LEFT, "member_left")]


# The local side closes first


@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
@pytest.mark.parametrize("state", [CallState.CONNECTING, CallState.CONNECTED])
def test_a_local_hangup_is_sent_once(begin: type, state: CallState) -> None:
    bench = begin(state)
    expected = [our_hangup("user_hangup"), ClosePeer(), CallEnded(CallOutcome.LOCAL_HANGUP, "user_hangup")]
    assert bench.feed(HangUp()) == expected
    assert bench.feed(HangUp("unknown_error")) == []


@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
def test_nothing_is_sent_or_done_after_the_end(begin: type) -> None:
    bench = begin(CallState.ENDED)
    for sample in SAMPLES.values():
        assert bench.feed(Remote(USER, sample) if isinstance(sample, CallMessage) else sample) == []
    assert bench.wait(100_000) == []
    assert bench.machine.next_deadline() is None


# Errors and deadlines


@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
@pytest.mark.parametrize(
    ("state", "reason", "sent"),
    [
        (CallState.CONNECTING, "ice_failed", "ice_failed"),
        (CallState.CONNECTING, "ice_timeout", "ice_failed"),
        (CallState.CONNECTING, "dtls_failed", "unknown_error"),
        (CallState.CONNECTED, "consent_expired", "ice_timeout"),
        (CallState.CONNECTED, "ice_failed", "ice_timeout"),
    ],
)
def test_a_lost_transport_is_reported_in_the_words_of_the_specification(
    begin: type, state: CallState, reason: str, sent: str
) -> None:
    expected = [our_hangup(sent), ClosePeer(), CallEnded(CallOutcome.FAILED, reason)]
    assert begin(state).feed(TransportFailed(reason)) == expected


@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
def test_an_end_that_the_other_side_has_made_is_its_hang_up_and_no_failure(begin: type) -> None:
    expected = [our_hangup("user_hangup"), ClosePeer(), CallEnded(CallOutcome.REMOTE_HANGUP, "bye_done")]
    assert begin(CallState.CONNECTED).feed(TransportFailed("bye_done", by_peer=True)) == expected


@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
def test_a_homeserver_that_is_away_does_not_end_a_call_that_is_up(begin: type) -> None:
    bench = begin(CallState.CONNECTED)
    assert bench.feed(SendFailed("homeserver")) == []
    assert bench.state is CallState.CONNECTED


def test_a_selection_that_could_not_be_sent_does_not_end_the_call() -> None:
    assert caller(CallState.CONNECTING).feed(SendFailed("homeserver")) == []


@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
def test_a_connection_that_takes_too_long_is_hung_up(begin: type) -> None:
    bench = begin(CallState.CONNECTING)
    assert bench.wait(SETUP_TIMEOUT_S - 0.001) == []
    expected = [our_hangup("ice_failed"), ClosePeer(), CallEnded(CallOutcome.TIMED_OUT, "setup_timeout")]
    assert bench.wait(0.001) == expected


def test_an_invite_that_nobody_answers_is_hung_up_when_its_lifetime_is_over() -> None:
    bench = caller(CallState.INVITING)
    assert bench.wait(CALL_LIFETIME_MS / 1000 - 0.001) == []
    expected = [our_hangup("invite_timeout"), ClosePeer(), CallEnded(CallOutcome.TIMED_OUT, "invite_timeout")]
    assert bench.wait(0.001) == expected


def test_an_offer_that_takes_too_long_ends_the_call_unseen() -> None:
    expected = [ClosePeer(), CallEnded(CallOutcome.TIMED_OUT, "setup_timeout")]
    assert caller(CallState.OFFERING).wait(SETUP_TIMEOUT_S) == expected


@pytest.mark.parametrize(("lifetime_ms", "waits_s"), [(10_000, 10), (60_000, 60), (120_000, CALL_LIFETIME_MS / 1000)])
def test_an_invite_expires_by_its_own_lifetime_or_by_ours(lifetime_ms: int, waits_s: float) -> None:
    """Its caller has given up by then, so nothing is sent; the time is not extended by the checks."""
    bench = Bench(CallRole.CALLEE)
    bench.hear(invite(lifetime_ms=lifetime_ms))
    assert bench.wait(waits_s - 1) == []
    assert bench.feed(Admitted()) == [CreateAnswer("offer of the user")]
    assert bench.wait(1) == [ClosePeer(), CallEnded(CallOutcome.TIMED_OUT, "invite_timeout")]


def test_a_deadline_that_has_come_goes_before_the_event_that_came_too_late() -> None:
    bench = caller(CallState.INVITING)
    bench.now += CALL_LIFETIME_MS / 1000
    assert bench.hear(answer()) == [
        our_hangup("invite_timeout"),
        ClosePeer(),
        CallEnded(CallOutcome.TIMED_OUT, "invite_timeout"),
    ]


def test_the_set_up_time_is_configurable() -> None:
    bench = Bench(CallRole.CALLEE, setup_timeout_s=5.0, lifetime_ms=15_000)
    bench.hear(invite())
    assert bench.machine.next_deadline() == bench.now + 15
    bench.feed(Admitted())
    bench.feed(AnswerReady("our answer"))
    assert bench.machine.next_deadline() == bench.now + 5


def test_a_mistake_of_our_own_side_is_an_error_and_changes_nothing() -> None:
    bench = callee(CallState.CONNECTED)
    with pytest.raises(StateError, match="PlaceCall is not possible for a callee in CONNECTED"):
        bench.machine.handle(bench.now, PlaceCall())
    assert bench.machine.poll_effect() is None
    assert bench.state is CallState.CONNECTED


# Foreign users, foreign parties, limits


def foreign(message: CallMessage, how: str) -> Remote:
    if how == "user":
        return Remote(MALLORY, message)
    if how == "echo":
        return Remote(PEER, message)
    if how == "call":
        return Remote(USER, replace(message, call_id=CallId("call-2")))
    other = None if how == "version 0" else OTHER_PARTY
    return Remote(USER, replace(message, party_id=other))


MESSAGES = [invite(), answer(), candidates(1), select(OTHER_PARTY), reject(), hangup(), negotiate()]


@pytest.mark.parametrize("how", ["user", "echo", "call", "party", "version 0"])
@pytest.mark.parametrize("begin", AT.values(), ids=lambda begin: begin.__name__)
@pytest.mark.parametrize("state", [CallState.CONNECTING, CallState.CONNECTED])
def test_messages_of_anybody_else_change_nothing(begin: type, state: CallState, how: str) -> None:
    bench = begin(state)
    for message in MESSAGES:
        assert bench.feed(foreign(message, how)) == []
    assert bench.state is state
    assert bench.machine.counts.foreign_messages == len(MESSAGES)


@pytest.mark.parametrize("how", ["user", "echo", "call"])
def test_an_unanswered_call_can_be_answered_or_ended_only_by_the_user_that_was_called(how: str) -> None:
    bench = caller(CallState.INVITING)
    for message in MESSAGES:
        assert bench.feed(foreign(message, how)) == []
    assert bench.state is CallState.INVITING


@pytest.mark.parametrize("how", ["user", "echo", "call", "party", "version 0"])
def test_an_invite_in_admission_can_be_withdrawn_only_by_its_own_party(how: str) -> None:
    bench = callee(CallState.ADMITTING)
    for message in MESSAGES:
        assert bench.feed(foreign(message, how)) == []
    assert bench.state is CallState.ADMITTING


def test_a_user_cannot_call_itself() -> None:
    with pytest.raises(StateError, match=r"@alice:example\.org cannot call itself"):
        CallMachine(
            CallRole.CALLER, call_id=CALL, local=USER, party_id=USER_PARTY, remote=USER, addresses=AddressPolicy()
        )


@pytest.mark.parametrize("count", [MAX_CANDIDATES - 1, MAX_CANDIDATES, MAX_CANDIDATES + 1])
@pytest.mark.parametrize("early", [True, False])
def test_no_more_candidates_are_taken_in_a_call_than_the_bound(count: int, early: bool) -> None:
    bench = callee(CallState.ANSWERING)
    if not early:
        bench.feed(AnswerReady("our answer"))
    effects = [effect for i in range(count) for effect in bench.hear(candidates(1, start=i))]
    if early:
        effects += bench.feed(AnswerReady("our answer"))
    passed = [one for effect in effects if isinstance(effect, AddCandidates) for one in effect.candidates]
    assert passed == list(taken(min(count, MAX_CANDIDATES)).candidates)
    assert bench.machine.counts.dropped_candidates == max(0, count - MAX_CANDIDATES)


def test_a_batch_across_the_bound_is_cut() -> None:
    bench = callee(CallState.CONNECTED)
    bench.hear(candidates(MAX_CANDIDATES - 1))
    assert bench.hear(candidates(3, start=70)) == [taken(1, start=70)]
    assert bench.hear(candidates(1, start=80)) == []
    assert bench.machine.counts == CallCounts(dropped_candidates=3)


def test_a_negotiation_is_counted_and_leaves_the_call_as_it_is() -> None:
    bench = callee(CallState.CONNECTED)
    assert [bench.hear(negotiate()) for _ in range(3)] == [[], [], []]
    assert bench.machine.counts == CallCounts(ignored_negotiates=3)


# Version 0


def test_a_version_0_caller_is_answered_in_version_0() -> None:
    bench = Bench(CallRole.CALLEE)
    assert bench.hear(invite(V0)) == [Admit(invite(V0))]
    bench.feed(Admitted())
    assert bench.feed(AnswerReady("our answer")) == [
        SendCallEvent(Answer(CALL, None, V0, "our answer"), "answer"),
        Connect(),
    ]
    assert bench.hear(candidates(1, version=V0)) == [taken(1)]
    assert bench.hear(hangup(version=V0)) == [ClosePeer(), CallEnded(CallOutcome.REMOTE_HANGUP, "user_hangup")]
    assert bench.machine.remote_party is None


@pytest.mark.parametrize(("reason", "sent"), [(None, "user_hangup"), ("user_busy", "user_busy")])
def test_a_version_0_caller_is_refused_by_a_hangup(reason: str | None, sent: str) -> None:
    effects = callee(CallState.ADMITTING, V0).feed(Refused(reason))
    assert effects == [
        SendCallEvent(Hangup(CALL, None, V0, sent), "hangup"),
        CallEnded(CallOutcome.REFUSED, reason or "refused"),
    ]


def test_a_version_0_answer_to_our_invite_is_taken_without_a_selection() -> None:
    bench = caller(CallState.INVITING)
    assert bench.hear(candidates(1, version=V0)) == []
    expected = [ApplyAnswer(f"answer of {USER_PARTY}"), taken(1), Connect()]
    assert bench.hear(answer(version=V0)) == expected
    hung_up = SendCallEvent(Hangup(CALL, None, V0, "user_hangup"), "hangup")
    assert bench.feed(HangUp()) == [hung_up, ClosePeer(), CallEnded(CallOutcome.LOCAL_HANGUP, "user_hangup")]


def test_a_version_0_refusal_of_our_invite_is_a_hangup() -> None:
    expected = [ClosePeer(), CallEnded(CallOutcome.REMOTE_HANGUP, "user_hangup")]
    assert caller(CallState.INVITING).hear(hangup(version=V0)) == expected
