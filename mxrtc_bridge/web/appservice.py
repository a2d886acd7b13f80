"""The endpoint that the homeserver talks to (application service API, version 1.4 and later).

What it must never do: read, answer or store anything before the token was checked; answer 200 before the events are
durable; refuse a transaction because of what is in an event, since it would come back for ever and block all others.

Answers: 401 without the right token, 503 while not ready or when nothing can be stored (the homeserver tries again),
413/415/408 and 400 for what is not a transaction, else 200.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from mxrtc_bridge.core.crypto.device_changes import DeviceListChanges
from mxrtc_bridge.core.errors import EventError, StorageError
from mxrtc_bridge.core.ids import MAX_ID_CHARS, parse_user_id
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.web.authorization import Authorization, authorize
from mxrtc_bridge.web.transaction_body import Transaction, TransactionRefused, read_transaction

MAX_BODY = 64 * 1024 * 1024
"""Synapse sends up to 300 items of up to 64 KiB, and never sends a smaller transaction instead of a refused one."""
MAX_EARLY_BODY = 64 * 1024
"""What is read before the bridge is ready: a transaction without events is taken then, as the homeserver would wait
longer and longer with all others after a refusal, and our own devices make it send some at the start."""
READ_TIMEOUT_S = 30.0
MAX_IN_FLIGHT = 4
"""Transactions that are read at the same time, and as many that wait for the database. A homeserver sends one after
the other, and another one after its own timeout."""
MAX_IN_LINE = 28
"""Requests whose body is not read before one of those is: a homeserver of several processes may send the same to us
from each of them."""
_THREAD_ABOVE = 32 * 1024
"""Larger bodies are parsed in a thread, so that sessions do not notice; up to here that takes 10 ms at worst."""
PREFIXES = ("/_matrix/app/v1", "")
"""Before the paths of requests: homeservers ask without one that are old, or think that we are (application service
API, "Legacy routes")."""
_OPEN_PATHS = frozenset({"/_matrix/mau/live", "/_matrix/mau/ready"})

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TransactionSink(Protocol):
    """Takes what the homeserver sends."""

    @property
    def ready(self) -> bool:
        """Whether transactions are taken now."""
        ...

    def look(self, events: list[object]) -> None:
        """Let the events take away what they take away; comes first, whether they can be stored or not."""
        ...

    async def accept(self, txn_id: str, events: list[object]) -> None:
        """Store the events; returns when they are durable.

        Args:
            txn_id: of the transaction; says nothing about whether its events are new.
            events: parsed JSON; anything, in the order of the transaction.

        Raises:
            StorageError: nothing was taken, the homeserver should send it again.
        """
        ...

    def knows_user(self, user_id: str) -> bool:
        """Whether we have a virtual user of this id; answered from the configuration, without side effects."""
        ...


class AppserviceEndpoint:
    """The routes of the application service API, and the two health checks."""

    def __init__(
        self,
        sink: TransactionSink,
        *,
        token: str,
        metrics: Metrics,
        hear: Callable[[DeviceListChanges], None] = lambda _news: None,
        must_come_again: Callable[[], None] = lambda: None,
        read_timeout_s: float = READ_TIMEOUT_S,
        max_body: int = MAX_BODY,
    ) -> None:
        """Make it.

        Args:
            sink: takes the events.
            token: the homeserver's.
            metrics: counts transactions.
            hear: told what a transaction says about devices.
            must_come_again: told when a transaction cannot be taken for the moment.
            read_timeout_s: how long a body may take.
            max_body: See :data:`MAX_BODY`.
        """
        self._max_body = max_body
        if not token:
            raise ValueError("the homeserver's token must not be empty")
        self._sink = sink
        self._token = token
        self._metrics = metrics
        self._hear = hear
        self._must_come_again = must_come_again
        self._read_timeout_s = read_timeout_s
        self._reading = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._in_line = 0
        self._storing: dict[tuple[str, bytes], asyncio.Future[None]] = {}
        """By id and digest of the body: what comes again meanwhile waits for the same outcome."""
        self._seldom = RateLimitedLog(log)

    def application(self) -> web.Application:
        """Make the aiohttp application; serve it with :class:`mxrtc_bridge.web.server.Server`."""
        application = web.Application(middlewares=[self._guard], client_max_size=self._max_body)
        for prefix in PREFIXES:
            application.router.add_put(prefix + "/transactions/{txn_id}", self._transaction)
            application.router.add_get(prefix + "/users/{user_id}", self._user, allow_head=False)
            application.router.add_get(prefix + "/rooms/{alias}", self._room, allow_head=False)
        application.router.add_post("/_matrix/app/v1/ping", self._ping)
        for version in ("v1", "unstable"):
            path = f"/_matrix/app/{version}/thirdparty/{{rest:.*}}"
            application.router.add_get(path, self._thirdparty, allow_head=False)
        application.router.add_get("/_matrix/mau/live", self._live)
        application.router.add_get("/_matrix/mau/ready", self._ready)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the token for everything but the health checks, and give every error a JSON body."""
        if request.path not in _OPEN_PATHS:
            result = authorize(
                request.headers.getall("Authorization", []), self._token, request.query.getall("access_token", [])
            )
            if result is not Authorization.GRANTED:
                return self._unauthorized(request, result)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _error(404, "M_UNRECOGNIZED", "there is nothing at this path")
        except web.HTTPMethodNotAllowed as error:
            response = _error(405, "M_UNRECOGNIZED", "this path does not know the method")
            response.headers["Allow"] = error.headers.get("Allow", "")
            return response

    def _unauthorized(self, request: web.Request, result: Authorization) -> web.Response:
        self._metrics.transaction("unauthorized")
        self._seldom.warning(
            result,
            "! request refused: %s; compare hs_token in the registration file and in the configuration",
            "no token in the request" if result is Authorization.MISSING else "wrong token",
        )
        response = _error(401, result.value, "the homeserver's token is needed")
        response.headers["WWW-Authenticate"] = "Bearer"
        return _closing(response, request)

    async def _transaction(self, request: web.Request) -> web.Response:
        txn_id = request.match_info["txn_id"]
        try:
            await self._take(txn_id, request)
        except TransactionRefused as refusal:
            self._metrics.transaction("unavailable" if refusal.status == 503 else "refused")
            if refusal.status == 503:
                self._must_come_again()
            self._seldom.warning(str(refusal), "! transaction %a not taken: %s", txn_id[:40], refusal)
            return _closing(_error(refusal.status, refusal.errcode, str(refusal)), request)
        except Exception as error:  # the homeserver gets an answer whatever happens here
            self._metrics.transaction("failed")
            # The text of the error may hold content, so it is for DEBUG only.
            what = type(error).__name__
            self._seldom.log(logging.ERROR, what, "! transaction %a failed: %s", txn_id[:40], what)
            log.debug("! transaction %a failed", txn_id[:40], exc_info=True)
            return _closing(_error(500, "M_UNKNOWN", "internal error"), request)
        self._metrics.transaction("accepted")
        return web.json_response({})

    async def _take(self, txn_id: str, request: web.Request) -> None:
        if len(txn_id) > MAX_ID_CHARS:
            raise TransactionRefused(
                400, "M_INVALID_PARAM", f"the transaction id is longer than {MAX_ID_CHARS} characters"
            )
        ready = self._sink.ready
        if not ready and (request.content_length or self._max_body) > MAX_EARLY_BODY:
            raise _not_ready()
        digest, transaction = await self._read_in_turn(request)
        self._sink.look(transaction.events)
        if transaction.news:
            # Also where the events cannot be stored: the homeserver may not say it again with them.
            self._hear(transaction.news)
        if not ready:
            if transaction.events:
                raise _not_ready()
            return
        # Not before it was read: while the database hangs, what takes a right away must still be seen.
        key = (txn_id, digest)
        try:
            if (stored := self._storing.get(key)) is not None:
                await asyncio.shield(stored)
            else:
                await self._store(key, transaction.events)
        except StorageError as error:
            raise TransactionRefused(503, "M_UNKNOWN", f"the events cannot be stored: {error}") from error

    async def _store(self, key: tuple[str, bytes], events: list[object]) -> None:
        if len(self._storing) >= MAX_IN_FLIGHT:
            raise _too_many("stored")
        stored = self._storing[key] = asyncio.get_running_loop().create_future()
        try:
            await self._sink.accept(key[0], events)
        except BaseException as error:
            # Those who wait for it are told that nothing is stored, as it may be; who has sent it learns what it was.
            known = error if isinstance(error, StorageError) else StorageError("the transaction was given up")
            stored.set_exception(known)
            stored.exception()  # whether anybody waits or not
            raise
        else:
            stored.set_result(None)
        finally:
            del self._storing[key]

    async def _read_in_turn(self, request: web.Request) -> tuple[bytes, Transaction]:
        """Read a body, a few at the same time; returns its digest and what it says."""
        if self._reading.locked() and self._in_line >= MAX_IN_LINE:
            raise _too_many("read")
        self._in_line += 1
        try:
            async with asyncio.timeout(self._read_timeout_s):
                await self._reading.acquire()
        except TimeoutError:
            raise _too_many("read") from None
        finally:
            self._in_line -= 1
        try:
            return await self._read(request)
        finally:
            self._reading.release()

    async def _read(self, request: web.Request) -> tuple[bytes, Transaction]:
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise TransactionRefused(415, "M_UNKNOWN", "the body must not be compressed")
        if request.content_length is not None and request.content_length > self._max_body:
            raise _too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._read_timeout_s):
                async for chunk in request.content.iter_any():
                    if len(body) + len(chunk) > self._max_body:
                        raise _too_large()
                    body += chunk
        except TimeoutError as error:
            raise TransactionRefused(
                408, "M_UNKNOWN", f"the body did not come within {self._read_timeout_s:g} s"
            ) from error
        except (ClientError, HttpProcessingError, OSError) as error:
            raise TransactionRefused(
                400, "M_UNKNOWN", f"the body did not come whole: {type(error).__name__}"
            ) from error
        content = bytes(body)
        del body
        if len(content) > _THREAD_ABOVE:
            return await asyncio.to_thread(_digest_and_transaction, content)
        return _digest_and_transaction(content)

    async def _user(self, request: web.Request) -> web.Response:
        try:
            known = self._sink.knows_user(parse_user_id(request.match_info["user_id"]))
        except EventError:
            known = False
        return web.json_response({}) if known else _error(404, "M_NOT_FOUND", "no such user")

    async def _room(self, _: web.Request) -> web.Response:
        return _error(404, "M_NOT_FOUND", "this bridge has no room aliases")

    async def _ping(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _thirdparty(self, _: web.Request) -> web.Response:
        return _error(404, "M_NOT_FOUND", "this bridge has no third-party networks")

    async def _live(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _ready(self, _: web.Request) -> web.Response:
        return web.json_response({}, status=200 if self._sink.ready else 503)


def _digest_and_transaction(body: bytes) -> tuple[bytes, Transaction]:
    return hashlib.sha256(body).digest(), read_transaction(body)


def _not_ready() -> TransactionRefused:
    return TransactionRefused(503, "M_UNKNOWN", "the bridge is not ready yet")


def _too_many(what: str) -> TransactionRefused:
    return TransactionRefused(503, "M_UNKNOWN", f"{MAX_IN_FLIGHT} transactions are being {what} already")


def _too_large() -> TransactionRefused:
    return TransactionRefused(413, "M_TOO_LARGE", f"the body is larger than {MAX_BODY} bytes")


def _error(status: int, errcode: str, message: str) -> web.Response:
    return web.json_response({"errcode": errcode, "error": message}, status=status)


def _closing(response: web.Response, request: web.Request) -> web.Response:
    """End the connection after the answer if a body is still to come, rather than read what nobody wants."""
    if not request.content.at_eof():
        response.force_close()
    return response
