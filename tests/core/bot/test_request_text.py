"""What people are told about their requests is what the program reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.requests import AccessRequest, Decision, RequestState
from mxrtc_bridge.core.bot.request_text import asked_words, decided_words, read_asked, read_decided, unanswered_words
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId

ADMIN = UserId("@admin:example.org")
REQUEST = AccessRequest(
    17, UserId("@a:b"), UserId("@rtc_build:b"), ServiceName("ssh"), 7200, "", RoomId("!r:b"), 0, decided_by=ADMIN
)


@pytest.mark.parametrize(
    ("answer", "state", "text", "read"),
    [
        (Decision.ALLOW, RequestState.ALLOWED, "was allowed for 2h. so be it", RequestState.ALLOWED),
        (
            Decision.ALLOW_ONCE,
            RequestState.ALLOWED_ONCE,
            "was allowed once, for one session within 2h. so be it",
            RequestState.ALLOWED,
        ),
        (Decision.DENY, RequestState.DENIED, "was denied. so be it", RequestState.DENIED),
    ],
)
def test_a_decision_is_read_as_it_was_meant(
    answer: Decision, state: RequestState, text: str, read: RequestState
) -> None:
    said = decided_words(replace(REQUEST, state=state), "build/ssh", answer, 7200, "so be it")
    assert said == f"Your request 17 for build/ssh {text}"
    assert read_decided(said, 17) is read
    assert read_decided(said, 18) is None
    assert read_asked(said) is None


def test_a_taken_request_and_one_that_nobody_answers() -> None:
    assert read_asked(asked_words(17)) == 17
    assert read_decided(asked_words(17), 17) is None
    assert read_decided(unanswered_words(REQUEST, "build/ssh"), 17) is RequestState.EXPIRED
    assert read_decided(unanswered_words(REQUEST, "build/ssh"), 1) is None


@given(st.text(max_size=80))
def test_other_texts_are_no_decision(text: str) -> None:
    assert read_asked(text) is None
    assert read_decided(text, 17) is None
    # Nor what an admin writes behind a refusal.
    said = decided_words(replace(REQUEST, state=RequestState.DENIED), "build/ssh", Decision.DENY, 1, text)
    assert read_decided(said, 17) is RequestState.DENIED
