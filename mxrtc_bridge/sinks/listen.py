"""Accepting local connections: the ``-L`` side of ``mxrtc connect``.

Connections beyond the limit are accepted and reset at once, so that their program learns of it now instead of waiting
in the backlog. When the process has no descriptor left, accepting pauses for a second. Closing the listener ends no
connection: those belong to whoever was given the sink.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.sinks.sockets import SocketSink, make_reset_on_close
from mxrtc_bridge.system import listen_alone

log = logging.getLogger(__name__)

DEFAULT_MAX_CONNECTIONS = 256
BACKLOG = 128
MAX_ADDRESSES = 8
"""Addresses that one name is bound to."""
EXHAUSTED_PAUSE_S = 1.0
"""How long accepting pauses when the process or the system is out of descriptors."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Accepted = Callable[[SocketSink], None]


def _cannot_listen(where: str, error: OSError) -> LocalError:
    remedies = {
        errno.EADDRINUSE: "another program listens there; stop it or choose another",
        errno.EACCES: "ports below 1024 need more rights; choose another",
        errno.EADDRNOTAVAIL: "this machine does not have that address; choose one of its own",
    }
    words = error.strerror or str(error)
    remedy = remedies.get(error.errno or 0, "choose another address or port")
    return LocalError(f"cannot listen on {where} ({words}): {remedy}")


class Listener:
    """Listening sockets, and the count of the connections that came through them.

    Made by :meth:`open_tcp`; accepts from then on.

    Args:
        sockets: bound and listening; they belong to the listener from now on.
        accepted: gets a sink for each connection, from the loop; must not raise.
        max_connections: how many may be open at the same time.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        accepted: Accepted,
        *,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        exhausted_pause_s: float = EXHAUSTED_PAUSE_S,
    ) -> None:
        self._exhausted_pause_s = exhausted_pause_s
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._accepted = accepted
        self._max_connections = max_connections
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._seldom = RateLimitedLog(log)
        self.connections = 0
        """Accepted connections that are still open."""
        self.refused = 0
        """Connections that were reset because there were too many."""
        self._watch()

    @classmethod
    async def open_tcp(
        cls, host: str | None, port: int, accepted: Accepted, *, max_connections: int = DEFAULT_MAX_CONNECTIONS
    ) -> Listener:
        """Listen on every address of ``host`` (None: all addresses of the machine).

        Args:
            host: a name or an address, for instance ``127.0.0.1``.
            port: 0 lets the system choose; see :attr:`port`.
            accepted: gets a sink for each connection.
            max_connections: how many may be open at the same time.

        Raises:
            LocalError: the name has no address, or one of them cannot be bound.
        """
        loop = asyncio.get_running_loop()
        where = f"{host or '*'} port {port}"
        try:
            answers = await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
            )
        except (socket.gaierror, UnicodeError) as error:
            raise LocalError(f"cannot listen on {where}: the name has no address; check its spelling") from error
        addresses = [(family, address) for family, _, _, _, address in answers[:MAX_ADDRESSES]]
        try:
            return cls(_bind_all(addresses, port), accepted, max_connections=max_connections)
        except OSError as error:
            raise _cannot_listen(where, error) from error

    @property
    def port(self) -> int:
        """The real TCP port."""
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop listening. Connections stay with their owners."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._unwatch()
        for sock in self._sockets:
            sock.close()

    def _watch(self) -> None:
        self._pause = None
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._acceptable, sock)

    def _unwatch(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())

    def _acceptable(self, listening: socket.socket) -> None:
        # As many as one backlog in one go, then the loop's other work.
        for _ in range(BACKLOG):
            try:
                sock, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_failed(error)
                return
            self._admit(sock)
            if self._closed:
                return

    def _accept_failed(self, error: OSError) -> None:
        if error.errno not in _EXHAUSTED:
            self._seldom.warning(
                error.errno or 0, "a connection could not be accepted: %s", os.strerror(error.errno or 0)
            )
            return
        self._seldom.warning(error.errno, "no connection can be accepted for now: %s", os.strerror(error.errno))
        # The connection stays in the backlog and the socket readable: without a pause the loop would spin.
        self._unwatch()
        self._pause = self._loop.call_later(self._exhausted_pause_s, self._watch)

    def _admit(self, sock: socket.socket) -> None:
        if self.connections >= self._max_connections:
            self.refused += 1
            make_reset_on_close(sock)
            sock.close()
            return
        self.connections += 1
        self._accepted(SocketSink(sock, released=self._released))

    def _released(self) -> None:
        self.connections -= 1


def _bind_all(addresses: Sequence[tuple[socket.AddressFamily, tuple[Any, ...]]], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            # All addresses get the port that the system chose for the first.
            chosen = port or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(_bind_tcp(family, (address[0], chosen, *address[2:])))
            except OSError as error:
                # "localhost" has an IPv6 address in many a hosts file whose machine has no IPv6.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                missing = error
        if not sockets and missing is not None:
            raise missing
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_tcp(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        listen_alone(sock)
        # Those that are accepted inherit it: there is no moment in which this process could die and leave an end.
        make_reset_on_close(sock)
        if family == socket.AF_INET6:
            # IPv4 has its own socket: a dual-stack one would collide with it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
