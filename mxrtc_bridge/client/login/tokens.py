"""The access token of a login that is renewed from time to time (OAuth 2.0), by one process at a time.

A refresh token may be good for one use only, and some servers end the session of whoever uses it twice. So who renews
holds a lock on a file beside the login, looks first whether another process has done it meanwhile, and writes the new
tokens before anybody uses them: whoever is killed in between finds the old ones, which the server still takes as long
as the new ones were not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.state import Login, Renewal, StateFolder
from mxrtc_bridge.config.private_files import closing, open_private_file, take_lock
from mxrtc_bridge.core.errors import HomeserverError, LocalError, LoginError
from mxrtc_bridge.core.login.answers import Tokens
from mxrtc_bridge.core.login.redirect import scope_of
from mxrtc_bridge.matrix.api.oauth import ask_tokens
from mxrtc_bridge.matrix.api.tokens import TokenSource
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy

log = logging.getLogger(__name__)

RENEW_AFTER = 0.7
"""Of the life of a token: the rest is for homeservers that do not answer."""
AGAIN_S = 10.0
"""Until a renewal is tried again that failed before the token has expired."""
REFUSED_S = 120.0
"""For so long a token is not renewed again that is refused as soon as it was given: it is the account that is, not the
token. Homeservers remember for about as long what the authorization server has said of a token."""
SHORTEST_LIFE_S = 10.0
"""A token that lives for less than this is not renewed ahead of time with each request; it is when it is refused."""
LOCK_S = 30.0
LOCK_EVERY_S = 0.1
REQUEST_S = 20.0
CLOSE_S = 5.0
"""How long a renewal that is under way may take to come to its end when nobody needs it any more."""

REFUSED_AT_ONCE = (
    "the homeserver refuses a token that was given just now: the account is locked, or this device was removed. Ask "
    "the administrator, or log in again with 'mxrtc login'"
)
_ENDED = ("invalid_grant", "invalid_client", "unauthorized_client")
_POLICY = RequestPolicy(RetryPolicy(total_s=REQUEST_S), timeout_s=REQUEST_S)


def renewal_of(tokens: Tokens, *, endpoint: str, revocation: str, client_id: str, now: float) -> Renewal | None:
    """How these tokens are renewed; None if they cannot be.

    Args:
        tokens: as the server has just given them.
        endpoint: where they were given.
        revocation: where they are taken back; empty if nowhere.
        client_id: of this program.
        now: seconds since 1970.
    """
    if not tokens.refresh_token:
        return None
    life = None if tokens.expires_s is None else max(tokens.expires_s, SHORTEST_LIFE_S)
    due, expiry = (0.0, 0.0) if life is None else (now + life * RENEW_AFTER, now + life)
    return Renewal(endpoint, revocation, client_id, tokens.refresh_token, due, expiry)


def tokens_of(state: StateFolder, login: Login) -> str | TokenSource:
    """What gives the token of a login to each request: for one transport, which closes it."""
    return login.access_token if login.renewal is None else StoredTokens(state, login)


@contextlib.asynccontextmanager
async def login_lock(state: StateFolder, *, wait_s: float = LOCK_S) -> AsyncIterator[None]:
    """Be the only process that changes the login of an account.

    Raises:
        ClientError: the lock cannot be had, or another process keeps it.
    """
    path = state.path / "login.lock"
    try:
        with state.opened() as folder:
            descriptor = open_private_file(folder, path.name, os.O_RDWR | os.O_CREAT, str(path))
    except (LocalError, OSError) as error:
        raise ClientError(Exit.LOCAL, f"{path} cannot be used, so the login cannot be renewed: {error}") from error
    with closing(descriptor):
        try:
            async with asyncio.timeout(wait_s):
                while not take_lock(descriptor):  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(LOCK_EVERY_S)
        except TimeoutError:
            raise ClientError(Exit.RETRY, "another mxrtc command is renewing the login and does not end") from None
        if not _is_there(path, descriptor):
            # A logout has removed it meanwhile; whoever comes next would not wait for us.
            raise ClientError(Exit.RETRY, "another mxrtc command has just logged out in this account; try again")
        yield


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


class StoredTokens:
    """The tokens in the folder of an account. Implements :class:`mxrtc_bridge.matrix.api.tokens.TokenSource`.

    Args:
        state: where they are.
        login: as it was read from there.
        wall: seconds since 1970.
        clock: monotonic seconds; the other clock may be set.
        policy: how long a renewal may take.
    """

    def __init__(
        self,
        state: StateFolder,
        login: Login,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        policy: RequestPolicy = _POLICY,
    ) -> None:
        self._state = state
        self._login = login
        self._wall = wall
        self._clock = clock
        self._policy = policy
        self._not_before = float("-inf")
        self._unproven_until = float("-inf")
        self._renewing: asyncio.Task[None] | None = None

    async def token(self) -> str:
        """The access token, renewed where that is due.

        Raises:
            HomeserverError: it has expired, and there is no other one for now; or the session has ended.
            ClientError: what comes of a renewal cannot be kept.
        """
        if self._is_due(self._login) and self._clock() >= self._not_before:
            try:
                await self._renew()
            except (HomeserverError, ClientError) as error:
                renewal = self._login.renewal
                # A lock that another process keeps, or a full disk, may be otherwise a moment later as well.
                passes = isinstance(error, ClientError) or error.retryable
                if not passes or renewal is None or self._wall() >= renewal.expires_at:
                    raise
                self._not_before = self._clock() + AGAIN_S
                log.info("the login is not renewed yet: %s", error)
        return self._login.access_token

    async def replace(self, refused: str) -> bool:
        """Renew the token that was refused.

        Raises:
            HomeserverError: it was given just now; or there is no other one.
            ClientError: what comes of a renewal cannot be kept.
        """
        if self._login.access_token != refused:
            return True
        if self._clock() < self._unproven_until:
            raise HomeserverError(REFUSED_AT_ONCE, 401)
        await self._renew()
        self._unproven_until = self._clock() + REFUSED_S
        return self._login.access_token != refused

    def accepted(self, token: str) -> None:
        """What was given is good, so when it is refused later, that is for another reason."""
        if token == self._login.access_token:
            self._unproven_until = float("-inf")

    async def close(self) -> None:
        """Let a renewal come to its end: an answer that nobody waits for would be a login that is lost."""
        if self._renewing is not None:
            await asyncio.wait([self._renewing], timeout=CLOSE_S)
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    def _is_due(self, login: Login) -> bool:
        return login.renewal is not None and 0 < login.renewal.renew_at <= self._wall()

    async def _renew(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew_in_turn(), name="renewal of the login")
        # Whoever waits may be cancelled; what was sent goes on.
        await asyncio.shield(self._renewing)

    async def _renew_in_turn(self) -> None:
        async with login_lock(self._state):
            stored = self._state.load_login()
            if (stored.user_id, stored.device_id) != (self._login.user_id, self._login.device_id):
                raise HomeserverError("somebody has logged in anew in this account", 401, "M_UNKNOWN_TOKEN")
            if stored.access_token != self._login.access_token:
                self._login = stored
                if not self._is_due(stored):
                    return
            renewal = stored.renewal
            if renewal is None:
                return
            self._state.try_to_save()
            access_token, renewed = await self._ask(renewal, stored.device_id)
            new = replace(stored, access_token=access_token, renewal=renewed)
            await asyncio.to_thread(self._state.save_login, new)
            self._login = new
            log.debug("the login is renewed")

    async def _ask(self, renewal: Renewal, device: str) -> tuple[str, Renewal | None]:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": renewal.refresh_token,
            "client_id": renewal.client_id,
        }
        try:
            tokens = await ask_tokens(renewal.token_endpoint, form, scope=scope_of(device), policy=self._policy)
        except LoginError as error:
            raise HomeserverError(f"the login cannot be renewed: {error}") from error
        except HomeserverError as error:
            if error.errcode in _ENDED:
                raise HomeserverError(
                    f"the homeserver has ended this session ({error.errcode})", 401, "M_UNKNOWN_TOKEN"
                ) from error
            raise
        if not tokens.refresh_token:  # RFC 6749, section 6: then the one that was used stays
            tokens = replace(tokens, refresh_token=renewal.refresh_token)
        renewed = renewal_of(
            tokens,
            endpoint=renewal.token_endpoint,
            revocation=renewal.revocation_endpoint,
            client_id=renewal.client_id,
            now=self._wall(),
        )
        return tokens.access_token, renewed
