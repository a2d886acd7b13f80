"""Gets a relayed address from one address of a TURN server (RFC 8656), and says why there is none."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

from aioice import stun, turn

from mxrtc_bridge.core.webrtc.gathering_report import ServerOutcome
from mxrtc_bridge.rtc.datagrams import Address, GuardedStun
from mxrtc_bridge.rtc.ice_servers import TurnServer

SERVER_ERRORS = (OSError, ValueError, LookupError, stun.TransactionError, asyncio.IncompleteReadError)
"""What asking a server raises when it is the server, or the way to it, that is at fault."""

_OUTCOMES_OF_CODES = {
    401: ServerOutcome.CREDENTIALS,
    438: ServerOutcome.CREDENTIALS,
    441: ServerOutcome.CREDENTIALS,
    486: ServerOutcome.QUOTA,
    508: ServerOutcome.QUOTA,
}
"""RFC 8489 section 14.8, RFC 8656 section 19."""

_OUTCOMES_OF_KINDS: tuple[tuple[tuple[type[Exception], ...], ServerOutcome], ...] = (
    ((stun.TransactionTimeout, TimeoutError), ServerOutcome.TIMED_OUT),
    ((socket.gaierror, UnicodeError), ServerOutcome.NAME_UNKNOWN),
    ((ssl.SSLCertVerificationError,), ServerOutcome.CERTIFICATE),
    ((ConnectionRefusedError,), ServerOutcome.REFUSED),
)

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES})


async def allocate(server: TurnServer, address: Address, protocol: GuardedStun) -> None:
    """Give ``protocol`` a relayed socket.

    aioice's own function goes to the first address of a name only, and has no place for the name in the certificate.

    Args:
        server: how it is reached, and as whom.
        address: one of its addresses.
        protocol: gets what comes by the relay; its transport is open when this returns.

    Raises:
        Exception: one of :data:`SERVER_ERRORS`; nothing is left open.
    """
    loop = asyncio.get_running_loop()
    options = (server.username, server.credential, turn.DEFAULT_ALLOCATION_LIFETIME, turn.DEFAULT_CHANNEL_REFRESH_TIME)
    client: _TcpClient | _UdpClient
    transport: asyncio.BaseTransport
    if server.transport == "tcp":
        client = stream = _TcpClient(address, *options)
        name = server.host if server.tls else None
        transport, _ = await loop.create_connection(
            lambda: stream, *address, ssl=server.tls or None, server_hostname=name
        )
    else:
        client = datagrams = _UdpClient(address, *options)
        transport, _ = await loop.create_datagram_endpoint(lambda: datagrams, remote_addr=address)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, turn.UDP_SOCKET_BUFFER_SIZE)
    try:
        await client.unless_gone(turn.TurnTransport(client)._connect(protocol))
    except BaseException:
        transport.close()
        raise


class _Client(turn.TurnClientMixin):
    """Fails at once when the server is gone, where aioice's own repeats its question into the void."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def unless_gone(self, work: Coroutine[None, None, None]) -> None:
        """Do ``work``.

        Raises:
            ConnectionError: the server refuses or closes the connection before that is done.
        """
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if self._gone.done():
                self._gone.result()
            await task
        finally:
            self._gone.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.fail(exc if isinstance(exc, ConnectionError) else ConnectionAbortedError(errno.ECONNABORTED, "closed"))
        super().connection_lost(exc)

    def error_received(self, exc: Exception) -> None:
        """A datagram could not be delivered; other errors than a refusal may pass."""
        if isinstance(exc, ConnectionRefusedError):
            self.fail(exc)

    def fail(self, error: Exception) -> None:
        if not self._gone.done():
            self._gone.set_exception(error)


class _TcpClient(_Client, turn.TurnClientTcpProtocol):
    pass


class _UdpClient(_Client, turn.TurnClientUdpProtocol):
    pass


def outcome_of(error: BaseException) -> ServerOutcome:
    """What a failure means, for the report."""
    if isinstance(error, stun.TransactionFailed):
        return _OUTCOMES_OF_CODES.get(error.response.error_code or 0, ServerOutcome.FAILED)
    for kinds, outcome in _OUTCOMES_OF_KINDS:
        if isinstance(error, kinds):
            return outcome
    unreachable = isinstance(error, OSError) and error.errno in _UNREACHABLE
    return ServerOutcome.UNREACHABLE if unreachable else ServerOutcome.FAILED


def without_addresses(error: BaseException) -> str:
    """What is known about a failure, without what may hold an address."""
    if isinstance(error, stun.TransactionFailed):
        return f"error {error.response.error_code}"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or type(error).__name__}".lower().replace("_", " ").replace("tls", "TLS", 1)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__
