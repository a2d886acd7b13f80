"""A user's way in: find the homeserver of a user id, log in, check a stored token, log out.

Must never send a password or a token anywhere but to the address given or the one that the user's own server names
over TLS, and never keep either: storing them is the caller's business.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from http import HTTPMethod as Method
from typing import Any

from mxrtc_bridge.core.errors import ConfigError, HomeserverError
from mxrtc_bridge.core.ids import UserId, server_of
from mxrtc_bridge.core.text.foreign_json import inside
from mxrtc_bridge.engine.undone import undone_if_cancelled
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.tokens import TokenSource
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport, check_address

DISCOVERY_TIMEOUT_S = 10.0
_REMEDY = "give the address of the homeserver instead: --homeserver URL"
MAX_WELL_KNOWN_BYTES = 64 * 1024
_QUICK = RequestPolicy(RetryPolicy(total_s=10.0), timeout_s=DISCOVERY_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Account:
    """A session of a user: everything that is needed to act as them."""

    base_url: str
    user_id: UserId
    device_id: str
    access_token: str | TokenSource
    """What gives one each time, where it is renewed."""

    def __repr__(self) -> str:
        return f"Account(base_url={self.base_url!r}, user_id={self.user_id!r}, access_token=<hidden>)"

    def connect(self, patience: RequestPolicy | None = None) -> Homeserver:
        """Return the homeserver as this user; to be closed by the caller."""
        return Homeserver(Transport(self.base_url, self.access_token, patience or RequestPolicy()))


async def discover(user: UserId, patience: RequestPolicy = _QUICK) -> str:
    """Find the client-server address of a user's homeserver (client-server API, "Server discovery").

    Returns:
        What ``https://SERVER/.well-known/matrix/client`` names, or ``https://SERVER`` when there is no such file.

    Raises:
        HomeserverError: the server cannot be reached, or the file is not usable; an address given by hand would help.
    """
    server = _host(server_of(user))
    try:
        check_address(f"https://{server}")
    except ConfigError as error:
        raise HomeserverError(
            f"{server} is no name of a host; give the address of the homeserver instead: --homeserver URL"
        ) from error
    transport = Transport(f"https://{server}", "", patience, max_answer_bytes=MAX_WELL_KNOWN_BYTES)
    transport.follow_redirects()
    try:
        answer = await transport.request(
            f"find the homeserver of {server}",
            Method.GET,
            ".well-known/matrix/client",
        )
    except HomeserverError as error:
        if error.status == 404:
            return f"https://{server}"
        raise HomeserverError(f"{error}; {_REMEDY}", error.status, error.errcode) from error
    finally:
        await transport.close()
    return _named_address(answer, server)


def _host(server: str) -> str:
    """The host of a server name: a port there is that of the federation, not of clients."""
    host, colon, port = server.rpartition(":")
    return host if colon and port.isdigit() else server


def _named_address(answer: dict[str, object], server: str) -> str:
    address = inside(answer, "m.homeserver", "base_url")
    if not isinstance(address, str) or len(address) > 512 or not _is_usable(address):
        raise HomeserverError(
            f"https://{server}/.well-known/matrix/client names no https:// address under m.homeserver.base_url; "
            f"{_REMEDY}",
            200,
        )
    return address.rstrip("/")


def _is_usable(address: str) -> bool:
    try:
        check_address(address)
    except ConfigError:
        return False
    return address.startswith("https://")


async def log_in(
    base_url: str, user: str, password: str, device_name: str, patience: RequestPolicy = _QUICK
) -> Account:
    """Log in with a password.

    Args:
        base_url: address of the homeserver.
        user: full user id, or its local part.
        password: the password; not kept.
        device_name: shown to the user in their list of sessions.
        patience: how long it may take.

    Raises:
        ConfigError: ``base_url`` is not an address.
        HomeserverError: wrong password, or the homeserver offers no password login; the message says which.
    """
    async with Homeserver(Transport(base_url, "", patience)) as homeserver:
        await homeserver.versions()
        try:
            return await _made(base_url, homeserver.login_password(user, password, device_name), patience)
        except HomeserverError as error:
            raise _login_failure(error) from error


async def _made(
    base_url: str, logging_in: Coroutine[Any, Any, tuple[UserId, str, str]], patience: RequestPolicy
) -> Account:
    """The session that a request begins; ended again if nobody waits for it any more."""

    async def account() -> Account:
        return Account(base_url.rstrip("/"), *await logging_in)

    return await undone_if_cancelled(account(), lambda made: log_out(made, patience))


def _login_failure(error: HomeserverError) -> HomeserverError:
    match error.errcode:
        case "M_FORBIDDEN":
            sentence = "the homeserver does not accept this user and password"
        case "M_USER_DEACTIVATED":
            sentence = "this account has been deactivated"
        case "M_UNKNOWN" | "M_UNRECOGNIZED" if error.status in (400, 404):
            sentence = f"the homeserver offers no login by password; log in without one: mxrtc login ({error})"
        case _:
            return error
    return HomeserverError(sentence, error.status, error.errcode)


async def flows(base_url: str, patience: RequestPolicy = _QUICK) -> frozenset[str]:
    """The kinds of login that a homeserver offers itself (``GET /login``).

    Raises:
        ConfigError: ``base_url`` is not an address.
        HomeserverError: it does not say.
    """
    async with Homeserver(Transport(base_url, "", patience)) as homeserver:
        await homeserver.versions()
        return await homeserver.login_flows()


async def log_in_by_token(base_url: str, token: str, device_name: str, patience: RequestPolicy = _QUICK) -> Account:
    """Log in with the token that single sign-on ends with.

    Raises:
        HomeserverError: it is not taken, or has been already.
    """
    async with Homeserver(Transport(base_url, "", patience)) as homeserver:
        return await _made(base_url, homeserver.login_token(token, device_name), patience)


async def account_of(base_url: str, token: str, patience: RequestPolicy = _QUICK) -> Account:
    """The account that an access token stands for.

    Raises:
        ConfigError: no header can hold the token.
        HomeserverError: the homeserver does not know it, or it has no device.
    """
    async with Homeserver(Transport(base_url, token, patience)) as homeserver:
        owner = await homeserver.whoami()
    if not owner.device_id:
        raise HomeserverError("this access token has no device, and without one there is no encryption", 400)
    return Account(base_url.rstrip("/"), owner.user_id, owner.device_id, token)


async def name_device(account: Account, name: str, patience: RequestPolicy = _QUICK) -> None:
    """Give the device of a session the name that its user sees.

    Raises:
        HomeserverError: the homeserver does not do that.
    """
    async with account.connect(patience) as homeserver:
        await homeserver.name_device(account.device_id, name)


async def check(account: Account, patience: RequestPolicy = _QUICK) -> None:
    """Check that the stored token still is that of the stored user.

    Raises:
        HomeserverError: the token is not known any more, or belongs to somebody else.
    """
    async with account.connect(patience) as homeserver:
        identity = await homeserver.whoami()
    if identity.user_id != account.user_id:
        raise HomeserverError(
            f"the stored token belongs to {identity.user_id}, not to {account.user_id}; log in again", 401
        )


async def log_out(account: Account, patience: RequestPolicy = _QUICK) -> bool:
    """End the session and remove its device.

    Returns:
        False if the homeserver had forgotten the session already.
    """
    async with account.connect(patience) as homeserver:
        try:
            await homeserver.logout()
        except HomeserverError as error:
            if error.errcode == "M_UNKNOWN_TOKEN":
                return False
            raise
    return True
