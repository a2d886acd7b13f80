"""The life of a request: who may answer it, how often, and how many there may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.requests import (
    AccessRequest,
    Decision,
    RequestLimits,
    RequestRefused,
    RequestState,
    answer_of,
    ask,
    decide,
    expired,
    said,
    withdraw,
)
from mxrtc_bridge.core.ids import LocalAdmin, RoomId, ServiceName, UserId

ALICE, BOB, ADMIN = UserId("@alice:example.org"), UserId("@bob:example.org"), UserId("@admin:example.org")
BUILD = UserId("@rtc_build:example.org")
NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
LIMITS = RequestLimits()
ENDED = [state for state in RequestState if state is not RequestState.ASKED]


def request(number: int = 0, user: UserId = ALICE, service: str = "ssh", asked_ms: int = NOW) -> AccessRequest:
    return AccessRequest(number, user, BUILD, ServiceName(service), 7200, "why", RoomId("!r:example.org"), asked_ms)


def ended(state: RequestState, **changes: int) -> AccessRequest:
    return replace(request(7, **changes), state=state, decided_by=ADMIN, decided_ms=NOW)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Decision.ALLOW, RequestState.ALLOWED),
        (Decision.ALLOW_ONCE, RequestState.ALLOWED_ONCE),
        (Decision.DENY, RequestState.DENIED),
    ],
)
def test_an_admins_answer_ends_the_request_and_is_signed(answer: Decision, state: RequestState) -> None:
    asked = request(7)
    decided = decide(asked, answer, ADMIN, NOW + 1, admins={ADMIN}, limits=LIMITS)
    assert decided == replace(asked, state=state, decided_by=ADMIN, decided_ms=NOW + 1)


def test_an_admin_answers_however_the_server_is_written() -> None:
    by = UserId(ADMIN.replace("example.org", "Example.ORG"))
    assert isinstance(decide(request(7), Decision.DENY, by, NOW, admins={ADMIN}, limits=LIMITS), AccessRequest)


def test_whoever_is_at_the_machine_answers_as_an_admin_does() -> None:
    root = LocalAdmin("root")
    decided = decide(request(7), Decision.DENY, root, NOW, admins=set(), limits=LIMITS)
    assert decided == replace(request(7), state=RequestState.DENIED, decided_by=root, decided_ms=NOW)
    assert said(decided) == "was denied by local:root"


def test_a_user_who_is_called_like_it_is_not_at_the_machine() -> None:
    refused = decide(request(7), Decision.ALLOW, UserId("local:root"), NOW, admins={ADMIN}, limits=LIMITS)
    assert refused == RequestRefused("Only admins answer requests.")


@pytest.mark.parametrize("answer", Decision)
@pytest.mark.parametrize("user", [ALICE, BOB, BUILD])
def test_nobody_but_an_admin_answers(user: UserId, answer: Decision) -> None:
    assert decide(request(7), answer, user, NOW, admins={ADMIN}, limits=LIMITS) == RequestRefused(
        "Only admins answer requests."
    )


@pytest.mark.parametrize("answer", Decision)
@pytest.mark.parametrize("state", ENDED)
def test_an_ended_request_is_not_answered_again(state: RequestState, answer: Decision) -> None:
    refused = decide(ended(state), answer, ADMIN, NOW, admins={ADMIN}, limits=LIMITS)
    assert isinstance(refused, RequestRefused)
    assert "already" in refused.reason


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_request_is_neither_withdrawn_nor_expired(state: RequestState) -> None:
    assert isinstance(withdraw(ended(state), ALICE, NOW), RequestRefused)
    assert expired(ended(state), NOW + 10 * DAY, LIMITS) is None


def test_only_the_one_who_asked_withdraws() -> None:
    assert withdraw(request(7), BOB, NOW) == RequestRefused("You have no request 7; status lists those that you have.")
    taken = withdraw(request(7), ALICE, NOW)
    assert isinstance(taken, AccessRequest)
    assert taken.state is RequestState.WITHDRAWN


def test_a_request_expires_at_its_time_and_is_not_answered_from_then_on() -> None:
    asked = request(7)
    end = NOW + LIMITS.answer_within_ms
    assert expired(asked, end - 1, LIMITS) is None
    late = expired(asked, end, LIMITS)
    assert late is not None
    assert late.state is RequestState.EXPIRED
    assert isinstance(decide(asked, Decision.ALLOW, ADMIN, end - 1, admins={ADMIN}, limits=LIMITS), AccessRequest)
    assert isinstance(decide(asked, Decision.ALLOW, ADMIN, end, admins={ADMIN}, limits=LIMITS), RequestRefused)


def test_a_first_request_is_taken() -> None:
    assert ask(request(), [], 0, LIMITS) == request()


def test_the_same_service_is_asked_for_once_at_a_time() -> None:
    refused = ask(request(), [request(3)], 1, LIMITS)
    assert refused == RequestRefused("You have asked for this already: request 3 waits for an answer.")
    assert isinstance(ask(request(), [request(3, service="db")], 1, LIMITS), AccessRequest)
    assert isinstance(ask(request(), [request(3, user=BOB)], 1, LIMITS), AccessRequest)


def test_after_a_refusal_there_is_a_pause() -> None:
    denied = replace(request(3, asked_ms=NOW - DAY), state=RequestState.DENIED, decided_by=ADMIN, decided_ms=NOW)
    wait = LIMITS.cool_down_ms
    refused = ask(request(asked_ms=NOW + wait - 1), [denied], 0, LIMITS)
    assert refused == RequestRefused("This was denied a short while ago; ask again in 1s.")
    assert isinstance(ask(request(asked_ms=NOW + wait), [denied], 0, LIMITS), AccessRequest)
    assert isinstance(ask(request(service="db", asked_ms=NOW + 1), [denied], 0, LIMITS), AccessRequest)


def test_a_clock_that_was_set_back_makes_nobody_wait_for_ever() -> None:
    denied = replace(request(3), state=RequestState.DENIED, decided_by=ADMIN, decided_ms=NOW + 365 * DAY)
    assert isinstance(ask(request(), [denied], 0, LIMITS), AccessRequest)


@pytest.mark.parametrize("count", [LIMITS.open_per_user - 1, LIMITS.open_per_user])
def test_open_requests_of_a_user_are_limited(count: int) -> None:
    waiting = [request(n, service=f"s{n}") for n in range(count)]
    assert isinstance(ask(request(), waiting, count, LIMITS), RequestRefused) == (count >= LIMITS.open_per_user)


@pytest.mark.parametrize("count", [LIMITS.open_total - 1, LIMITS.open_total])
def test_open_requests_are_limited_in_total(count: int) -> None:
    assert isinstance(ask(request(), [], count, LIMITS), RequestRefused) == (count >= LIMITS.open_total)


@pytest.mark.parametrize("count", [LIMITS.per_day - 1, LIMITS.per_day])
def test_requests_of_a_day_are_limited(count: int) -> None:
    earlier = [replace(request(n, asked_ms=NOW - DAY + 1), state=RequestState.WITHDRAWN) for n in range(count)]
    assert isinstance(ask(request(), earlier, 0, LIMITS), RequestRefused) == (count >= LIMITS.per_day)
    older = [replace(item, asked_ms=NOW - DAY) for item in earlier]
    assert isinstance(ask(request(), older, 0, LIMITS), AccessRequest)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("\u2705", Decision.ALLOW),
        ("\u2705\ufe0f", Decision.ALLOW),
        ("1\ufe0f\u20e3", Decision.ALLOW_ONCE),
        ("1\u20e3", Decision.ALLOW_ONCE),
        ("\u274c", Decision.DENY),
        ("\u274c\ufe0f", Decision.DENY),
        ("\U0001f44d", None),
        ("1", None),
        ("", None),
        ("\u2705" * 100, None),
        (None, None),
        ({}, None),
    ],
)
def test_reaction_is_read(key: object, answer: Decision | None) -> None:
    assert answer_of(key) is answer


def test_what_became_of_a_request_is_said_with_the_name_of_who_decided() -> None:
    assert said(ended(RequestState.DENIED)) == "was denied by @admin:example.org"
    assert said(request(1)) == "waits for an answer"


STEP = st.tuples(
    st.sampled_from(["decide", "withdraw", "expire"]),
    st.sampled_from([ALICE, BOB, ADMIN]),
    st.sampled_from(Decision),
    st.integers(0, 2 * DAY),
)


@given(st.lists(STEP, max_size=12))
def test_a_request_ends_at_most_once_whatever_happens(steps: list[tuple[str, UserId, Decision, int]]) -> None:
    current, ends = request(7), 0
    for what, who, answer, after in steps:
        now = NOW + after
        result: AccessRequest | RequestRefused | None
        if what == "decide":
            result = decide(current, answer, who, now, admins={ADMIN}, limits=LIMITS)
        elif what == "withdraw":
            result = withdraw(current, who, now)
        else:
            result = expired(current, now, LIMITS)
        if isinstance(result, AccessRequest):
            ends += 1
            current = result
            if current.state in (RequestState.ALLOWED, RequestState.ALLOWED_ONCE):
                assert current.decided_by == ADMIN
    assert ends <= 1
    assert (ends == 0) == current.is_open
