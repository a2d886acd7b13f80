"""Requests to the homeserver: one place for time limits, repetition and size limits.

It must never log a request or an answer (they hold tokens, SDP and addresses), never follow a redirect with a token in
its hand, and never let a foreign exception out: every failure is a :class:`~mxrtc_bridge.core.errors.HomeserverError`,
and what it is called stands in :mod:`~mxrtc_bridge.matrix.api.transport_failures`.

How it works: what may be sent again is repeated by :class:`RetryPolicy`, which honours what a rate limit asks for as
long as the sum stays within the budget. An answer is read up to a limit, never whatever the other side feels like
sending.

One file: one request, from the budget that it has to the answer that is handed on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPMethod as Method
from typing import Any
from urllib.parse import urlsplit

from aiohttp import (
    ClientResponse,
    ClientSession,
    DummyCookieJar,
    TraceConfig,
)
from yarl import URL

from mxrtc_bridge import __version__
from mxrtc_bridge.config.proxies import ProxyChoice, choose_proxy
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import ConfigError, HomeserverError, StateError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.text.foreign_json import TooDeepError, read_foreign_json
from mxrtc_bridge.matrix.api.body import Body, answer_to_form
from mxrtc_bridge.matrix.api.connector import connector_for, request_options
from mxrtc_bridge.matrix.api.hedging import hedged
from mxrtc_bridge.matrix.api.path import ApiPath
from mxrtc_bridge.matrix.api.reach import Reach, RequestProgress
from mxrtc_bridge.matrix.api.silent_path import Sockets
from mxrtc_bridge.matrix.api.tokens import FixedToken, TokenSource
from mxrtc_bridge.matrix.api.transport_failures import PAGE, FailedError, explained, filled, rank, refusal, unreachable

log = logging.getLogger(__name__)

USER_AGENT = f"mxrtc-bridge/{__version__}"
ARRAY = ""
"""Key under which an answer that is an array is handed on; no object of the client-server API has it."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Limit for one answer; the largest honest ones are the first sync and the member list of a huge room."""
MAX_DEPTH = 40
"""Levels of an answer; what is deeper becomes null. An event has 32 that are looked at, ``/sync`` eight around it."""

_MAX_REDIRECTS = 3


class Repeat(Enum):
    """When a failed request may be sent again."""

    ALWAYS = "always"
    """The request has the same effect once or many times (a GET, a PUT with a transaction id)."""
    IF_UNTOUCHED = "if untouched"
    """Only after a rate limit: the one failure that says for certain that nothing happened."""
    NEVER = "never"

    def allows(self, error: FailedError) -> bool:
        """Whether this failure may be followed by another attempt."""
        if self is Repeat.ALWAYS:
            return error.retryable and error.again
        return self is Repeat.IF_UNTOUCHED and error.status == 429


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request is worth waiting for."""

    total_s: float = 60.0
    """Seconds from the first attempt on in which a new attempt may begin."""
    first_s: float = 0.5
    """Pause after the first failure; doubles from then on."""
    longest_s: float = 8.0
    """Longest pause between two attempts when the homeserver names none."""
    failing_s: float = math.inf
    """As ``total_s``, but where the homeserver asks for no pause: it is not there, or has failed."""

    def pause(self, attempt: int, spent_s: float, asked_s: float | None, jitter: float) -> float | None:
        """Seconds to wait before the next attempt, or None when the budget does not allow one.

        Args:
            attempt: number of failures so far, from 1.
            spent_s: seconds since the first attempt began.
            asked_s: what the homeserver asked for, if it did; never undercut.
            jitter: a random number in [0, 1) that spreads clients which failed together.
        """
        wait = asked_s or 0.0
        # Whoever asks for next to no pause, and fails again, would be asked twenty times a second.
        if wait < self.first_s:
            wait = max(wait, Backoff(self.first_s, self.longest_s).pause_s(attempt, jitter))
        budget_s = self.total_s if asked_s is not None else min(self.total_s, self.failing_s)
        return wait if spent_s + wait <= budget_s else None


def _nothing(_news: object) -> None:
    """Whom nobody asked to be told."""


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """How long whoever asks waits, and how they learn why."""

    retry: RetryPolicy = RetryPolicy()
    """The budget of each request that may be repeated."""
    timeout_s: float = 20.0
    """Seconds for one attempt."""
    hedge_s: float = math.inf
    """Seconds of silence after which a request that may be repeated is sent on another connection as well."""
    on_change: Callable[[HomeserverError | None], None] = _nothing
    """Told of each attempt that failed and is repeated (the error), and of the one that succeeds after it (None); must
    not block and not raise."""
    on_reach: Callable[[Reach], None] = _nothing
    """Told of each step that a request waits for; must not block and not raise."""


def _decode(body: bytes) -> object:
    try:
        return read_foreign_json(body, MAX_DEPTH)
    except TooDeepError:
        raise
    except ValueError:
        return None


def _is_address(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return True


def _traced(progress: RequestProgress) -> TraceConfig:
    def calling(step: Callable[[], None]) -> Callable[..., Awaitable[None]]:
        async def call(*_: object) -> None:
            step()

        return call

    config = TraceConfig()
    config.on_connection_create_start.append(calling(progress.connecting))
    config.on_dns_resolvehost_start.append(calling(progress.resolving))
    config.on_dns_resolvehost_end.append(calling(progress.resolved))
    config.on_dns_cache_hit.append(calling(progress.known))
    config.on_connection_create_end.append(calling(progress.connected))
    config.on_connection_reuseconn.append(calling(progress.connected))
    return config


class Transport:
    """Sends requests with one access token. Must be made inside a running event loop, and closed."""

    def __init__(
        self,
        base_url: str,
        token: str | TokenSource = "",
        policy: RequestPolicy = RequestPolicy(),
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        user_agent: str = USER_AGENT,
        proxy: ProxyChoice | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make a transport.

        Args:
            base_url: the client-server address of the homeserver, ``http://`` or ``https://``.
            token: access token of a user, or the appservice's; empty before a login. What gives one each time is closed
                with the transport.
            policy: how long requests wait, and who learns why.
            max_answer_bytes: limit for one answer.
            user_agent: how the program calls itself.
            proxy: how it is reached; None for what the environment says.
            clock: monotonic seconds.
            sleep: waits between attempts.
            jitter: random numbers in [0, 1).

        Raises:
            ConfigError: ``base_url`` is not the address of a web server, no header can hold ``token``, or what the
                environment names as a proxy is none.
        """
        check_address(base_url)
        if isinstance(token, str):
            if not (token.isascii() and token.isprintable()):
                raise ConfigError("the access token holds a character that no token has; log in again, or correct it")
            self._has_token = bool(token)
            self._tokens: TokenSource = FixedToken(token)
        else:
            self._has_token = True
            self._tokens = token
        self._base_url = URL(base_url)
        self.clock_offset_s: float | None = None
        """By how many seconds the homeserver's clock is ahead of ours, to the second, by what it last answered."""
        self._sockets = Sockets()
        self._progress = RequestProgress(not _is_address(self._base_url.raw_host), policy.on_reach)
        chosen = (choose_proxy(base_url, os.environ) if proxy is None else proxy).proxy
        self._by_proxy = request_options(chosen)
        # A homeserver knows us by the token alone; cookies of a proxy would be kept, and sent, without a bound.
        self._session = ClientSession(
            connector=connector_for(chosen, self._sockets),
            headers={"User-Agent": user_agent},
            cookie_jar=DummyCookieJar(),
            trace_configs=[_traced(self._progress)],
        )
        self._max_answer_bytes = max_answer_bytes
        self._max_redirects = 0
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._closed = False

    async def close(self) -> None:
        """Close all connections; may be called twice."""
        self._closed = True
        await self._tokens.close()
        await self._session.close()

    def follow_redirects(self) -> None:
        """Follow up to three redirects from now on: only for a transport without a token (server discovery)."""
        if self._has_token:
            raise StateError("a transport with a token must not follow redirects")
        self._max_redirects = _MAX_REDIRECTS

    async def request(
        self,
        what: str,
        method: Method,
        path: ApiPath | str,
        *,
        content: Mapping[str, object] | None = None,
        form: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        as_user: UserId | None = None,
        timeout_s: float | None = None,
        repeat: Repeat = Repeat.ALWAYS,
        hedges: bool | None = None,
    ) -> dict[str, object]:
        """Send a request, again if it makes sense, and return the JSON object of the answer.

        Args:
            what: what was attempted, for the error: "join !room".
            method: the HTTP method.
            path: path below the base address.
            content: JSON body.
            form: body in place of it for the endpoints of OAuth, which need not answer with more than a status, and
                whose ``error`` is the ``errcode`` of a refusal then (RFC 6749, section 5.2).
            query: query parameters.
            as_user: user of the appservice's namespace to act as.
            timeout_s: seconds for one attempt, when the usual limit does not fit.
            repeat: whether a failed attempt may be followed by another.
            hedges: whether one that is silent may be sent on another connection as well; as a rule what may be repeated
                and has no limit of its own, as that is known to take long.

        Raises:
            HomeserverError: the last attempt failed, and no other fits into the budget.
            AnswerTooLongError: an answer came that is longer than the limit.
        """
        if hedges is None:
            hedges = timeout_s is None and repeat is Repeat.ALWAYS
        parameters = dict(query or {})
        if as_user is not None:
            parameters["user_id"] = as_user
        started = self._clock()
        attempt = 0
        told: FailedError | None = None
        token, replaced = await self._tokens.token(), False
        while True:
            try:
                answer = await self._attempt(
                    lambda token=token: self._send(method, str(path), token, Body(content, form), parameters),  # type: ignore[misc]
                    timeout_s or self._policy.timeout_s,
                    self._policy.hedge_s if hedges else math.inf,
                )
            except FailedError as error:
                # The second time for the reason alone: a token that is refused as soon as it was given.
                if error.errcode == "M_UNKNOWN_TOKEN" and await self._tokens.replace(token) and not replaced:
                    # Whoever is not known has done nothing: what must not be repeated may be sent once more, too.
                    token, replaced = await self._tokens.token(), True
                    continue
                attempt += 1
                pause = None
                if repeat.allows(error):
                    spent = self._clock() - started
                    pause = self._policy.retry.pause(attempt, spent, error.retry_after_s, self._jitter())
                # That it was silent in the end says less than why it could not be reached before.
                told = told if told is not None and error.silent else error
                if pause is None:
                    raise explained(what, told) from told.__cause__
                self._policy.on_change(error)
            else:
                self._tokens.accepted(token)
                if told is not None:
                    self._policy.on_change(None)
                return answer
            await self._sleep(pause)

    async def _attempt(
        self, send: Callable[[], Coroutine[Any, Any, dict[str, object]]], timeout_s: float, hedge_s: float
    ) -> dict[str, object]:
        if self._closed:
            raise StateError("this connection to the homeserver has been closed")
        try:
            async with asyncio.timeout(timeout_s):
                return await (hedged(send, hedge_s, rank) if hedge_s < timeout_s else send())
        except FailedError:
            raise
        except TimeoutError as error:
            failure = FailedError(self._progress.reach.silence(timeout_s))
            failure.silent = True
            raise failure from error
        except Exception as error:
            raise unreachable(error) from error

    async def _send(
        self, method: Method, path: str, token: str, body: Body, query: Mapping[str, str]
    ) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if method is not Method.GET:
            headers["Content-Type"] = body.kind
        self._sockets.end_moved()
        url = self._base_url.with_path(f"{self._base_url.raw_path.rstrip('/')}/{path}", encoded=True)
        async with self._session.request(
            method,
            url,
            data=None if method is Method.GET else body.text,
            params=query,
            headers=headers,
            allow_redirects=self._max_redirects > 0,
            max_redirects=max(self._max_redirects, 1),
            **self._by_proxy,
        ) as response:
            if response.url.scheme != self._base_url.scheme:
                raise FailedError("the homeserver redirects from TLS to a connection without", 300)
            answer = await self._read(response)
            if body.form is not None:
                answer = answer_to_form(response.status, answer)
            if not 200 <= response.status < 300:
                # The search for a server asks any web server, which says by 404 alone that it has no such file.
                of_matrix = self._max_redirects == 0
                raise refusal(response.status, answer, response.headers, of_matrix=of_matrix)
            if isinstance(answer, list):
                return {ARRAY: answer}
            if not isinstance(answer, dict):
                raise FailedError(f"the answer of the homeserver is not a JSON object; {PAGE}")
            self._note_date(response.headers.get("Date"))
            return answer

    async def _read(self, response: ClientResponse) -> object:
        received = bytearray()
        async for chunk in response.content.iter_chunked(64 * 1024):
            received += chunk
            if len(received) > self._max_answer_bytes:
                what = f"is longer than {self._max_answer_bytes} bytes"
                if bytes(received[:100]).lstrip()[:1] in (b"{", b"["):
                    raise filled(what, response.status)
                raise FailedError(f"the answer of the homeserver {what}, and no JSON; {PAGE}", again=False)
        try:
            return _decode(bytes(received))
        except TooDeepError:
            raise filled("is nested too deeply", response.status) from None

    def _note_date(self, text: str | None) -> None:
        with suppress(TypeError, ValueError, OverflowError):  # whatever stands there
            self.clock_offset_s = parsedate_to_datetime(text or "").timestamp() - time.time()


def check_address(base_url: str) -> None:
    """Refuse what cannot be the address of a homeserver.

    Raises:
        ConfigError: it is no ``http://`` or ``https://`` address, or holds more than a host, a port and a path.
    """
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        # As the resolver takes it: labels of 1 to 63 characters (RFC 1035, 2.3.4).
        (parts.hostname or "").encode("idna")
        URL(base_url)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"homeserver address {base_url[:200]!a} must look like https://matrix.example.org")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("the homeserver address must hold no user name, password, query or fragment")
