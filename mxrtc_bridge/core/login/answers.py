"""What an authorization server answers, read into values: each is bounded, and goes nowhere before it was checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mxrtc_bridge.core.errors import LoginError
from mxrtc_bridge.core.login.server import checked_address
from mxrtc_bridge.core.text.display import presentable

MAX_TOKEN_CHARS = 8192
MAX_ID_CHARS = 1024
MAX_CODE_CHARS = 64
"""Of a code that a person types."""
MAX_DEVICE_CODE_S = 3600.0
"""How long we wait for a person at most, whatever the server says."""
USUAL_INTERVAL_S = 5.0
"""RFC 8628, section 3.2: where the server names none."""
LONGEST_INTERVAL_S = 60.0
SLOWER_S = 5.0
"""RFC 8628, section 3.5: by how much ``slow_down`` makes the interval longer, for good."""
MAX_LIFE_S = 10 * 365 * 86400


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A code that the user types elsewhere (RFC 8628, section 3.2)."""

    device_code: str = field(repr=False)
    user_code: str
    """As received: some servers have a hyphen in it, some have none."""
    address: str
    """Where it is typed."""
    complete_address: str
    """Where it need not be typed; empty if the server has no such address."""
    expires_s: float
    interval_s: float
    """Seconds between two questions whether it was typed."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login or its renewal gives."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    """Empty if there is none: then the access token cannot be renewed."""
    expires_s: float | None
    """Seconds that the access token lives; None if the server does not say."""


def read_client_id(answer: Mapping[str, object]) -> str:
    """The id that the server has given this program (RFC 7591, section 3.2.1).

    Raises:
        LoginError: there is none.
    """
    return _secret(answer.get("client_id"), "client_id", MAX_ID_CHARS)


def read_device_code(answer: Mapping[str, object], *, loopback: bool) -> DeviceCode:
    """Read the answer to the request for a code.

    Args:
        answer: the answer.
        loopback: as in :func:`mxrtc_bridge.core.login.server.checked_address`.

    Raises:
        LoginError: something that is needed is missing, or cannot be shown to a person.
    """
    code = answer.get("user_code")
    if not isinstance(code, str) or not 0 < len(code) <= MAX_CODE_CHARS or presentable(code) != code:
        raise LoginError("the authorization server gives no code that could be shown")
    complete = answer.get("verification_uri_complete")
    return DeviceCode(
        device_code=_secret(answer.get("device_code"), "device_code", MAX_TOKEN_CHARS),
        user_code=code,
        address=checked_address(answer.get("verification_uri"), "verification_uri", loopback=loopback),
        complete_address="" if complete is None else checked_address(complete, "verification_uri", loopback=loopback),
        expires_s=min(_seconds(answer.get("expires_in")) or MAX_DEVICE_CODE_S, MAX_DEVICE_CODE_S),
        interval_s=min(_seconds(answer.get("interval")) or USUAL_INTERVAL_S, LONGEST_INTERVAL_S),
    )


def read_tokens(answer: Mapping[str, object], *, scope: str) -> Tokens:
    """Read tokens (RFC 6749, section 5.1).

    Args:
        answer: the answer.
        scope: what was asked for; if the server says what it has given, all of that must be in it.

    Raises:
        LoginError: there is no token that could be used, or it may not do what it is for.
    """
    kind, given = answer.get("token_type"), answer.get("scope")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise LoginError("the authorization server gives a token of a kind that is not known here")
    if isinstance(given, str) and not set(scope.split()) <= set(given[:MAX_TOKEN_CHARS].split()):
        raise LoginError("the authorization server gives a token that may do less than was asked for")
    refresh = answer.get("refresh_token")
    return Tokens(
        access_token=_secret(answer.get("access_token"), "access_token", MAX_TOKEN_CHARS),
        refresh_token="" if refresh is None else _secret(refresh, "refresh_token", MAX_TOKEN_CHARS),
        expires_s=_seconds(answer.get("expires_in")),
    )


def next_interval_s(error: str, interval_s: float) -> float:
    """Seconds until the next question whether a code was typed, after one that was answered by this error.

    The status of the answer says nothing: 400 in RFC 8628, 403 with some servers.

    Raises:
        LoginError: it need not be asked any more.
    """
    match error:
        case "authorization_pending":
            return interval_s
        case "slow_down":
            return min(interval_s + SLOWER_S, LONGEST_INTERVAL_S)
        case "access_denied":
            raise LoginError("the login was refused where the code was typed")
        case "expired_token" | "invalid_grant":
            raise LoginError("the code has expired; log in again for a new one")
        case _:
            raise LoginError(f"the authorization server does not let us log in: {presentable(error)}")


def _secret(value: object, name: str, limit: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= limit or not (value.isascii() and value.isprintable()):
        raise LoginError(f"the answer of the authorization server holds no {name} that could be used")
    return value


def _seconds(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_LIFE_S
    return float(value) if usable else None  # type: ignore[arg-type]
