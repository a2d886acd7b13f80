"""Logging in by a browser on this machine: where it is sent, and what comes back to the port that we listen on.

Anybody who gets the browser to open an address can send something to that port: another page, another program. So what
comes back counts only with the ``state`` that this login has drawn, and a code is of use only to whoever has the
verifier behind its challenge (RFC 7636).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

from mxrtc_bridge.core.errors import LoginError
from mxrtc_bridge.core.login.server import AuthorizationServer
from mxrtc_bridge.core.text.display import presentable

API_SCOPE = "urn:matrix:client:api:*"
DEVICE_SCOPE = "urn:matrix:client:device:"
PATH = "/callback"
MAX_TARGET_CHARS = 8192
MAX_FIELDS = 32
_MAX_WORDS = 200


class OtherRedirectError(LoginError):
    """What came is not the answer to our question: whoever has sent it is refused, and ours is still waited for."""


def scope_of(device: str) -> str:
    """What we ask for: the client-server API, as this device."""
    return f"{API_SCOPE} {DEVICE_SCOPE}{device}"


def challenge_of(verifier: str) -> str:
    """The challenge of a verifier, by the method S256 (RFC 7636, section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()


def authorization_address(
    server: AuthorizationServer, *, client_id: str, redirect: str, scope: str, state: str, verifier: str
) -> str:
    """Where the browser is sent (RFC 6749, section 4.1.1)."""
    return _with_query(
        server.authorization_endpoint,
        {
            "response_type": "code",
            "response_mode": "query",
            "client_id": client_id,
            "redirect_uri": redirect,
            "scope": scope,
            "state": state,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        },
    )


def code_of(target: str, *, state: str, issuer: str, names_itself: bool = False) -> str:
    """The authorization code that the browser brings.

    Args:
        target: of the request that came.
        state: what we have drawn for this login.
        issuer: who must have sent it, if it says who (RFC 9207).
        names_itself: whether it must say who has sent it.

    Raises:
        OtherRedirectError: it is not the answer to our question.
        LoginError: the server has refused; says why.
    """
    fields = _fields(target)
    _check_state(fields, state)
    if fields.get("iss", "" if names_itself else issuer) != issuer:
        raise OtherRedirectError("the answer comes from another authorization server than the one that was asked")
    if "error" in fields:
        words = fields.get("error_description") or fields["error"]
        if fields["error"] == "access_denied":
            raise LoginError("the login was refused in the browser")
        raise LoginError(f"the authorization server does not let us log in: {presentable(words[:_MAX_WORDS])}")
    return _needed(fields, "code")


def sso_address(homeserver: str, redirect: str) -> str:
    """Where the browser is sent for single sign-on of before OAuth (client-server API, "SSO client login")."""
    return f"{homeserver.rstrip('/')}/_matrix/client/v3/login/sso/redirect?{urlencode({'redirectUrl': redirect})}"


def sso_redirect(redirect: str, state: str) -> str:
    """Where the homeserver is to send the browser back: it has no field for a state, so that is part of the address."""
    return _with_query(redirect, {"state": state})


def login_token_of(target: str, *, state: str) -> str:
    """The token that the browser brings from single sign-on.

    Raises:
        OtherRedirectError: it is not the answer to our question.
    """
    fields = _fields(target)
    _check_state(fields, state)
    return _needed(fields, "loginToken")


def _with_query(address: str, fields: Mapping[str, str]) -> str:
    return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(fields)}"


def _fields(target: str) -> dict[str, str]:
    """The fields of a query, none of them twice (RFC 6749, section 3.1)."""
    try:
        parts = urlsplit(target[: MAX_TARGET_CHARS + 1])
        pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise OtherRedirectError("the address cannot be read") from None
    fields = dict(pairs)
    if parts.path != PATH or len(target) > MAX_TARGET_CHARS or len(fields) != len(pairs):
        raise OtherRedirectError("nobody waits for this address")
    return fields


def _check_state(fields: Mapping[str, str], state: str) -> None:
    # In constant time: whoever can send something here can do so again and again.
    if not hmac.compare_digest(fields.get("state", "").encode(), state.encode()):
        raise OtherRedirectError("this is not the answer to the login that runs here")


def _needed(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name, "")
    if not value or not (value.isascii() and value.isprintable()):
        raise OtherRedirectError(f"the address holds no {name}")
    return value
