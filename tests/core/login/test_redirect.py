"""What a browser brings back counts only as the answer to our own question."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import LoginError
from mxrtc_bridge.core.login.redirect import (
    MAX_FIELDS,
    MAX_TARGET_CHARS,
    PATH,
    OtherRedirectError,
    authorization_address,
    challenge_of,
    code_of,
    login_token_of,
    scope_of,
    sso_address,
    sso_redirect,
)
from mxrtc_bridge.core.login.server import AuthorizationServer
from tests.long import examples

STATE = "s" * 43
ISSUER = "https://auth.example.org/"
SERVER = AuthorizationServer(ISSUER, f"{ISSUER}token", f"{ISSUER}register", f"{ISSUER}authorize?tenant=1")


def target(**fields: str) -> str:
    return f"{PATH}?{urlencode(fields)}"


def test_challenge_is_that_of_the_specification() -> None:
    """RFC 7636, appendix B."""
    assert challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_browser_is_sent_with_all_that_the_server_must_know_and_no_secret() -> None:
    address = authorization_address(
        SERVER,
        client_id="id",
        redirect="http://127.0.0.1:7/callback",
        scope=scope_of("DEV"),
        state=STATE,
        verifier="v" * 43,
    )
    assert address.startswith(f"{ISSUER}authorize?tenant=1&")
    assert "v" * 43 not in address
    assert parse_qs(urlsplit(address).query) == {
        "tenant": ["1"],
        "response_type": ["code"],
        "response_mode": ["query"],
        "client_id": ["id"],
        "redirect_uri": ["http://127.0.0.1:7/callback"],
        "scope": ["urn:matrix:client:api:* urn:matrix:client:device:DEV"],
        "state": [STATE],
        "code_challenge": [challenge_of("v" * 43)],
        "code_challenge_method": ["S256"],
    }


def test_single_sign_on_comes_back_with_our_state() -> None:
    back = sso_redirect("http://127.0.0.1:7/callback", STATE)
    address = sso_address("https://example.org/", back)
    assert address.startswith("https://example.org/_matrix/client/v3/login/sso/redirect?redirectUrl=")
    assert parse_qs(urlsplit(address).query) == {"redirectUrl": [f"http://127.0.0.1:7/callback?state={STATE}"]}
    assert login_token_of(target(state=STATE, loginToken="t"), state=STATE) == "t"


@pytest.mark.parametrize("fields", [{}, {"iss": ISSUER}])
def test_code_is_taken(fields: dict[str, str]) -> None:
    assert code_of(target(code="c", state=STATE, **fields), state=STATE, issuer=ISSUER) == "c"


@pytest.mark.parametrize(
    "other",
    [
        target(code="c"),
        target(code="c", state=""),
        target(code="c", state=STATE[:-1]),
        target(code="c", state=STATE + "x"),
        target(code="c", state="ä"),
        target(error="access_denied"),
        target(error="access_denied", state="x"),
        target(state=STATE),
        target(code="", state=STATE),
        target(code="a\r\nb", state=STATE),
        target(code="c", state=STATE, iss="https://evil.test/"),
        target(code="c", state=STATE, iss=ISSUER.rstrip("/")),
        target(code="c", state=STATE) + "&code=d",
        target(code="c", state=STATE) + f"&state={STATE}",
        target(code="c", state=STATE).replace(PATH, "/other"),
        target(code="c", state=STATE).replace(PATH, f"{PATH}/"),
        target(code="c" * MAX_TARGET_CHARS, state=STATE),
        target(code="c", state=STATE) + "&x" * MAX_FIELDS,
        "",
        "/",
        "//[",
        "/favicon.ico",
    ],
)
def test_what_is_not_the_answer_to_our_question_is_told_apart(other: str) -> None:
    with pytest.raises(OtherRedirectError):
        code_of(other, state=STATE, issuer=ISSUER)
    with pytest.raises(OtherRedirectError):
        login_token_of(other.replace("code=", "loginToken=").replace("iss=https", "x="), state=STATE + "y")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"error": "access_denied", "error_description": "x"}, "^the login was refused in the browser$"),
        ({"error": "server_error", "error_description": "full\x1b moon"}, "does not let us log in: full\ufffd moon$"),
        ({"error": "odd"}, "does not let us log in: odd$"),
        ({"error": "odd", "error_description": "x" * 9000}, None),
    ],
)
def test_refusal_is_the_end_in_the_words_of_the_server(fields: dict[str, str], why: str | None) -> None:
    kind = OtherRedirectError if why is None else LoginError
    with pytest.raises(kind, match=why or ".") as caught:
        code_of(target(state=STATE, **fields), state=STATE, issuer=ISSUER)
    assert isinstance(caught.value, OtherRedirectError) is (why is None)


@settings(max_examples=examples(200))
@given(st.text(max_size=80), st.text(max_size=20))
def test_whatever_is_brought_is_another_thing(text: str, name: str) -> None:
    for brought in (text, f"{PATH}?{text}", target(**{name: text, "code": "c"})):
        with pytest.raises(OtherRedirectError):
            code_of(brought, state=STATE, issuer=ISSUER)


def test_server_that_always_names_itself_has_sent_nothing_that_does_not() -> None:
    """RFC 9207, section 2.4."""
    with pytest.raises(OtherRedirectError, match="another authorization server"):
        code_of(target(code="c", state=STATE), state=STATE, issuer=ISSUER, names_itself=True)
    assert code_of(target(code="c", state=STATE, iss=ISSUER), state=STATE, issuer=ISSUER, names_itself=True) == "c"
