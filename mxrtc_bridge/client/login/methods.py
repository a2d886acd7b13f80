"""The ways to log in, each from the offer of a homeserver to an account that has a device of its own.

No secret is said or logged by any of them: what is shown is an address, and a code that is of use only to whoever is
logged in there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import secrets
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.loopback import HOST, LoopbackListener, listening
from mxrtc_bridge.client.login.offer import Offer
from mxrtc_bridge.client.login.qr_code import qr_code
from mxrtc_bridge.client.login.tokens import renewal_of
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Renewal
from mxrtc_bridge.core.errors import HomeserverError, LoginError
from mxrtc_bridge.core.login import redirect
from mxrtc_bridge.core.login.answers import DeviceCode, Tokens, next_interval_s
from mxrtc_bridge.core.login.server import AUTHORIZATION_CODE, DEVICE_CODE, AuthorizationServer
from mxrtc_bridge.core.text.installing import HOME
from mxrtc_bridge.matrix.api import login as matrix_login
from mxrtc_bridge.matrix.api import oauth
from mxrtc_bridge.matrix.api.login import Account
from mxrtc_bridge.matrix.api.transport import RequestPolicy

CLIENT_NAME = "mxrtc"
BROWSER_S = 600.0
"""How long a person may take in the browser."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What a way to log in ends with."""

    account: Account
    token: str
    renewal: Renewal | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What the ways to log in need: a person, a network, and perhaps a browser."""

    report: Report
    """Where to tell the person what to do."""
    patience: RequestPolicy
    """How to ask servers."""
    open_browser: Callable[[str], object] | None = None
    """Shows an address in a browser of this machine; None where there is none. May block."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    browser_s: float = BROWSER_S
    """How long a person may take in the browser."""


def device_name() -> str:
    """How this device is called in the user's list of sessions."""
    return f"mxrtc on {platform.node() or 'this machine'}"


def usual_browser() -> Callable[[str], object] | None:
    """What opens a browser of this machine, where one would be seen: one in a terminal would take that away."""
    seen = os.environ.get("BROWSER") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return webbrowser.open if seen or sys.platform in ("darwin", "win32") else None


async def by_password(offer_at: str, user: str, password: str, means: Means) -> LoggedIn:
    """Log in with a password (``m.login.password``).

    Raises:
        HomeserverError: it is not accepted, or not offered.
    """
    return _of_homeserver(await matrix_login.log_in(offer_at, user, password, device_name(), means.patience))


async def by_token(homeserver: str, token: str, means: Means) -> LoggedIn:
    """Take an access token that the user has from elsewhere.

    Raises:
        HomeserverError: the homeserver does not know it.
    """
    return _of_homeserver(await matrix_login.account_of(homeserver, token, means.patience))


async def by_sso(homeserver: str, means: Means) -> LoggedIn:
    """Log in by a browser, at a homeserver that logs people in itself ("SSO client login").

    Raises:
        HomeserverError: the homeserver does not take what the browser brings.
        LoginError: nobody has logged in there.
        ClientError: there is no port to listen on.
    """
    state = secrets.token_urlsafe(32)
    async with _listening(lambda target: redirect.login_token_of(target, state=state)) as listener:
        back = redirect.sso_redirect(listener.address, state)
        token = await _ask_in_browser(redirect.sso_address(homeserver, back), listener, means)
    return _of_homeserver(await matrix_login.log_in_by_token(homeserver, token, device_name(), means.patience))


async def by_browser(offer: Offer, server: AuthorizationServer, means: Means) -> LoggedIn:
    """Log in by a browser, with an authorization code and PKCE (RFC 8252, RFC 7636).

    Raises:
        HomeserverError: a server does not answer, or does not take us.
        LoginError: nobody has logged in there, or the answer cannot be used.
        ClientError: there is no port to listen on.
    """
    client_id, scope = await _register(server, means), redirect.scope_of(_new_device())
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    async with _listening(lambda target: redirect.code_of(target, state=state, issuer=server.issuer)) as listener:
        address = redirect.authorization_address(
            server, client_id=client_id, redirect=listener.address, scope=scope, state=state, verifier=verifier
        )
        code = await _ask_in_browser(address, listener, means)
    form = {
        "grant_type": AUTHORIZATION_CODE,
        "code": code,
        "redirect_uri": listener.address,
        "client_id": client_id,
        "code_verifier": verifier,
    }
    tokens = await oauth.ask_tokens(server.token_endpoint, form, scope=scope, policy=means.patience)
    return await _of_tokens(offer, server, client_id, tokens, means)


async def by_code(offer: Offer, server: AuthorizationServer, means: Means) -> LoggedIn:
    """Log in with a code that the person types into a page, on whatever device (RFC 8628).

    Raises:
        HomeserverError: a server does not answer, or does not take us.
        LoginError: the person has refused, or has taken too long.
    """
    client_id, scope = await _register(server, means), redirect.scope_of(_new_device())
    code = await oauth.ask_device_code(server, client_id=client_id, scope=scope, policy=means.patience)
    _show_code(code, means.report)
    form = {"grant_type": DEVICE_CODE, "device_code": code.device_code, "client_id": client_id}
    tokens = await _poll(server, form, code, scope, means)
    return await _of_tokens(offer, server, client_id, tokens, means)


async def _poll(
    server: AuthorizationServer, form: Mapping[str, str], code: DeviceCode, scope: str, means: Means
) -> Tokens:
    ends, interval_s = means.clock() + code.expires_s, code.interval_s
    while means.clock() < ends:
        await means.sleep(interval_s)
        try:
            return await oauth.ask_tokens(server.token_endpoint, form, scope=scope, policy=means.patience)
        except HomeserverError as error:
            # A server that is away for a moment has not said no, and the code is good for as long as it was.
            if not error.retryable:
                interval_s = next_interval_s(error.errcode or str(error), interval_s)
    raise LoginError("the code has expired; log in again for a new one")


def _show_code(code: DeviceCode, report: Report) -> None:
    address = code.complete_address or code.address
    if sys.stderr.isatty() and not report.as_json:
        report.say("code", "\n".join(qr_code(address)))
    report.data(
        "code",
        f"open {code.address} in any browser and type this code: {code.user_code}",
        address=code.address,
        code=code.user_code,
        complete_address=code.complete_address or None,
        expires_s=code.expires_s,
    )


async def _ask_in_browser(address: str, listener: LoopbackListener, means: Means) -> str:
    means.report.data("browser", f"open this address in a browser on this machine: {address}", address=address)
    opening = None
    if means.open_browser is not None:
        # Some of them end when the person closes the window.
        opening = asyncio.create_task(asyncio.to_thread(means.open_browser, address), name="browser")
    try:
        return await listener.answer(means.browser_s)
    finally:
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)


@contextlib.asynccontextmanager
async def _listening(read: Callable[[str], str]) -> AsyncIterator[LoopbackListener]:
    try:
        async with listening(read) as listener:
            yield listener
    except OSError as error:
        raise ClientError(
            Exit.LOCAL, f"this machine gives no port to listen on for the browser: {error.strerror}; take '--by code'"
        ) from error


async def _register(server: AuthorizationServer, means: Means) -> str:
    # Without a port: whatever port we listen on is meant (RFC 8252, section 7.3).
    back = f"http://{HOST}{redirect.PATH}"
    return await oauth.register(server, name=CLIENT_NAME, uri=HOME, redirect=back, policy=means.patience)


def _new_device() -> str:
    # Ten characters at least, and of those that need no escape in a scope.
    return secrets.token_hex(8).upper()


def _of_homeserver(account: Account) -> LoggedIn:
    assert isinstance(account.access_token, str)
    return LoggedIn(account, account.access_token)


async def _of_tokens(
    offer: Offer, server: AuthorizationServer, client_id: str, tokens: Tokens, means: Means
) -> LoggedIn:
    renewal = renewal_of(
        tokens,
        endpoint=server.token_endpoint,
        revocation=server.revocation_endpoint,
        client_id=client_id,
        now=time.time(),
    )
    account = await matrix_login.account_of(offer.homeserver, tokens.access_token, means.patience)
    with contextlib.suppress(HomeserverError):  # a name that the server has made up does as well
        await matrix_login.name_device(account, device_name(), means.patience)
    return LoggedIn(account, tokens.access_token, renewal)


async def end_session(login: LoggedIn, patience: RequestPolicy) -> None:
    """End a session that is not kept, at whoever has begun it.

    Raises:
        HomeserverError: it goes on.
    """
    if login.renewal is None:
        await matrix_login.log_out(login.account, patience)
    else:
        await revoke(login.renewal, patience)


async def revoke(renewal: Renewal, patience: RequestPolicy) -> None:
    """End a session of OAuth.

    Raises:
        HomeserverError: it goes on.
    """
    if not renewal.revocation_endpoint:
        raise HomeserverError("the authorization server has no way to end a session", 404)
    await oauth.revoke(
        renewal.revocation_endpoint,
        client_id=renewal.client_id,
        refresh_token=renewal.refresh_token,
        policy=patience,
    )
