"""Answers of an authorization server: bounded, of use, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import LoginError
from mxrtc_bridge.core.login.answers import (
    LONGEST_INTERVAL_S,
    MAX_CODE_CHARS,
    MAX_DEVICE_CODE_S,
    MAX_ID_CHARS,
    MAX_TOKEN_CHARS,
    Tokens,
    next_interval_s,
    read_client_id,
    read_device_code,
    read_tokens,
)
from tests.core.login.test_server import JSON
from tests.long import examples

CODE: dict[str, object] = {
    "device_code": "d" * 32,
    "user_code": "ZGTR-KLDV",
    "verification_uri": "https://auth.example.org/link",
    "verification_uri_complete": "https://auth.example.org/link?code=ZGTR-KLDV",
    "expires_in": 1200,
    "interval": 7,
}
TOKENS: dict[str, object] = {
    "access_token": "access",
    "refresh_token": "refresh",
    "token_type": "Bearer",
    "expires_in": 300,
    "scope": "b a",
}


def test_code_is_read_as_it_is_typed() -> None:
    code = read_device_code(CODE, loopback=False)
    assert (code.user_code, code.expires_s, code.interval_s) == ("ZGTR-KLDV", 1200.0, 7.0)
    assert code.complete_address == CODE["verification_uri_complete"]
    assert "d" * 32 not in repr(code)


@pytest.mark.parametrize(
    ("key", "value", "expires_s", "interval_s"),
    [
        ("interval", None, 1200.0, 5.0),
        ("interval", 0, 1200.0, 5.0),
        ("interval", -1, 1200.0, 5.0),
        ("interval", True, 1200.0, 5.0),
        ("interval", 1e6, 1200.0, LONGEST_INTERVAL_S),
        ("interval", "5", 1200.0, 5.0),
        ("expires_in", None, MAX_DEVICE_CODE_S, 7.0),
        ("expires_in", 1e300, MAX_DEVICE_CODE_S, 7.0),
        ("expires_in", 1, 1.0, 7.0),
    ],
)
def test_times_are_bounded_and_have_usual_values(key: str, value: object, expires_s: float, interval_s: float) -> None:
    code = read_device_code({**CODE, key: value}, loopback=False)
    assert (code.expires_s, code.interval_s) == (expires_s, interval_s)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("user_code", value) for value in (None, 1, "", "x" * (MAX_CODE_CHARS + 1), "a\x1b[2J", "a\nb", "a\u202eb")),
        *(("device_code", value) for value in (None, 1, "", "x" * (MAX_TOKEN_CHARS + 1), "ä", "a\n")),
        *(("verification_uri", value) for value in (None, "http://auth.example.org/", "x")),
        ("verification_uri_complete", "javascript:alert(1)"),
    ],
)
def test_code_that_cannot_be_shown_or_used_is_refused(key: str, value: object) -> None:
    with pytest.raises(LoginError):
        read_device_code({**CODE, key: value}, loopback=False)


def test_tokens_are_read_and_in_no_text() -> None:
    tokens = read_tokens(TOKENS, scope="a b")
    assert tokens == Tokens("access", "refresh", 300.0)
    assert "access'" not in repr(tokens)
    assert "refresh'" not in repr(tokens)
    few = read_tokens({"access_token": "x", "token_type": "bearer"}, scope="a b")
    assert few == Tokens("x", "", None)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("token_type", None, "of a kind that is not known"),
        ("token_type", "mac", "of a kind that is not known"),
        ("scope", "a", "may do less"),
        ("scope", "", "may do less"),
        ("access_token", None, "no access_token"),
        ("access_token", "x" * (MAX_TOKEN_CHARS + 1), "no access_token"),
        ("access_token", "a\r\nX: y", "no access_token"),
        ("refresh_token", "", "no refresh_token"),
        ("refresh_token", 7, "no refresh_token"),
    ],
)
def test_token_that_is_of_no_use_is_refused(key: str, value: object, why: str) -> None:
    with pytest.raises(LoginError, match=why):
        read_tokens({**TOKENS, key: value}, scope="a b")


def test_id_is_bounded() -> None:
    assert read_client_id({"client_id": "x" * MAX_ID_CHARS}) == "x" * MAX_ID_CHARS
    for value in (None, 1, "", "x" * (MAX_ID_CHARS + 1), "a\0"):
        with pytest.raises(LoginError, match="no client_id"):
            read_client_id({"client_id": value})


def test_interval_stays_and_grows_and_the_rest_is_the_end() -> None:
    assert next_interval_s("authorization_pending", 5.0) == 5.0
    assert next_interval_s("slow_down", 5.0) == 10.0
    assert next_interval_s("slow_down", LONGEST_INTERVAL_S) == LONGEST_INTERVAL_S
    for error, why in (
        ("access_denied", "was refused"),
        ("expired_token", "has expired"),
        ("invalid_grant", "expired"),
    ):
        with pytest.raises(LoginError, match=why):
            next_interval_s(error, 5.0)
    with pytest.raises(LoginError, match="does not let us log in: odd\ufffd"):
        next_interval_s("odd\x1b", 5.0)


@settings(max_examples=examples(100))
@given(st.dictionaries(st.sampled_from(sorted({*CODE, *TOKENS, "client_id"})), JSON))
def test_whatever_is_answered_is_read_or_refused(answer: dict[str, object]) -> None:
    for read in (
        lambda: read_device_code({**CODE, **answer}, loopback=False),
        lambda: read_tokens({**TOKENS, **answer}, scope="a"),
        lambda: read_client_id(answer),
    ):
        try:
            read()
        except LoginError:
            continue
