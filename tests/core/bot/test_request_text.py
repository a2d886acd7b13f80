"""What people are told about their requests, and the field by which a program knows the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.requests import AccessRequest, Decision, RequestState
from mxrtc_bridge.core.bot.request_text import (
    ALREADY,
    FIELD,
    MAX_NUMBER,
    RequestStatus,
    decided_words,
    read_status,
    status_fields,
)
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId

ADMIN = UserId("@admin:example.org")
REQUEST = AccessRequest(
    17, UserId("@a:b"), UserId("@rtc_build:b"), ServiceName("ssh"), 7200, "", RoomId("!r:b"), 0, decided_by=ADMIN
)


@pytest.mark.parametrize(
    ("answer", "state", "text"),
    [
        (Decision.ALLOW, RequestState.ALLOWED, "was allowed for 2h. so be it"),
        (Decision.ALLOW_ONCE, RequestState.ALLOWED_ONCE, "was allowed once, for one session within 2h. so be it"),
        (Decision.DENY, RequestState.DENIED, "was denied. so be it"),
    ],
)
def test_a_decision_in_words(answer: Decision, state: RequestState, text: str) -> None:
    said = decided_words(replace(REQUEST, state=state), "build/ssh", answer, 7200, "so be it")
    assert said == f"Your request 17 for build/ssh {text}"


@pytest.mark.parametrize(
    ("state", "name", "read"),
    [
        (RequestState.ASKED, "open", RequestState.ASKED),
        (RequestState.ALLOWED, "allowed", RequestState.ALLOWED),
        (RequestState.ALLOWED_ONCE, "allowed", RequestState.ALLOWED),
        (RequestState.DENIED, "denied", RequestState.DENIED),
        (RequestState.EXPIRED, "expired", RequestState.EXPIRED),
        (RequestState.WITHDRAWN, "withdrawn", RequestState.WITHDRAWN),
    ],
)
def test_every_state_has_a_name_that_is_read_again(state: RequestState, name: str, read: RequestState) -> None:
    fields = status_fields(RequestStatus(state, 17))
    assert fields == {FIELD: {"number": 17, "state": name}}
    assert read_status(json.loads(json.dumps(fields))) == RequestStatus(read, 17)


def test_a_right_that_is_there_already_has_no_number() -> None:
    assert ALREADY.fields == {FIELD: {"state": "allowed"}}
    assert read_status(ALREADY.fields) == RequestStatus(RequestState.ALLOWED, None)


def test_keys_of_later_versions_are_ignored() -> None:
    assert read_status({FIELD: {"number": 1, "state": "open", "more": []}}) == RequestStatus(RequestState.ASKED, 1)


@pytest.mark.parametrize(
    "value",
    [
        None, 1, "allowed", [], {}, {"number": 1}, {"state": "open"}, {"state": "denied"},
        {"number": 1, "state": "ALLOWED"},
        {"number": 1, "state": "allowed_once"}, {"number": 1, "state": ["allowed"]},
        {"number": True, "state": "allowed"},
        {"number": 1.0, "state": "allowed"}, {"number": "1", "state": "allowed"}, {"number": None, "state": "allowed"},
        {"number": 0, "state": "allowed"}, {"number": -1, "state": "allowed"},
        {"number": MAX_NUMBER + 1, "state": "allowed"},
    ],
)  # fmt: skip
def test_a_field_that_is_not_as_it_must_be_tells_nothing(value: Any) -> None:
    assert read_status({FIELD: value}) is None


@given(st.text(max_size=80))
def test_no_text_is_a_decision(text: str) -> None:
    assert read_status({"body": text}) is None
    assert read_status({"body": "Your request 17 for build/ssh was allowed."}) is None
