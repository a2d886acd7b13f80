"""Serves an aiohttp application on a TCP port or a unix socket.

Bodies reach the application as they came: nothing is decompressed on the way. The access log names method, path and
outcome; it never holds query strings, headers or addresses.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError

from mxrtc_bridge.config.values import Listen, UnixListen
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog

MAX_HEADER_LINE = 8190
KEEPALIVE_S = 75.0
"""Longer than Synapse's connection pool keeps one idle, so that it never writes to a connection that we just closed."""
LINGER_S = 2.0
"""How long the rest of an unwanted body is read, so that the client gets to see the answer."""
SHUTDOWN_S = 5.0
UNIX_MODE = 0o660
MAX_CONNECTIONS = 64
"""Of a server for people and programs of this machine: the oldest go first, as whoever hangs has come before."""
LOOK_S = 0.5
"""How often they are counted; meanwhile the process may run out of descriptors, and accepts again afterwards."""

log = logging.getLogger(__name__)


class AccessLogger(AbstractAccessLogger):
    """One line for each request at DEBUG, and at INFO one an hour for each status of those that were refused."""

    refused: RateLimitedLog
    """Of one server: an object of this class belongs to one connection."""

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        text, path = "%s %a %d, %d bytes, %.3f s", request.rel_url.raw_path[:200]
        args = (request.method[:16], path, response.status, response.body_length, time)
        if response.status < 400:
            self.logger.debug(text, *args)
        else:
            self.refused.info(response.status, text, *args)


class _HttpLogFilter(logging.Filter):
    """Quiets aiohttp: bytes that are not HTTP are the client's mistake, and its address does not belong in a log."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            log.debug("request is not HTTP: %s", type(error).__name__)
            return False
        what = "request failed" if record.args else record.getMessage()
        _SELDOM.log(record.levelno, (what, type(error)), "! %s", what, exc_info=error)
        return False


_SELDOM = RateLimitedLog(log)
http_log = log.getChild("http")
http_log.addFilter(_HttpLogFilter())


class Server:
    """A running server; use it as an async context manager, or call :meth:`start` and :meth:`stop`."""

    def __init__(
        self,
        application: web.Application,
        listen: Listen,
        *,
        unix_mode: int = UNIX_MODE,
        linger_s: float = LINGER_S,
        max_connections: int | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._look_s = look_s
        self._max_connections = max_connections
        self._looking: asyncio.TimerHandle | None = None
        self._listen = listen
        self._unix_mode = unix_mode
        self._bound = False
        application.on_response_prepare.append(_name_server)

        class Counted(AccessLogger):
            refused = RateLimitedLog(log)

        self._runner = web.AppRunner(
            application,
            access_log_class=Counted,
            access_log=log,
            auto_decompress=False,
            handle_signals=False,
            handler_cancellation=False,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=linger_s,
            logger=http_log,
            max_field_size=MAX_HEADER_LINE,
            max_line_size=MAX_HEADER_LINE,
            shutdown_timeout=SHUTDOWN_S,
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The TCP port in use; 0 for a unix socket."""
        address = self._runner.addresses[0]
        return int(address[1]) if isinstance(address, tuple) else 0

    async def start(self) -> None:
        """Listen.

        Raises:
            LocalError: the address cannot be listened on.
        """
        await self._runner.setup()
        try:
            if isinstance(self._listen, UnixListen):
                await web.SockSite(self._runner, _bind_unix(self._listen.path, self._unix_mode)).start()
                self._bound = True
            else:
                await web.TCPSite(self._runner, self._listen.host, self._listen.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise LocalError(f"cannot listen on {self._listen}: {error.strerror or error}") from error
        except BaseException:
            await self._runner.cleanup()
            raise
        self._bound_connections()
        log.info("listening on %s", self._listen if isinstance(self._listen, UnixListen) else f"port {self.port}")

    async def stop(self) -> None:
        """Let requests end for some seconds, then close everything; stopping again does nothing."""
        if self._looking is not None:
            self._looking.cancel()
        await self._runner.cleanup()
        if self._bound and isinstance(self._listen, UnixListen):
            self._bound = False
            _remove_socket(self._listen.path)

    def _bound_connections(self) -> None:
        """End the oldest connections where there are too many, as of clients that were stopped or do not read."""
        server = self._runner.server
        if self._max_connections is None or server is None:
            return
        if (too_many := len(server.connections) - self._max_connections) > 0:
            _SELDOM.warning(str(self._listen), "! too many connections to %s; the oldest are ended", self._listen)
            for each in server.connections[:too_many]:
                # Not closed in order: what is still to be sent may be taken by nobody.
                if each.transport is not None:
                    each.transport.abort()
        self._looking = asyncio.get_running_loop().call_later(self._look_s, self._bound_connections)


def _bind_unix(path: str, mode: int) -> socket.socket:
    """Bind a unix socket in place of one that an earlier run left; anything else of this name is left alone."""
    if _is_in_use(path):
        raise OSError(errno.EADDRINUSE, "another program listens there")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_socket(path)
        # Narrow from the start: between bind and a later chmod somebody else could connect.
        old = os.umask(0o777 & ~mode)
        try:
            listening.bind(path)
        finally:
            os.umask(old)
    except BaseException:
        listening.close()
        raise
    return listening


def _is_in_use(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def _remove_socket(path: str) -> None:
    try:
        if stat.S_ISSOCK(Path(path).lstat().st_mode):
            Path(path).unlink()
    except FileNotFoundError:
        pass


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    # Instead of the versions of Python and aiohttp.
    response.headers["Server"] = "mxrtc-bridge"
