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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.loopback import HOST, LoopbackListener, listening
from mxrtc_bridge.client.login.offer import Offer
from mxrtc_bridge.client.login.qr_code import qr_code
from mxrtc_bridge.client.login.tokens import renewal_of
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, Renewal
from mxrtc_bridge.core.errors import HomeserverError, LoginError
from mxrtc_bridge.core.login import redirect
from mxrtc_bridge.core.login.answers import DeviceCode, Tokens, next_interval_s
from mxrtc_bridge.core.login.server import AUTHORIZATION_CODE, DEVICE_CODE, AuthorizationServer
from mxrtc_bridge.core.text.installing import HOME
from mxrtc_bridge.engine.undone import taken_back, undone_if_cancelled
from mxrtc_bridge.matrix.api import login as matrix_login
from mxrtc_bridge.matrix.api import oauth
from mxrtc_bridge.matrix.api.login import Account
from mxrtc_bridge.matrix.api.transport import RequestPolicy

CLIENT_NAME = "mxrtc"
ENDED_AFTER_S = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds between two looks whether a session has ended at the homeserver too."""
BROWSER_S = 600.0
"""How long a person may take in the browser."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What a way to log in ends with."""

    account: Account
    token: str = field(repr=False)
    renewal: Renewal | None = None
    from_elsewhere: bool = False
    """Whether the session was there before, so that it is not ours to end without a word."""
    is_named: bool = True
    """Whether its device has a name that its user knows it by."""


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
    account = await matrix_login.account_of(homeserver, token, means.patience)
    return LoggedIn(account, token, from_elsewhere=True)


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

    def code_in(target: str) -> str:
        return redirect.code_of(target, state=state, issuer=server.issuer, names_itself=server.names_itself)

    async with _listening(code_in) as listener:
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
    tokens = await _exchange(server, form, scope, means)
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
            return await _exchange(server, form, scope, means)
        except HomeserverError as error:
            # A server that is away for a moment has not said no, and the code is good for as long as it was.
            if not error.retryable or error.errcode == "slow_down":
                interval_s = next_interval_s(error.errcode or str(error), interval_s)
    raise LoginError("the code has expired; log in again for a new one")


async def _exchange(server: AuthorizationServer, form: Mapping[str, str], scope: str, means: Means) -> Tokens:
    """Exchange a code for tokens; they begin a session, which is ended if nobody waits for it any more."""

    async def end(tokens: Tokens) -> None:
        renewal = _renewal(server, form["client_id"], tokens)
        if renewal is not None:
            await revoke(renewal, means.patience)

    asking = oauth.ask_tokens(server.token_endpoint, form, scope=scope, policy=means.patience)
    return await undone_if_cancelled(asking, end)


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
    renewal = _renewal(server, client_id, tokens)
    try:
        account = await matrix_login.account_of(offer.homeserver, tokens.access_token, means.patience)
    except BaseException:  # Ctrl-C as well: a session that nobody knows of would stay for ever
        if renewal is not None:
            await taken_back(revoke(renewal, means.patience))
        raise
    return LoggedIn(account, tokens.access_token, renewal, is_named=False)


def _renewal(server: AuthorizationServer, client_id: str, tokens: Tokens) -> Renewal | None:
    return renewal_of(
        tokens,
        endpoint=server.token_endpoint,
        revocation=server.revocation_endpoint,
        client_id=client_id,
        now=time.time(),
    )


async def name_device(login: LoggedIn, patience: RequestPolicy) -> None:
    """Give the device its name, where the way to log in has none for it; one that the server has made up does as well.

    Last of all: until a login is kept, whatever ends us leaves a session behind.
    """
    if not login.is_named:
        with contextlib.suppress(HomeserverError):
            await matrix_login.name_device(login.account, device_name(), patience)


async def end_session(login: LoggedIn, patience: RequestPolicy) -> None:
    """End a session that is not kept, at whoever has begun it.

    Raises:
        HomeserverError: it goes on.
    """
    if login.renewal is None:
        await matrix_login.log_out(login.account, patience)
    else:
        await revoke(login.renewal, patience)


async def goes_on(
    login: Login,
    patience: RequestPolicy,
    pauses_s: Sequence[float] = ENDED_AFTER_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Whether the homeserver takes the token of a session that was revoked.

    That the authorization server says yes to a revocation means little: it does so also for what it does not know
    (RFC 7009, section 2.2). And it tells the homeserver a moment later.
    """
    account = Account(login.homeserver, login.user_id, login.device_id, login.access_token)
    for pause_s in pauses_s:
        await sleep(pause_s)
        try:
            await matrix_login.check(account, patience)
        except HomeserverError as error:
            return error.errcode != "M_UNKNOWN_TOKEN" and not error.retryable
    return True


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
